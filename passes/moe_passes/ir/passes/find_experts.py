"""find-experts: from another compiler's functions to expert stores; the functions stay as they are."""

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from moe_passes.ir.base import Context, Pass, option
from moe_passes.ir.foreign import FoundLayer, find_layers
from moe_passes.ir.module import append, top_level
from moe_passes.ir.states import Experts, Foreign
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer, ModelShape

MOST_BITS = 64
MOST_EXPERTS = 65536
MOST_PARAMETERS = 2**46
"""Of a layer: 64 bits of each are bytes that 64 bits hold."""


@dataclass(frozen=True)
class FindExperts(Pass):
    """Find routed experts in what another compiler wrote in the torch dialect, and leave that as it is."""

    name: ClassVar = "find-experts"
    needs: ClassVar = (Foreign,)
    gives: ClassVar = (Experts,)

    model: str = option("foreign", "NAME", "of the model, in outputs")
    expert_bits: float = option(8.5, "bits from 1 to 64", "of an expert's weight, scales included; default: 8.5")
    msb_bits: float = option(4.5, "bits from 1 to 64", "of its most significant slice; default: 4.5")
    function: str = option("", "NAME", "in which experts are looked for; default: the one that has any")

    def __post_init__(self) -> None:
        if not 1 <= self.msb_bits <= self.expert_bits <= MOST_BITS:
            raise InputError(
                f"find-experts: options expert-bits={self.expert_bits:g}, msb-bits={self.msb_bits:g}; valid: "
                f"1 ≤ msb-bits ≤ expert-bits ≤ {MOST_BITS}"
            )

    def run(self, module: ir.Module, context: Context) -> None:
        """Add an expert store for each layer, and what is known of the model.

        Raises:
            InputError: nothing looks like routed experts, several functions have some, or a size is not known.
        """
        found = self._layers(module)
        sizes = [layer.experts * layer.parameters for layer in found]
        bits = (self.expert_bits, self.msb_bits)
        append(module, ModelShape(self.model, "foreign", found[0].hidden, len(found), 1, sum(sizes), 0, *bits))
        for number, layer in enumerate(found):
            msb = round(layer.parameters * self.msb_bits / 8)
            whole = round(layer.parameters * self.expert_bits / 8)
            shape = (number, layer.experts, layer.top_k, layer.parameters, msb, whole - msb)
            append(module, ExpertLayer(f"layer{number}", *shape))

    def _layers(self, module: ir.Module) -> list[FoundLayer]:
        functions = {
            str(op.attributes["sym_name"].value): op
            for op in top_level(module)
            if op.operation.name == "func.func" and op.regions[0].blocks
        }
        names = ", ".join(f"@{name}" for name in functions)[:200] or "no function"
        if self.function and self.function not in functions:
            raise InputError(f"{self.name}: option function={self.function[:60]}: is none; valid: {names}")
        asked = [self.function] if self.function else list(functions)
        found = {name: layers for name in asked if (layers := find_layers(functions[name]))}
        if not found:
            raise InputError(
                f"{self.name}: {names}: no routed experts were found; valid: stacks of weights [expert, …, …] in "
                "the torch dialect that are looked up by a choice [row, k]"
            )
        if len(found) > 1:
            several = " and ".join(f"@{name}" for name in found)[:200]
            raise InputError(
                f"{self.name}: {several} have routed experts, of one model or of several; valid: function=NAME"
            )
        [layers] = found.values()
        for layer in layers:
            if (
                not 1 <= layer.top_k < layer.experts <= MOST_EXPERTS
                or layer.parameters * layer.experts > MOST_PARAMETERS
            ):
                raise InputError(
                    f"{self.name}: {layer.top_k} of {layer.experts} experts of {layer.parameters} parameters at "
                    f"{layer.line or 'no line that is known'}; valid: fewer than all, of at most {MOST_EXPERTS} "
                    f"experts and {MOST_PARAMETERS} parameters"
                )
        return layers
