"""Independent check of what is kept: levels that exist, bytes, value and bound, one expert after another."""

import math

import numpy as np

from moe_passes.plan.decisions import ALL, MSB, NONE
from moe_passes.solve.residency.problem import Problem, Solution

NEAR = 1e-9
BISECTIONS = 100


def violations(problem: Problem, solution: Solution) -> list[str]:
    """Return everything that is wrong with a solution; empty if it is valid."""
    levels = solution.levels.tolist()
    if len(levels) != len(problem.whole_bytes) or not set(levels) <= {NONE, MSB, ALL}:
        return [f"{len(levels)} levels of {sorted(set(levels))}; valid: one of 0, 1, 2 an expert"]
    wrong, taken, value = [], 0, 0.0
    sizes = zip(problem.slice_bytes.tolist(), problem.whole_bytes.tolist(), strict=True)
    values = zip(problem.slice_value.tolist(), problem.whole_value.tolist(), strict=True)
    for expert, (level, size, worth) in enumerate(zip(levels, sizes, values, strict=True)):
        taken += (0, *size)[level]
        value += (0.0, *worth)[level]
        if level == MSB and size[0] == size[1]:
            wrong.append(f"expert {expert} is kept as a slice, and has none")
    if taken > problem.room_bytes and any(levels):
        wrong.append(f"{taken} bytes are kept in {problem.room_bytes}")
    if not math.isclose(value, solution.value, rel_tol=NEAR, abs_tol=NEAR):
        wrong.append(f"value {solution.value}, recomputed {value}")
    if not solution.greedy * (1 - NEAR) <= solution.value <= solution.upper_bound * (1 + NEAR):
        wrong.append("greedy ≤ value ≤ bound does not hold")
    proved = least_bound(problem)
    if not solution.upper_bound <= max(proved, solution.value) * (1 + NEAR) + NEAR:
        wrong.append(f"bound {solution.upper_bound}; the relaxation says {proved}")
    priced = _dual(problem, solution.price)[0]
    if not math.isclose(max(priced, solution.value), max(proved, solution.value), rel_tol=NEAR, abs_tol=NEAR):
        wrong.append(f"price {solution.price} of a byte gives the bound {priced}; the least is {proved}")
    return wrong


def least_bound(problem: Problem) -> float:
    """Return the bound of the relaxation from its dual: the least over λ ≥ 0 of λ·room + Σ max(0, v − λ·s).

    λ is the price of a byte. What all experts would take falls with it; the least is where it comes down to the room.
    """
    low, high = 0.0, float((problem.whole_value / problem.slice_bytes).max(initial=0.0)) + 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _dual(problem, middle)[1] > problem.room_bytes else (low, middle)
    return min(_dual(problem, low)[0], _dual(problem, high)[0])


def _dual(problem: Problem, price: float) -> tuple[float, int]:
    """Return the dual at a price of a byte, and the bytes that all experts would take."""
    nothing = np.zeros(len(problem.whole_bytes))
    sizes = np.stack([nothing, problem.slice_bytes, problem.whole_bytes])
    worth = np.stack([nothing, problem.slice_value, problem.whole_value]) - price * sizes
    best = worth.argmax(axis=0)[None]
    taken = np.take_along_axis(sizes, best, axis=0).sum()
    return price * max(0, problem.room_bytes) + float(np.take_along_axis(worth, best, axis=0).sum()), int(taken)
