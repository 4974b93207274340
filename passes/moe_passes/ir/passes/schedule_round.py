"""schedule-round: when every task of the round runs, and in which mode."""

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from moe_passes.instrumentation import solver_call
from moe_passes.ir.base import Context, Pass, option
from moe_passes.ir.module import only, write_records
from moe_passes.ir.round import read_round, reopen, write_schedule
from moe_passes.ir.states import Addressed, Scheduled, Steady, Tasks
from moe_passes.plan.request import WORKERS, Request, check_seconds
from moe_passes.solve.rcpsp.solver import checked, record, round_budget, solve


@dataclass(frozen=True)
class ScheduleRound(Pass):
    """Choose start times and modes: list scheduling, justification, CP-SAT windows, with a proved bound."""

    name: ClassVar = "schedule-round"
    needs: ClassVar = (Tasks,)
    gives: ClassVar = (Scheduled,)
    drops: ClassVar = (Addressed, Steady)
    again: ClassVar = True

    time_limit: float | None = option(
        None, "seconds from 0 to 1e6", "deterministic solver seconds; default: the request's"
    )
    workers: int = option(1, f"an integer from {WORKERS.low} to {WORKERS.high}", "workers of CP-SAT; default: 1")

    def __post_init__(self) -> None:
        if self.time_limit is not None:
            check_seconds(f"{self.name}: option time-limit =", self.time_limit)
        WORKERS.check(f"{self.name}: option workers =", self.workers)

    def run(self, module: ir.Module, context: Context) -> None:
        """Schedule `@round`; what rested on an earlier schedule is open again."""
        request, round_ = only(module, Request, self.name), read_round(module, self.name)
        limit = request.time_limit_seconds if self.time_limit is None else self.time_limit
        with solver_call(self.name, "@round"):
            answer = solve(round_.problem, round_budget(limit, request.seed, self.workers))
        schedule = checked(round_.problem, answer)
        reopen(module)
        write_schedule(round_, schedule)
        instance = f"makespan of @round; best list rule: {answer.rule}"
        write_records(module, self.name, [record(answer, schedule.makespan(round_.problem), instance, request.seed)])
