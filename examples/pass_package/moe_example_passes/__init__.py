"""A pass and a cost model from outside `moe-passes`."""
