"""A phase of the model as values: its operations and what feeds what, read off the IR or built by hand."""

from dataclasses import dataclass

from moe_passes.plan.model import DensePart

DENSE = ("attention", "mixer", "router", "mlp", "head")
"""Operations with weights that every token reads."""
WRITES = ("attention", "mixer")
"""Operations that leave something behind: a KV cache, or a state."""
OPERATIONS = ("embed", *DENSE, "restrict", "experts", "add")
WHOLE_SLICE, MSB_SLICE = "whole", "msb"
"""What an `experts` operation computes with: all of each expert, or its most significant slice."""


@dataclass(frozen=True)
class Operation:
    """One operation of a phase.

    Attributes:
        kind: of `OPERATIONS`. `restrict` narrows a router's choice to resident experts.
        operands: numbers of the operations whose results it takes, all smaller than its own.
        part: of dense operations, their work.
        store: of `restrict` and `experts`, the expert store.
        slice: of `experts`, `WHOLE_SLICE` or `MSB_SLICE`.
        where: the line of the model behind it, as `file:line`; empty where that is not known.
    """

    kind: str
    operands: tuple[int, ...]
    part: DensePart | None = None
    store: str = ""
    slice: str = WHOLE_SLICE
    where: str = ""


@dataclass(frozen=True)
class Phase:
    """One step of the model: `draft_step` or `verify_step`.

    Attributes:
        name: of the function.
        operations: in program order.
        result: number of the operation that gives the logits.
    """

    name: str
    operations: tuple[Operation, ...]
    result: int
