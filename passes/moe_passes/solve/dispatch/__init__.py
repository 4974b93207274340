"""Dispatch policy: `solve` chooses what is loaded ahead, in which order, on which engine; `dispatch` runs by it."""

from moe_passes.solve.dispatch.online import Dispatched, dispatch
from moe_passes.solve.dispatch.problem import Guess, Unknown
from moe_passes.solve.dispatch.solver import Abilities, mean_makespan, nothing_ahead, solve

__all__ = ["Abilities", "Dispatched", "Guess", "Unknown", "dispatch", "mean_makespan", "nothing_ahead", "solve"]
