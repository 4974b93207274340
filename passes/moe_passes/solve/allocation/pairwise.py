"""The problem once more, pair by pair: of two buffers that are alive together, one lies below the other.

A second opinion on proofs that there is no allocation: linear constraints and Boolean variables alone, where the
canonical search and CP-SAT's rectangles (`solver.py`) have propagators of their own.
"""

from ortools.sat.python import cp_model

from moe_passes.solve import cp_sat
from moe_passes.solve.allocation.problem import Problem

MOST_PAIRS = 20_000
"""Beyond, there is no second opinion."""


def is_infeasible(problem: Problem, seed: int, deterministic_seconds: float) -> bool:
    """Say whether it is proved that there is no allocation."""
    buffers = problem.buffers
    pairs = [(m, n) for n in range(len(buffers)) for m in range(n) if buffers[m].overlaps(buffers[n])]
    if len(pairs) > MOST_PAIRS:
        return False
    model = cp_model.CpModel()
    offsets = []
    for buffer in buffers:
        unit = problem.alignment(buffer)
        variable = model.new_int_var(0, (problem.capacity_bytes - buffer.size) // unit, "")
        if buffer.fixed is not None:
            model.add(variable * unit == buffer.fixed)
        offsets.append(variable * unit)
    for m, n in pairs:
        is_below = model.new_bool_var("")
        model.add(offsets[m] + buffers[m].size <= offsets[n]).only_enforce_if(is_below)
        model.add(offsets[n] + buffers[n].size <= offsets[m]).only_enforce_if(~is_below)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % 2**31
    solver.parameters.max_deterministic_time = deterministic_seconds
    solver.parameters.presolve_inclusion_work_limit = 0
    return bool(cp_sat.run(solver, model) == cp_model.INFEASIBLE)
