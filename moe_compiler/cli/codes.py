"""Exit codes of `moec`; 0 is done, 1 is click's for a reader of stdout that went away."""

EXIT_INPUT = 2
EXIT_INFEASIBLE = 3
EXIT_UNKNOWN = 4
EXIT_FAILED = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
