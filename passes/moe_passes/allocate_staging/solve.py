"""allocate-staging: first fit in several orders; CP-SAT where none of them stays below the capacity."""

from bisect import insort
from collections.abc import Callable

from ortools.sat.python import cp_model

from moe_passes.allocate_staging.bound import lower_bound
from moe_passes.allocate_staging.problem import Lifetime, Problem, Solution

ORDERS: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
    lambda b: (b.lower, -b.size),
    lambda b: (-(b.upper - b.lower), b.lower),
    lambda b: (-b.size, b.lower),
    lambda b: (-b.size * (b.upper - b.lower), b.lower),
)
"""First fit is tried by start, lifetime, size and area."""
MOST_CP_SAT_BUFFERS = 2000


def solve(problem: Problem, seed: int = 0, time_limit_seconds: float = 5.0) -> Solution:
    """Find offsets; deterministic for a seed.

    Args:
        problem: what to place.
        seed: CP-SAT's.
        time_limit_seconds: deterministic budget of CP-SAT, which is asked only where first fit exceeds the capacity.
    """
    bound = lower_bound(problem)
    greedy = first_fit(problem, ORDERS[0])
    best, best_peak = greedy, peak(problem, greedy)
    greedy_peak = best_peak
    for order in ORDERS[1:]:
        if best_peak == bound:
            break
        offsets = first_fit(problem, order)
        if peak(problem, offsets) < best_peak:
            best, best_peak = offsets, peak(problem, offsets)
    if best_peak > problem.capacity_bytes >= bound and len(problem.buffers) <= MOST_CP_SAT_BUFFERS:
        found = _search(problem, seed, time_limit_seconds)
        if found is not None:
            best, best_peak = found, peak(problem, found)
    status = "optimal" if best_peak == bound else "feasible"
    if best_peak > problem.capacity_bytes:
        status = "infeasible"
    return Solution(tuple(best), best_peak, bound, greedy_peak, status)


def peak(problem: Problem, offsets: list[int]) -> int:
    """Return the largest end address."""
    return max((o + b.size for o, b in zip(offsets, problem.buffers, strict=True)), default=0)


def first_fit(problem: Problem, order: Callable[[Lifetime], tuple[int, ...]]) -> list[int]:
    """Place buffers one by one, each at the lowest aligned address that is free for all of its lifetime."""
    offsets = [0] * len(problem.buffers)
    placed: list[tuple[int, int, int]] = []
    for index in sorted(range(len(problem.buffers)), key=lambda n: (*order(problem.buffers[n]), n)):
        buffer, address = problem.buffers[index], 0
        for offset, end, other in placed:
            beside = problem.buffers[other]
            if beside.lower >= buffer.upper or buffer.lower >= beside.upper:
                continue
            if offset >= address + buffer.size:
                break
            if end > address:
                address = -(-end // problem.alignment_bytes) * problem.alignment_bytes
        offsets[index] = address
        insort(placed, (address, address + buffer.size, index))
    return offsets


def _search(problem: Problem, seed: int, limit: float) -> list[int] | None:
    """Ask CP-SAT for any allocation below the capacity: rectangles that do not overlap."""
    model = cp_model.CpModel()
    unit = problem.alignment_bytes
    lines, times, variables = [], [], []
    for number, buffer in enumerate(problem.buffers):
        size = -(-buffer.size // unit)
        start = model.new_int_var(0, max(0, (problem.capacity_bytes - buffer.size) // unit), f"o{number}")
        lines.append(model.new_fixed_size_interval_var(start, size, f"a{number}"))
        times.append(model.new_fixed_size_interval_var(buffer.lower, buffer.upper - buffer.lower, f"t{number}"))
        variables.append(start)
    model.add_no_overlap_2d(times, lines)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = limit
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return [solver.value(v) * unit for v in variables]
