"""raise-moe: torch dialect → moe dialect."""

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from moe_passes.ir.base import Context, Pass
from moe_passes.ir.module import append, find, function, only
from moe_passes.ir.phases import DRAFT, VERIFY
from moe_passes.ir.raising import DYNAMIC_WIDTH, Raiser, check_complete, expert_layers, segment, unfold
from moe_passes.ir.states import Experts, Phases, Traced
from moe_passes.plan.model import ModelShape, TracedLayers
from moe_passes.plan.request import Request


@dataclass(frozen=True)
class RaiseMoe(Pass):
    """Recognise routers, experts, attention and dense parts in a traced decoder."""

    name: ClassVar = "raise-moe"
    needs: ClassVar = (Traced,)
    gives: ClassVar = (Phases, Experts)
    drops: ClassVar = (Traced,)

    def run(self, module: ir.Module, context: Context) -> None:
        """Rewrite both phases and add one expert store for each MoE layer.

        Raises:
            InputError: the functions are missing, hold no routed experts, or leave a part of the model out.
        """
        model, request = only(module, ModelShape, self.name), only(module, Request, self.name)
        phases = [(function(module, name, self.name), width) for name, width in ((DRAFT, 1), (VERIFY, DYNAMIC_WIDTH))]
        found = find(module, TracedLayers)
        like = found[0][1].like if found else ()
        segments = [unfold(segment(traced, model.hidden), model, like) for traced, _ in phases]
        for (traced, _), parts in zip(phases, segments, strict=True):
            check_complete(traced, parts, model, like)
        for layer in expert_layers(segments[0], model):
            append(module, layer)
        for (traced, width), parts in zip(phases, segments, strict=True):
            Raiser(module, model, request.batch, width).rewrite(traced, parts)
        for op, _ in found:
            op.operation.erase()
