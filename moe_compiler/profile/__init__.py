"""Routing traces."""
