"""allocate-staging: first fit in several orders; where none stays below the capacity, a canonical search, then CP-SAT.

Where there is no allocation, the answer names buffers that cannot be placed together (`conflict.py`), and another
method has proved that, too (`pairwise.py`).
"""

from bisect import insort
from collections.abc import Callable
from dataclasses import replace

from ortools.sat.python import cp_model

from moe_passes.plan.decisions import SolverRecord
from moe_passes.solve import cp_sat
from moe_passes.solve.allocation import pairwise
from moe_passes.solve.allocation.bound import lower_bound
from moe_passes.solve.allocation.canonical import search
from moe_passes.solve.allocation.conflict import clash, fullest_moment, irreducible
from moe_passes.solve.allocation.problem import Lifetime, Problem, Solution

ORDERS: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
    lambda b: (b.lower, -b.size),
    lambda b: (-(b.upper - b.lower), b.lower),
    lambda b: (-b.size, b.lower),
    lambda b: (-b.size * (b.upper - b.lower), b.lower),
)
"""First fit is tried by start, lifetime, size and area."""
MOST_CP_SAT_BUFFERS = 2000
STATES_PER_SECOND = 20_000
"""Of the canonical search: what turns a limit in seconds into states, so that it does not depend on the clock."""
CANONICAL_SHARE = 0.85
"""Of the limit; CP-SAT has the rest."""
CP_SAT_RATE = 0.05
"""CP-SAT's deterministic time per second of the limit, so that it lasts about as long on the clock."""
LEAST_CONFIRM_SECONDS = 5.0
"""That the second proof may take, where the limit is shorter."""
CONFLICT_STATES = 20_000
"""That a proof may take when buffers are left out of a conflict."""


def solve(problem: Problem, seed: int = 0, time_limit_seconds: float = 5.0) -> Solution:
    """Find offsets; deterministic for a seed.

    Args:
        problem: what to place.
        seed: of the searches.
        time_limit_seconds: budget of the searches, which are asked only where first fit exceeds the capacity: states of
            the canonical search, at a fixed rate, then CP-SAT's deterministic seconds.
    """
    alive = [n for n, buffer in enumerate(problem.buffers) if not buffer.is_empty]
    found = _solve(replace(problem, buffers=tuple(problem.buffers[n] for n in alive)), seed, time_limit_seconds)
    offsets = [buffer.fixed or 0 for buffer in problem.buffers]
    for number, offset in zip(alive, found.offsets, strict=True):
        offsets[number] = offset
    return replace(found, offsets=tuple(offsets), conflict=tuple(alive[n] for n in found.conflict))


def _solve(problem: Problem, seed: int, limit: float) -> Solution:
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
    if best_peak <= problem.capacity_bytes and not clash(problem):
        return Solution(tuple(best), best_peak, bound, greedy_peak, "optimal" if best_peak == bound else "feasible")
    found, status = _search(problem, bound, seed, limit)
    if found is not None:
        best, best_peak = found, peak(problem, found)
        status = "optimal" if best_peak == bound else "feasible"
    conflict = _conflict(problem, seed) if status == "infeasible" else ()
    if status == "infeasible" and not _is_confirmed(problem, conflict, seed, limit):
        status = "unknown"
    return Solution(tuple(best), best_peak, bound, greedy_peak, status, conflict)


def _is_confirmed(problem: Problem, conflict: tuple[int, ...], seed: int, limit: float) -> bool:
    """Say whether another method proves, too, that these buffers cannot be placed together."""
    part = replace(problem, buffers=tuple(problem.buffers[n] for n in conflict))
    return pairwise.is_infeasible(part, seed, CP_SAT_RATE * max(limit, LEAST_CONFIRM_SECONDS))


def record(solution: Solution, seed: int) -> SolverRecord:
    """Say what is known of an allocation."""
    return SolverRecord(
        pass_name="allocate-staging",
        instance="peak of staging",
        status=solution.status,
        objective=float(solution.peak_bytes),
        lower_bound=float(solution.lower_bound_bytes),
        greedy=float(solution.greedy_bytes),
        seed=seed,
        unit="bytes",
    )


