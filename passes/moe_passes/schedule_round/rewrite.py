"""schedule-round on IR: reads `@round`, writes `start_ns` and `mode` on every task."""

from torch_mlir import ir

from moe_passes.dialects.module import append, drop_solver_records, only, set_attribute
from moe_passes.dialects.round import read_round
from moe_passes.instrumentation import solver_call
from moe_passes.schedule_round.check import violations
from moe_passes.schedule_round.problem import Answer, Budget, Problem, Schedule
from moe_passes.schedule_round.solve import solve
from moe_passes.workload import SolverRecord, Workload

NAME = "schedule-round"
CLOSE_ENOUGH = 1e-3
"""The search stops when the gap to the bound is at most this."""


def run(module: ir.Module, time_limit_seconds: float | None, workers: int = 1) -> None:
    """Schedule `@round`.

    Args:
        module: with lower-to-tasks done.
        time_limit_seconds: deterministic budget; None for the request's.
        workers: of CP-SAT.

    Raises:
        InputError: there is no round.
    """
    workload, round_ = only(module, Workload, NAME), read_round(module, NAME)
    limit = workload.time_limit_seconds if time_limit_seconds is None else time_limit_seconds
    with solver_call(NAME, "@round"):
        answer = solve(round_.problem, round_budget(limit, workload.seed, workers))
    schedule = checked(round_.problem, answer)
    drop_solver_records(module, NAME)
    for op in round_.buffer_ops:
        if "offset_bytes" in op.attributes:
            del op.attributes["offset_bytes"]
    for number, op in enumerate(round_.task_ops):
        set_attribute(op, "start_ns", schedule.starts[number])
        set_attribute(op, "mode", schedule.modes[number])
    instance = f"makespan of @round; best list rule: {answer.rule}"
    append(module, record(answer, schedule.makespan(round_.problem), instance, workload.seed))


def round_budget(seconds: float, seed: int, workers: int = 1) -> Budget:
    """Return the budget of a round: it need not be optimal to the nanosecond."""
    return Budget(seconds, seed, workers, CLOSE_ENOUGH)


def checked(problem: Problem, answer: Answer) -> Schedule:
    """Return the schedule of an answer after the independent check."""
    wrong = ["there is none"] if answer.schedule is None else violations(problem, answer.schedule)
    if answer.schedule is None or wrong:
        raise AssertionError(f"{NAME}: " + "; ".join(wrong[:5]))
    return answer.schedule


def record(answer: Answer, makespan: int, instance: str, seed: int) -> SolverRecord:
    """Say in seconds what the solver answered in nanoseconds."""
    return SolverRecord(
        pass_name=NAME,
        instance=instance,
        status=answer.status,
        objective=makespan * 1e-9,
        lower_bound=answer.lower_bound * 1e-9,
        greedy=(makespan if answer.greedy is None else answer.greedy) * 1e-9,
        seed=seed,
        unit="s",
    )
