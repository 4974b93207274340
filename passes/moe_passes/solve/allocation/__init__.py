"""Addresses in staging: `solve` gives every buffer one, `violations` checks them."""

from moe_passes.solve.allocation.check import violations
from moe_passes.solve.allocation.problem import Lifetime, Problem, Solution
from moe_passes.solve.allocation.solver import solve

__all__ = ["Lifetime", "Problem", "Solution", "solve", "violations"]
