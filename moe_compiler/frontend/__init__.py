"""Hugging Face model → torch dialect, on the `meta` device: no weights are needed to compile."""