def _search(problem: Problem, bound: int, seed: int, limit: float) -> tuple[list[int] | None, str]:
    """Ask the canonical search, then CP-SAT; returns offsets, or None and whether there are none."""
    if bound > problem.capacity_bytes or clash(problem):
        return None, "infeasible"
    asked = 0.0
    if all(buffer.fixed is None for buffer in problem.buffers):
        asked = limit * CANONICAL_SHARE
        outcome = search(problem, seed, int(asked * STATES_PER_SECOND))
        if outcome.offsets is not None or outcome.is_complete:
            return outcome.offsets, "infeasible"
    if len(problem.buffers) > MOST_CP_SAT_BUFFERS:
        return None, "unknown"
    return _cp_sat(problem, seed, CP_SAT_RATE * (limit - asked))


def _conflict(problem: Problem, seed: int) -> tuple[int, ...]:
    suspects = clash(problem) or fullest_moment(problem) or tuple(range(len(problem.buffers)))
    return irreducible(problem, suspects, lambda smaller: _is_infeasible(smaller, seed))


def _is_infeasible(problem: Problem, seed: int) -> bool:
    """Try to prove that there is no allocation."""
    limit = CONFLICT_STATES / STATES_PER_SECOND
    found, status = _search(problem, lower_bound(problem), seed, limit)
    return found is None and status == "infeasible"


def peak(problem: Problem, offsets: list[int]) -> int:
    """Return the largest end address."""
    return max((o + b.size for o, b in zip(offsets, problem.buffers, strict=True)), default=0)


def first_fit(problem: Problem, order: Callable[[Lifetime], tuple[int, ...]]) -> list[int]:
    """Place buffers one by one, each at the lowest aligned address that is free for all of its lifetime."""
    offsets = [0] * len(problem.buffers)
    placed: list[tuple[int, int, int]] = []
    for index, buffer in enumerate(problem.buffers):
        if buffer.fixed is not None:
            offsets[index] = buffer.fixed
            insort(placed, (buffer.fixed, buffer.fixed + buffer.size, index))
    free = [n for n, buffer in enumerate(problem.buffers) if buffer.fixed is None]
    for index in sorted(free, key=lambda n: (*order(problem.buffers[n]), n)):
        buffer, address = problem.buffers[index], 0
        alignment = problem.alignment(buffer)
        for offset, end, other in placed:
            beside = problem.buffers[other]
            if not buffer.overlaps(beside):
                continue
            if offset >= address + buffer.size:
                break
            if end > address:
                address = -(-end // alignment) * alignment
        offsets[index] = address
        insort(placed, (address, address + buffer.size, index))
    return offsets


def _cp_sat(problem: Problem, seed: int, limit: float) -> tuple[list[int] | None, str]:
    """Ask CP-SAT for any allocation below the capacity: rectangles that do not overlap."""
    model = cp_model.CpModel()
    lines, times, variables = [], [], []
    for number, buffer in enumerate(problem.buffers):
        unit = problem.alignment(buffer)
        most = (problem.capacity_bytes - buffer.size) // unit
        variable = model.new_int_var(0, most, f"o{number}")
        if buffer.fixed is not None:
            model.add(variable * unit == buffer.fixed)
        start = variable * unit
        lines.append(model.new_fixed_size_interval_var(start, buffer.size, f"a{number}"))
        times.append(model.new_fixed_size_interval_var(buffer.lower, buffer.upper - buffer.lower, f"t{number}"))
        variables.append(variable)
    model.add_no_overlap_2d(times, lines)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % 2**31
    solver.parameters.max_deterministic_time = limit
    status = cp_sat.run(solver, model)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        pairs = zip(variables, problem.buffers, strict=True)
        return [solver.value(variable) * problem.alignment(buffer) for variable, buffer in pairs], "feasible"
    return None, "infeasible" if status == cp_model.INFEASIBLE else "unknown"
