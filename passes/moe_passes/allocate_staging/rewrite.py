"""allocate-staging on IR: reads the schedule of `@round`, writes `offset_bytes` on every buffer."""

from torch_mlir import ir

from moe_passes.allocate_staging.check import violations
from moe_passes.allocate_staging.problem import Lifetime, Problem
from moe_passes.allocate_staging.solve import solve
from moe_passes.dialects.module import append, drop_solver_records, only, set_attribute
from moe_passes.dialects.round import Round, read_round
from moe_passes.errors import infeasible
from moe_passes.instrumentation import solver_call
from moe_passes.workload import SolverRecord, Workload

NAME = "allocate-staging"


def run(module: ir.Module) -> None:
    """Allocate staging.

    Raises:
        InputError: schedule-round has not run.
        InfeasibleError: no allocation was found.
    """
    workload, round_ = only(module, Workload, NAME), read_round(module, NAME)
    if not round_.buffer_ops:
        return
    problem = lifetimes(round_, NAME)
    with solver_call(NAME, "peak of staging"):
        solution = solve(problem, workload.seed)
    if solution.status in ("infeasible", "unknown"):
        raise infeasible(
            f"the schedule's staged slices ({solution.lower_bound_bytes:,} bytes alive at once, fragmented)",
            "hb (staging)",
            solution.peak_bytes,
            problem.capacity_bytes,
            ["a larger memories.hb.staging_gb", "a smaller --batch or --draft-length"],
        )
    wrong = violations(problem, solution.offsets)
    if wrong:
        raise AssertionError(f"{NAME}: " + "; ".join(wrong[:5]))
    drop_solver_records(module, NAME)
    for op, offset in zip(round_.buffer_ops, solution.offsets, strict=True):
        set_attribute(op, "offset_bytes", offset)
    record = SolverRecord(
        pass_name=NAME,
        instance="peak of staging",
        status=solution.status,
        objective=float(solution.peak_bytes),
        lower_bound=float(solution.lower_bound_bytes),
        greedy=float(solution.greedy_bytes),
        seed=workload.seed,
        unit="bytes",
    )
    append(module, record)


def lifetimes(round_: Round, needed_by: str) -> Problem:
    """Turn the schedule's buffers into lifetimes.

    Raises:
        InputError: schedule-round has not run.
    """
    schedule, problem = round_.schedule(needed_by), round_.problem
    buffers = tuple(
        Lifetime(schedule.starts[b.first], schedule.end(problem, b.last), b.amount) for b in problem.buffers
    )
    capacity = problem.capacities[problem.buffers[0].resource] if problem.buffers else 0
    return Problem(capacity, buffers)
