"""The request, the routing trace, and the decisions about the whole model."""

import math
from collections.abc import Sequence
from typing import Any

from torch_mlir import ir

from moe_passes.estimate.registry import cost_model_names
from moe_passes.ir.dialects.base import (
    F64,
    I64,
    I64Array,
    Moe,
    MoeOperation,
    WrongError,
    array,
    entries,
    integers,
    one_of,
    value,
)
from moe_passes.plan.decisions import ENGINES, LATE, MOST_FAR_TOKENS, ORDERS
from moe_passes.plan.errors import InputError
from moe_passes.plan.machine import MOST_BANKS
from moe_passes.plan.place import parse_place
from moe_passes.plan.request import AUTO_LENGTH, BATCH, CONTEXT, DRAFT_LENGTH, LONGEST_SECONDS, SEED

KINDS = ("real", "synthetic")
DRAFT_ROUTING = ("measured", "assumed")
MOST_ELEMENTS = 4_000_000
"""Of a tensor: beyond the routing of any round."""
RUN_FIELDS = dict.fromkeys(("instance", "status", "objective", "lower_bound", "greedy", "seed", "unit", "limit"))
RUN_TEXTS = ("instance", "status", "unit", "limit")
RUN_OPTIONAL = ("limit",)
"""Not in modules that were written before there was such a field."""


class RequestOp(MoeOperation, name="request"):
    """The request (`plan.request.Request`)."""

    batch: I64
    context: I64
    draft_length: I64
    seed: I64
    time_limit_seconds: F64
    cost_model: ir.StringAttr
    place: ir.StringAttr

    RANGES = {
        "batch": (BATCH.low, BATCH.high),
        "context": (CONTEXT.low, CONTEXT.high),
        "draft_length": (AUTO_LENGTH, DRAFT_LENGTH.high),
        "seed": (SEED.low, SEED.high),
        "time_limit_seconds": (0, LONGEST_SECONDS),
    }

    def check(self) -> None:
        """The cost model is registered, and a placement is one."""
        place, name = self.attributes["place"].value, self.attributes["cost_model"].value
        try:
            place and parse_place(place)
        except InputError as error:
            raise WrongError(f"attribute 'place': {error}") from None
        if name not in cost_model_names():
            raise WrongError(f"attribute 'cost_model' is '{name}'; valid: {', '.join(cost_model_names())}")


class ProfileOp(MoeOperation, name="profile"):
    """The routing trace that is compiled against (`plan.request.ProfileRecord`)."""

    name: ir.StringAttr
    kind: ir.StringAttr
    sha256: ir.StringAttr
    draft_routing: ir.StringAttr

    def check(self) -> None:
        """A profile is real or synthetic, nothing else."""
        for name, valid in (("kind", KINDS), ("draft_routing", DRAFT_ROUTING)):
            if self.attributes[name].value not in valid:
                raise WrongError(f"attribute '{name}' must be {one_of(valid)}")


class AcceptanceOp(MoeOperation, name="acceptance"):
    """What was measured of a draft's acceptance (`plan.request.MeasuredAcceptance`); one for each draft."""

    expert_bits: I64
    dense_bits: I64
    share: F64
    rate: F64
    length: I64
    survival_ppm: I64Array
    source: ir.StringAttr

    RANGES = {
        "expert_bits": (0, 64),
        "dense_bits": (0, 64),
        "share": (0, 1),
        "rate": (0, 1),
        "length": (1, DRAFT_LENGTH.high),
    }

    def check(self) -> None:
        """Fewer rounds accept more tokens."""
        shares = list(self.attributes["survival_ppm"])
        if shares and (len(shares) != self.attributes["length"].value or shares != sorted(shares, reverse=True)):
            raise WrongError("attribute 'survival_ppm' must hold 'length' numbers, none above the one before it")
        if any(not 0 <= share <= 1_000_000 for share in shares):
            raise WrongError("attribute 'survival_ppm' must hold numbers from 0 to 1000000")


class DraftOp(MoeOperation, name="draft"):
    """What select-draft decided besides residency (`plan.decisions.DraftPlan`)."""

    length: I64
    bits: I64
    dense_bits: I64
    expert_fraction: F64
    acceptance_rate: F64
    break_even_acceptance: F64
    acceptance_source: ir.StringAttr
    staging_bytes: I64
    expert_bytes: I64
    dense_bytes: I64
    kv_bytes: I64
    kv_banks: I64

    RANGES = {
        "length": (DRAFT_LENGTH.low, DRAFT_LENGTH.high),
        "bits": (1, 64),
        "dense_bits": (1, 64),
        "kv_banks": (0, MOST_BANKS),
        "expert_fraction": (0, 1),
        "acceptance_rate": (0, 1),
        "break_even_acceptance": (0, math.inf),
    }


class HotSetOp(MoeOperation, name="hot_set"):
    """How the residents follow the routing (`plan.decisions.HotSetRule`)."""

    window_tokens: I64
    most: I64
    every_rounds: I64

    RANGES = {"window_tokens": (0, 2**31 - 1), "most": (0, 2**31 - 1), "every_rounds": (1, 2**31 - 1)}


