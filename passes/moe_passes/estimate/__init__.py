"""What a machine takes for a piece of work, and what fits it: the cost model and everything that asks it directly."""
