"""Dispatch policy: what is loaded before it is asked for, in which order, on which engine."""
