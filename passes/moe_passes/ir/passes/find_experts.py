"""find-experts: from another compiler's functions to expert stores; the functions stay as they are."""

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from moe_passes.ir.base import Context, Pass, option
from moe_passes.ir.foreign import find_layers
from moe_passes.ir.module import append, top_level
from moe_passes.ir.states import Experts, Foreign
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer, ModelShape


@dataclass(frozen=True)
class FindExperts(Pass):
    """Find routed experts in what another compiler wrote in the torch dialect, and leave that as it is."""

    name: ClassVar = "find-experts"
    needs: ClassVar = (Foreign,)
    gives: ClassVar = (Experts,)

    model: str = option("foreign", "NAME", "of the model, in outputs")
    expert_bits: float = option(8.5, "bits from 1 to 64", "of an expert's weight, scales included; default: 8.5")
    msb_bits: float = option(4.5, "bits from 1 to 64", "of its most significant slice; default: 4.5")

    def run(self, module: ir.Module, context: Context) -> None:
        """Add an expert store for each layer, and what is known of the model.

        Raises:
            InputError: nothing looks like routed experts.
        """
        functions = [op for op in top_level(module) if op.operation.name == "func.func" and op.regions[0].blocks]
        found = [layer for function in functions for layer in find_layers(function)]
        if not found:
            names = ", ".join(f"@{op.attributes['sym_name'].value}" for op in functions)
            raise InputError(
                f"{self.name}: {names[:200]}: no routed experts were found; valid: stacks of weights [expert, …, …] in "
                "the torch dialect that are looked up by a choice [row, k]"
            )
        sizes = [layer.experts * layer.parameters for layer in found]
        bits = (self.expert_bits, self.msb_bits)
        append(module, ModelShape(self.model, "foreign", found[0].hidden, len(found), 1, sum(sizes), 0, *bits))
        for number, layer in enumerate(found):
            msb = round(layer.parameters * self.msb_bits / 8)
            whole = round(layer.parameters * self.expert_bits / 8)
            shape = (number, layer.experts, layer.top_k, layer.parameters, msb, whole - msb)
            append(module, ExpertLayer(f"layer{number}", *shape))
