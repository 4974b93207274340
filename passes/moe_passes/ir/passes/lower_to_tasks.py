"""lower-to-tasks: one training round as a scheduling problem in the sched dialect."""

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from moe_passes.ir.base import Context, Pass
from moe_passes.ir.round import write_round
from moe_passes.ir.states import Dispatched, Drafted, Phases, Placed, Tasks
from moe_passes.ir.static import read_plan
from moe_passes.tasks.build import build
from moe_passes.tasks.rounds import TRAINING_ROUNDS, representative, take_rounds


@dataclass(frozen=True)
class LowerToTasks(Pass):
    """Build a representative training round as tasks, read off the dataflow of the phases."""

    name: ClassVar = "lower-to-tasks"
    needs: ClassVar = (Phases, Drafted, Placed, Dispatched)
    gives: ClassVar = (Tasks,)

    def run(self, module: ir.Module, context: Context) -> None:
        """Add `@round`.

        Raises:
            InputError: the phases make no sense, or an expert is larger than staging.
        """
        plan = read_plan(module, self.name)
        routing = representative(take_rounds(context.trace(module), plan, "train", TRAINING_ROUNDS), plan)
        graph = build(plan, routing, context.cost(module))
        write_round(module, graph, routing, [layer.shape for layer in plan.layers])
