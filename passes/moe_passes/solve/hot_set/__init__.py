"""The hot set: which experts a round takes in, and which residents give way."""
