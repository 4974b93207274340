"""Fill the near memory by value a byte, as the linear relaxation does, and round down.

The relaxation takes steps of falling value a byte: from nothing to the slice, from the slice to the whole; where the
second step is worth as much a byte as the first, both are one. What it takes last, it takes in part; left out, that is
all that an answer lacks of the bound, and what room is left takes the most valuable step that fits. Experts are many
and of few sizes, so the answer is within one expert of the bound.
"""

import numpy as np
import numpy.typing as npt

from moe_passes.plan.accounts import splits
from moe_passes.plan.decisions import ALL, MSB, NONE, SolverRecord
from moe_passes.solve.residency.problem import FloatArray, IntArray, Problem, Solution


def solve(problem: Problem) -> Solution:
    """Return what to keep: at least as valuable as greedy, at most one step below the bound; deterministic."""
    steps = _Steps(problem)
    levels, bound, price = steps.fill(problem.room_bytes)
    greedy = _whole_experts(problem)
    found = max((levels, greedy), key=lambda chosen: value_of(problem, chosen))
    value = value_of(problem, found)
    return Solution(found, value, max(bound, value), value_of(problem, greedy), price)


def value_of(problem: Problem, levels: IntArray) -> float:
    """Return the value of what is kept."""
    return float(np.where(levels == ALL, problem.whole_value, np.where(levels == MSB, problem.slice_value, 0.0)).sum())


def record(problem: Problem, solution: Solution, seed: int, unit: str = "s") -> SolverRecord:
    """Say what is known of a solution, as what it lacks of keeping every expert whole.

    Args:
        problem: that was solved.
        solution: to it.
        seed: of the pass.
        unit: of values: seconds of loads a round, or `points` where they weigh what drafts find near far more.
    """
    most = float(problem.whole_value.sum())
    return SolverRecord(
        pass_name="select-draft",
        instance="what HB keeps of experts, by what of loads it does not save and drafts do not find near",
        status="optimal" if solution.value >= solution.upper_bound else "feasible",
        objective=most - solution.value,
        lower_bound=most - solution.upper_bound,
        greedy=most - solution.greedy,
        seed=seed,
        unit=unit,
    )


def _whole_experts(problem: Problem) -> IntArray:
    order = np.argsort(-problem.whole_value / problem.whole_bytes, kind="stable")
    kept = order[np.cumsum(problem.whole_bytes[order]) <= problem.room_bytes]
    levels = np.full(len(order), NONE, dtype=np.int64)
    levels[kept] = ALL
    return levels


class _Steps:
    """Steps from one level of an expert to a higher one, the most valuable a byte first.

    Attributes:
        expert: of each step.
        start: level before it.
        end: level after it.
        size: bytes.
        value: of it.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, count = problem, len(problem.whole_bytes)
        rest_bytes, rest_value = problem.whole_bytes - problem.slice_bytes, problem.whole_value - problem.slice_value
        is_split = splits(problem.slice_value, problem.slice_bytes, problem.whole_value, problem.whole_bytes)
        every = np.arange(count)
        split, whole = every[is_split], every[~is_split]
        self.expert = np.concatenate([split, whole, split])
        self.start = np.repeat([NONE, NONE, MSB], [len(split), len(whole), len(split)])
        self.end = np.repeat([MSB, ALL, ALL], [len(split), len(whole), len(split)])
        self.size = np.concatenate([problem.slice_bytes[split], problem.whole_bytes[whole], rest_bytes[split]])
        self.value = np.concatenate([problem.slice_value[split], problem.whole_value[whole], rest_value[split]])
        order = np.argsort(-self.value / self.size, kind="stable")
        for name in ("expert", "start", "end", "size", "value"):
            setattr(self, name, getattr(self, name)[order])

    def fill(self, room: int) -> tuple[IntArray, float, float]:
        """Return what fits, the bound, and the value a byte of the step that does not fit whole."""
        levels = np.full(len(self.problem.whole_bytes), NONE, dtype=np.int64)
        ends = np.cumsum(self.size)
        taken = int(np.searchsorted(ends, max(0, room), side="right"))
        np.maximum.at(levels, self.expert[:taken], self.end[:taken])
        left = max(0, room) - (int(ends[taken - 1]) if taken else 0)
        bound, price = float(self.value[:taken].sum()), 0.0
        if taken < len(self.size):
            price = float(self.value[taken]) / float(self.size[taken])
            bound += price * left
        return self._top_up(levels, left), bound, price

    def _top_up(self, levels: IntArray, left: int) -> IntArray:
        """Use up what is left with the most valuable steps that fit, the slice of an expert alone among them."""
        problem = self.problem
        while True:
            sizes, values = self._next(levels)
            fits = (sizes > 0) & (sizes <= left) & (values > 0)
            if not fits.any():
                return levels
            expert = int(np.argmax(np.where(fits, values, -1.0)))
            left -= int(sizes[expert])
            is_whole = levels[expert] == MSB or problem.slice_bytes[expert] == problem.whole_bytes[expert]
            levels[expert] = ALL if is_whole else MSB

    def _next(self, levels: IntArray) -> tuple[IntArray, FloatArray]:
        """Return size and value of the step from each expert's level to the next; of size 0 where there is none."""
        problem = self.problem
        at_slice: npt.NDArray[np.bool_] = levels == MSB
        sizes = np.where(at_slice, problem.whole_bytes - problem.slice_bytes, problem.slice_bytes)
        values = np.where(at_slice, problem.whole_value - problem.slice_value, problem.slice_value)
        return np.where(levels == ALL, 0, sizes), values
