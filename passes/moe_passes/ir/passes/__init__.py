"""The passes: each reads values off the IR, asks a solver, checks the answer, and writes it."""
