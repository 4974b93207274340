"""Hardware files."""
