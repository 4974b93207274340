"""Where resident experts lie."""
