"""Torch dialect to moe dialect."""
