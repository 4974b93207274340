"""When every task of a round runs."""
