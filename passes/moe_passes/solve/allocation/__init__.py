"""Addresses in staging."""
