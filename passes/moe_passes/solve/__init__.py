"""The decisions, on plain arrays: each folder holds problem, bound, solve, check and its methods."""
