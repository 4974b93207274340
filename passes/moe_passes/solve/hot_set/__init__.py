"""Promotion: which experts the next hot set takes in, and which residents give way."""
