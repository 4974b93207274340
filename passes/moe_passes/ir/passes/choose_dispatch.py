"""choose-dispatch: what the dispatcher loads before it is asked to, in which order, on which engine."""

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from moe_passes.ir.base import Context, Pass
from moe_passes.ir.module import expert_stores, only, write_dispatch_plan, write_needed
from moe_passes.ir.states import Dispatched, Drafted, Phases, Placed
from moe_passes.ir.static import read_plan
from moe_passes.plan.place import parse_place
from moe_passes.plan.request import Request
from moe_passes.tasks.dispatching import with_dispatch


@dataclass(frozen=True)
class ChooseDispatch(Pass):
    """Choose the dispatcher's plan on training rounds."""

    name: ClassVar = "choose-dispatch"
    needs: ClassVar = (Phases, Drafted, Placed)
    gives: ClassVar = (Dispatched,)

    def run(self, module: ir.Module, context: Context) -> None:
        """Decide the plan, and note how often verify needed each expert."""
        asked = only(module, Request, self.name).place
        place = parse_place(asked) if asked else None
        plan = with_dispatch(read_plan(module, self.name), context.trace(module), context.cost(module), place)
        write_dispatch_plan(module, plan.dispatch)
        for store, layer in zip(expert_stores(module, self.name), plan.layers, strict=True):
            write_needed(store, layer.needed_permille)
