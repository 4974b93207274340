"""verify-plan: the independent check of a complete plan; it changes nothing."""

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from moe_passes.ir.base import Context, Pass
from moe_passes.ir.module import dispatch_plan, only, placed_layers, solver_records
from moe_passes.ir.phases import DRAFT, VERIFY, read_phase
from moe_passes.ir.round import read_round
from moe_passes.ir.states import Addressed, Dispatched, Drafted, Phases, Placed, Scheduled, Steady, Tasks
from moe_passes.plan.decisions import DraftPlan
from moe_passes.plan.errors import WrongPlanError
from moe_passes.plan.model import ModelShape
from moe_passes.plan.request import Request
from moe_passes.verify.check import violations
from moe_passes.verify.plan import Plan

MOST_SHOWN = 10


@dataclass(frozen=True)
class VerifyPlan(Pass):
    """Check the complete plan independently."""

    name: ClassVar = "verify-plan"
    needs: ClassVar = (Phases, Drafted, Placed, Dispatched, Tasks, Scheduled, Addressed, Steady)
    again: ClassVar = True

    def run(self, module: ir.Module, context: Context) -> None:
        """Check the plan.

        Raises:
            WrongPlanError: the plan is wrong.
        """
        solver_records(module)
        wrong = violations(self.read(module, context))
        if wrong:
            more = [f"and {len(wrong) - MOST_SHOWN} more"] if len(wrong) > MOST_SHOWN else []
            raise WrongPlanError("\n  ".join([f"{self.name}: the plan is wrong:", *wrong[:MOST_SHOWN], *more]))

    def read(self, module: ir.Module, context: Context) -> Plan:
        """Read the whole plan.

        Raises:
            InputError: a part of it is missing.
        """
        round_, dispatch = read_round(module, self.name), dispatch_plan(module)
        assert dispatch is not None
        return Plan(
            prices=context.cost(module),
            model=only(module, ModelShape, self.name),
            request=only(module, Request, self.name),
            draft=only(module, DraftPlan, self.name),
            dispatch=dispatch,
            draft_phase=read_phase(module, DRAFT, self.name),
            verify_phase=read_phase(module, VERIFY, self.name),
            layers=placed_layers(module, self.name),
            routing=round_.routing,
            names=round_.problem.names,
            capacities=round_.problem.capacities,
            tasks=round_.problem.tasks,
            work=round_.work,
            buffers=round_.problem.buffers,
            schedule=round_.schedule(self.name),
            offsets=tuple(round_.offsets(self.name)),
            steady=round_.steady,
        )
