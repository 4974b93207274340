"""Energy, roofline, held-out rounds."""
