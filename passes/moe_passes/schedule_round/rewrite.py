"""schedule-round on IR: reads `@round`, writes `start_ns` and `mode` on every task."""

from torch_mlir import ir

from moe_passes.dialects.module import append, drop_solver_records, only, set_attribute
from moe_passes.dialects.round import read_round
from moe_passes.instrumentation import solver_call
from moe_passes.schedule_round.check import violations
from moe_passes.schedule_round.problem import Solution
from moe_passes.schedule_round.solve import solve
from moe_passes.workload import SolverRecord, Workload

NAME = "schedule-round"


def run(module: ir.Module, time_limit_seconds: float | None) -> None:
    """Schedule `@round`.

    Args:
        module: with lower-to-tasks done.
        time_limit_seconds: deterministic budget; None for the request's.

    Raises:
        InputError: there is no round.
    """
    workload, round_ = only(module, Workload, NAME), read_round(module, NAME)
    limit = workload.time_limit_seconds if time_limit_seconds is None else time_limit_seconds
    with solver_call(NAME, "@round"):
        solution = solve(round_.problem, workload.seed, limit)
    wrong = violations(round_.problem, solution.schedule)
    if wrong:
        raise AssertionError(f"{NAME}: " + "; ".join(wrong[:5]))
    drop_solver_records(module, NAME)
    for op in round_.buffer_ops:
        if "offset_bytes" in op.attributes:
            del op.attributes["offset_bytes"]
    for number, op in enumerate(round_.task_ops):
        set_attribute(op, "start_ns", solution.schedule.starts[number])
        set_attribute(op, "mode", solution.schedule.modes[number])
    append(module, record(solution, f"makespan of @round; best list rule: {solution.rule}", workload.seed))


def record(solution: Solution, instance: str, seed: int) -> SolverRecord:
    """Say in seconds what the solver answered in nanoseconds."""
    return SolverRecord(
        pass_name=NAME,
        instance=instance,
        status=solution.status,
        objective=solution.makespan * 1e-9,
        lower_bound=solution.lower_bound * 1e-9,
        greedy=solution.greedy * 1e-9,
        seed=seed,
        unit="s",
    )
