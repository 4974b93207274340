"""Which experts HB keeps, in how many bits, and the draft length."""
