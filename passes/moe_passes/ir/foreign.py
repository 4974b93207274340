"""Routed experts in a function that another compiler wrote, in the torch dialect.

A stack of expert weights is a constant or an argument of three dimensions [expert, …, …]. Where the stack (cast or
transposed at most) meets a value that says which experts, by a look-up or a product over groups, experts are computed;
the nearest value [row, k] of integers behind that one is the routing. Stacks with one routing are one layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from torch_mlir import ir

from moe_passes.ir.module import line_of
from moe_passes.plan.errors import InputError

STACKED = 3
"""Dimensions of a stack of weights."""


@dataclass
class FoundLayer:
    """The routed experts of a layer.

    Attributes:
        routing: which experts each row chooses: [row, k].
        stacks: shapes of its weights, [expert, …, …].
        line: of the model that is behind them; empty where that is not known.
    """

    routing: ir.Value
    stacks: list[tuple[int, ...]] = field(default_factory=list)
    line: str = ""

    @property
    def experts(self) -> int:
        """How many."""
        return self.stacks[0][0]

    @property
    def top_k(self) -> int:
        """Experts of a row."""
        return shape_of(self.routing)[-1]

    @property
    def parameters(self) -> int:
        """Of one expert."""
        return sum(prod(shape[1:]) for shape in self.stacks)

    @property
    def hidden(self) -> int:
        """Width of what goes in and out: the dimension that all stacks have, the least where there are several."""
        return min(set.intersection(*(set(shape[1:]) for shape in self.stacks)), default=self.stacks[0][-1])


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """Return the shape of a tensor; −1 where a size is dynamic, nothing where it is no tensor of known rank."""
    text = str(value.type)
    if not text.startswith(("!torch.vtensor<[", "!torch.tensor<[")):
        return ()
    inside = text[text.index("[") + 1 : text.index("]")]
    return tuple(-1 if size == "?" else int(size) for size in inside.split(",") if size)


def find_layers(function: ir.OpView) -> list[FoundLayer]:
    """Return the routed experts of a function, in the order in which they are computed.

    Raises:
        InputError: a stack of their weights has a size that is not known.
    """
    block = function.regions[0].blocks[0]
    sources = {argument: argument for argument in block.arguments if len(shape_of(argument)) == STACKED}
    found: dict[ir.Value, FoundLayer] = {}
    for op in block:
        operands = [value for value in op.operation.operands if shape_of(value) or _is_list(value)]
        stacks = [sources[value] for value in operands if value in sources]
        others = [value for value in operands if value not in sources]
        if not operands:
            sources.update((r, r) for r in op.operation.results if len(shape_of(r)) == STACKED)
        elif stacks and not others:
            sources.update((result, stacks[0]) for result in op.operation.results if len(shape_of(result)) == STACKED)
        elif stacks:
            _note(found, stacks, others, line_of(op))
    return list(found.values())


def _note(found: dict[ir.Value, FoundLayer], stacks: list[ir.Value], others: list[ir.Value], line: str) -> None:
    routing = next((value for other in others for value in _routings(other)), None)
    if routing is None:
        return
    shapes = [shape_of(stack) for stack in stacks]
    unknown = next((shape for shape in shapes if min(shape) < 1), None)
    if unknown is not None:
        sizes = ", ".join("?" if size < 1 else str(size) for size in unknown)
        raise InputError(f"a stack of expert weights is [{sizes}]; valid: sizes that are known")
    layer = found.setdefault(routing, FoundLayer(routing, line=line))
    layer.stacks += [shape for shape in shapes if not layer.stacks or shape[0] == layer.experts]


def _routings(value: ir.Value) -> Iterator[ir.Value]:
    """Yield values [row, k] of integers behind a value, the nearest first."""
    waiting, seen = [value], set[ir.Value]()
    while waiting:
        current = waiting.pop(0)
        if current in seen or not (_is_integer(current) or _is_list(current)):
            continue
        seen.add(current)
        shape = shape_of(current)
        if len(shape) == 2 and shape[1] > 0:
            yield current
        if not isinstance(current.owner, ir.Block):
            waiting += list(current.owner.operands)


def _is_integer(value: ir.Value) -> bool:
    return str(value.type).endswith((",si64>", ",si32>", ",ui8>"))


def _is_list(value: ir.Value) -> bool:
    return str(value.type) == "!torch.list<vtensor>"
