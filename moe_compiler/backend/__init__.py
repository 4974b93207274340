"""The output files."""
