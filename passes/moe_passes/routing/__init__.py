"""Routing traces, the rounds that are cut from them, and how likely an expert is to be needed."""
