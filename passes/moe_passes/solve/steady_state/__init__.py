"""Steady state: what of the next round is loaded in the tail of this one."""