class DispatchOp(MoeOperation, name="dispatch"):
    """The dispatcher's static plan (`plan.decisions.DispatchPlan`); `likelihoods` is ‰, [share][recent] → by asks."""

    sure_permille: I64
    least_permille: I64
    order: ir.StringAttr
    engine: ir.StringAttr
    most_far_tokens: I64
    late: ir.StringAttr
    share_borders: I64Array
    recent_borders: I64Array
    ask_borders: I64Array
    likelihoods: ir.ArrayAttr

    RANGES = {"sure_permille": (0, 1001), "least_permille": (0, 1001), "most_far_tokens": (0, MOST_FAR_TOKENS)}

    def check(self) -> None:
        """Rules are known, borders ascend, and there is a likelihood for every class."""
        for name, valid in (("order", ORDERS), ("engine", ENGINES), ("late", LATE)):
            if self.attributes[name].value not in valid:
                raise WrongError(f"attribute '{name}' must be {one_of(valid)}")
        shape = []
        for name in ("share_borders", "recent_borders", "ask_borders"):
            borders = list(self.attributes[name])
            if borders != sorted(set(borders)):
                raise WrongError(f"attribute '{name}' does not ascend")
            shape.append(len(borders) + 1)
        read_likelihoods(self.attributes["likelihoods"], shape)


class Run(Moe.Attribute, name="run"):
    """What the solver calls of a pass reported: an array of dictionaries (`plan.decisions.SolverRecord`)."""

    calls: ir.ArrayAttr


class Account(Moe.Attribute, name="account"):
    """What a pass weighed before it decided: a dictionary (`plan.accounts`)."""

    says: ir.DictAttr


def read_likelihoods(attribute: ir.Attribute, shape: Sequence[int]) -> tuple[int, ...]:
    """Return a table of likelihoods, [share][recent] → array by asks, flattened.

    Raises:
        WrongError: malformed, or of another shape.
    """
    what, values = "attribute 'likelihoods'", []
    found = [list(array(row, what)) for row in array(attribute, what)]
    for row in found:
        values += [integers(cell, what, 0, 1000) for cell in row]
    is_of_shape = len(found) == shape[0] and all(len(row) == shape[1] for row in found)
    if not is_of_shape or any(len(cell) != shape[2] for cell in values):
        raise WrongError(f"{what} is not {' × '.join(map(str, shape))}, as the borders say")
    return tuple(value for cell in values for value in cell)


def read_tensor(attribute: ir.Attribute, what: str, shape: list[int] | None, low: int, high: int) -> tuple[int, ...]:
    """Return the elements of `dense<…> : tensor<…xi64>` in row-major order.

    Args:
        attribute: to read.
        what: how messages call it.
        shape: that it must have; None for any.
        low: smallest valid element.
        high: largest valid element.

    Raises:
        WrongError: another kind of attribute or shape, or an element out of range.
    """
    found = attribute.maybe_downcast()
    if not isinstance(found, ir.DenseIntElementsAttr) or not str(found.type).endswith("xi64>"):
        raise WrongError(f"{what} is {str(attribute)[:60]}; valid: dense<…> : tensor<…xi64>")
    if shape is not None and list(ir.ShapedType(found.type).shape) != shape:
        raise WrongError(f"{what} has type {found.type}; valid: tensor<{'x'.join(map(str, shape))}xi64>")
    if math.prod(ir.ShapedType(found.type).shape) > MOST_ELEMENTS:
        raise WrongError(f"{what} has type {found.type}; valid: at most {MOST_ELEMENTS:,} elements")
    values = tuple(int(v) for v in found)
    if any(not low <= v <= high for v in values):
        raise WrongError(f"{what} must hold numbers from {low} to {high}")
    return values


def tensor_shape(attribute: ir.Attribute) -> tuple[int, ...]:
    """Return the shape of a dense tensor attribute."""
    return tuple(ir.ShapedType(attribute.type).shape)


def read_run(attribute: ir.Attribute, what: str) -> list[dict[str, Any]]:
    """Return the solver calls that a `#moe.run` reports.

    Raises:
        WrongError: malformed.
    """
    found = attribute.maybe_downcast()
    if not isinstance(found, Run):
        raise WrongError(f"{what} is {str(attribute)[:60]}; valid: #moe.run<[…]>")
    calls = []
    for call in array(found.calls, what):
        fields = entries(call, what, RUN_FIELDS)
        missing = [name for name in RUN_FIELDS if name not in fields and name not in RUN_OPTIONAL]
        if missing:
            raise WrongError(f"{what} lacks '{missing[0]}'")
        read = {name: value(found, f"{what}, {name}") for name, found in fields.items()}
        wrong = [name for name in read if isinstance(read[name], str) != (name in RUN_TEXTS)]
        if wrong:
            raise WrongError(
                f"{what}, {wrong[0]} is {read[wrong[0]]!r}; valid: a {'text' if wrong[0] in RUN_TEXTS else 'number'}"
            )
        calls.append(read)
    return calls
