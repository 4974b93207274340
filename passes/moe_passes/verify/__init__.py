"""The independent checker of a whole plan: it knows plan/ alone."""
