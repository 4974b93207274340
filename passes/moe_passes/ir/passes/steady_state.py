"""steady-state: what of the next round is loaded in the tail of this one."""

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from moe_passes.ir.base import Context, Pass
from moe_passes.ir.module import solver_records
from moe_passes.ir.round import read_round, write_steady
from moe_passes.ir.states import Addressed, Scheduled, Steady, Tasks
from moe_passes.plan.errors import InputError
from moe_passes.solve.rcpsp.bound import lower_bound
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.steady_state.solver import addressed, may_cross, steady_state


@dataclass(frozen=True)
class SteadyState(Pass):
    """Choose which sure loads of the next round run in the tail of this one, and the period of rounds."""

    name: ClassVar = "steady-state"
    needs: ClassVar = (Tasks, Scheduled, Addressed)
    gives: ClassVar = (Steady,)
    again: ClassVar = True

    def run(self, module: ir.Module, context: Context) -> None:
        """Decide the steady state.

        Raises:
            InputError: the round holds no attention.
        """
        round_ = read_round(module, self.name)
        schedule, problem = round_.schedule(self.name), round_.problem
        wrong = violations(problem, schedule)
        if wrong:
            raise InputError(f"{self.name}: the schedule of @round is wrong: {wrong[0]}; run schedule-round again")
        if not any(work.kind == "attention" for work in round_.work):
            raise InputError(f"{self.name}: @round holds no attention task, so it has no tail")
        ahead, after = may_cross(problem, round_.work)
        told = [int(r.lower_bound * 1e9) for r in solver_records(module) if r.pass_name == "schedule-round"]
        bound = min(max([lower_bound(problem) if not told else 0, *told]), schedule.makespan(problem))
        steady = steady_state(problem, ahead, after, schedule, bound)
        write_steady(module, round_, addressed(problem, steady, schedule, round_.offsets(self.name)))
