"""Where resident experts lie: `solve` places them in banks, `violations` checks a placement."""

from moe_passes.solve.placement.check import violations
from moe_passes.solve.placement.problem import Layer, Placement, Problem, Rates, Solution
from moe_passes.solve.placement.solver import solve
from moe_passes.solve.placement.step_time import chosen_replicas

__all__ = ["Layer", "Placement", "Problem", "Rates", "Solution", "chosen_replicas", "solve", "violations"]
