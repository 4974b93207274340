"""Which experts are kept near, in how many bits, and the draft length: `solve` chooses, `violations` checks."""

from moe_passes.solve.draft.check import violations
from moe_passes.solve.draft.problem import Candidate, Choice, Problem, Rates, Setting, Slice, Solution
from moe_passes.solve.draft.solver import Search, solve

__all__ = [
    "Candidate",
    "Choice",
    "Problem",
    "Rates",
    "Search",
    "Setting",
    "Slice",
    "Solution",
    "solve",
    "violations",
]
