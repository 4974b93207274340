"""Replica dispatch: which replica of an expert serves a step."""
