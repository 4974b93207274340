"""How much of each expert the near memory keeps: a multiple-choice knapsack."""
