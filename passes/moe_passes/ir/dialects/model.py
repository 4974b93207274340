"""The model: types, the operations of a phase, and the expert stores with what is decided about them."""

from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from moe_passes.ir.dialects.base import (
    F64,
    I64,
    LARGEST,
    I64Array,
    Moe,
    MoeOperation,
    Open,
    Symbol,
    WrongError,
    array,
    entries,
    integer,
    integers,
    one_of,
    symbol,
    value,
)
from moe_passes.plan.phase import MSB_SLICE, WHOLE_SLICE

MOST_LAYERS, MOST_EXPERTS = 1e5, 65536


class Tokens(Moe.Type, name="tokens"):
    """Token ids of a step: `batch` sequences of `width` tokens (−1: γ + 1, known after select-draft)."""

    batch: I64
    width: I64


class Hidden(Moe.Type, name="hidden"):
    """The residual stream: `batch × width` rows of `hidden` elements."""

    batch: I64
    width: I64
    hidden: I64


class Routing(Moe.Type, name="routing"):
    """A router's choice: `top_k` of `experts` for every row."""

    experts: I64
    top_k: I64


class Logits(Moe.Type, name="logits"):
    """Scores over the vocabulary for every row."""

    vocabulary: I64


class Residency(Moe.Attribute, name="residency"):
    """What HB keeps of the experts of a store: `{msb = array<i64: experts>, whole = array<i64: experts>}`.

    `deep`, which may be missing, names those that the far memory does not hold.
    """

    kept: ir.DictAttr


class Replica(Moe.Attribute, name="replica"):
    """A replica of what is resident of an expert, sharded in equal parts over a `moe.bank_set`."""

    expert: I64
    banks: Symbol


class Placement(Moe.Attribute, name="placement"):
    """The replicas of a store's residents; an expert's stand in the order in which replica dispatch counts them."""

    replicas: ir.ArrayAttr


class Permille(Moe.Attribute, name="permille"):
    """In how many of 1,000 training rounds verify needed each expert."""

    shares: Any


class ModelOp(MoeOperation, name="model"):
    """The model as a whole (`plan.model.ModelShape`)."""

    name: ir.StringAttr
    architecture: ir.StringAttr
    hidden: I64
    layers: I64
    vocabulary: I64
    total_parameters: I64
    embedding_parameters: I64
    expert_bits: F64
    msb_bits: F64
    dense_bits: F64
    dense_msb_bits: F64
    kv_bits: F64
    embedding_bits: F64
    format: ir.StringAttr

    RANGES = {
        "hidden": (1, 1e9),
        "vocabulary": (1, 1e9),
        "total_parameters": (1, LARGEST),
        "layers": (1, MOST_LAYERS),
        "expert_bits": (1, 64),
        "msb_bits": (1, 64),
        "dense_bits": (1, 64),
        "dense_msb_bits": (1, 64),
        "kv_bits": (1, 64),
        "embedding_bits": (1, 64),
    }

    def check(self) -> None:
        """A slice is a part of a weight."""
        for part, whole in (("msb_bits", "expert_bits"), ("dense_msb_bits", "dense_bits")):
            if self.attributes[part].value > self.attributes[whole].value:
                raise WrongError(f"attribute '{part}' is above '{whole}'; valid: at most that")


class TracedLayersOp(MoeOperation, name="traced_layers"):
    """Which traced layer each decoder layer is like (`plan.model.TracedLayers`); raise-moe puts all of them back."""

    like: I64Array

    def check(self) -> None:
        """A layer is like itself, or like one before it that was traced."""
        like = list(self.attributes["like"])
        if not 1 <= len(like) <= MOST_LAYERS:
            raise WrongError(f"attribute 'like' holds {len(like)} numbers; valid: one for each layer")
        wrong = [n for n, first in enumerate(like) if not 0 <= first <= n or like[first] != first]
        if wrong:
            raise WrongError(
                f"attribute 'like': layer {wrong[0]} is like {like[wrong[0]]}; valid: itself, or one before it that is "
                "like itself"
            )


class ExpertStoreOp(MoeOperation, name="expert_store"):
    """The routed experts of one layer (`plan.model.ExpertLayer`) and what is decided about them.

    `residency` is select-draft's, `placement` partition-experts', `needed` choose-dispatch's; each is `#moe.open` until
    then.
    """

    sym_name: ir.StringAttr
    layer: I64
    experts: I64
    top_k: I64
    parameters: I64
    msb_bytes: I64
    residual_bytes: I64
    residency: Open | Residency
    placement: Open | Placement
    needed: Open | Permille

    RANGES = {
        "layer": (0, MOST_LAYERS),
        "experts": (1, MOST_EXPERTS),
        "top_k": (1, MOST_EXPERTS),
        "parameters": (1, LARGEST),
        "msb_bytes": (1, 2**53),
        "residual_bytes": (0, 2**53),
    }

    def check(self) -> None:
        """Top-k fits, and decisions are about experts and banks that exist."""
        experts, top_k = self.attributes["experts"].value, self.attributes["top_k"].value
        if top_k > experts:
            raise WrongError(f"routes to {top_k} of {experts} experts; valid: top_k of at most {experts}")
        read_residency(self)
        for expert, banks in read_placement(self):
            found = symbol(self, banks)
            if found is None or found.operation.name != "moe.bank_set":
                raise WrongError(f"attribute 'placement': expert {expert} lies in @{banks}; valid: a moe.bank_set")
        read_needed(self)


def read_residency(store: ir.OpView) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Return the experts of a store that are resident as slices, whole, and those that lie deep; None where it is open.

    Raises:
        WrongError: malformed.
    """
    found = store.attributes["residency"].maybe_downcast()
    if isinstance(found, Open):
        return None
    kept = entries(found.kept, "attribute 'residency'", {"msb": 0, "whole": 0, "deep": 0})
    most = store.attributes["experts"].value - 1
    given = [name for name in ("msb", "whole", "deep") if name in kept or name != "deep"]
    named = {name: integers(kept.get(name), f"attribute 'residency', {name}", 0, most) for name in given}
    msb, whole, deep = named["msb"], named["whole"], named.get("deep", ())
    if any(list(part) != sorted(set(part)) for part in (msb, whole, deep)) or set(msb) & set(whole):
        raise WrongError("attribute 'residency' names an expert twice or out of order; valid: ascending, each once")
    return msb, whole, deep


def read_placement(store: ir.OpView) -> list[tuple[int, str]]:
    """Return (expert, bank set) of every replica; nothing where that is open.

    Raises:
        WrongError: malformed.
    """
    found = store.attributes["placement"].maybe_downcast()
    if isinstance(found, Open):
        return []
    replicas, most = [], store.attributes["experts"].value - 1
    for replica in array(found.replicas, "attribute 'placement'"):
        if not isinstance(replica, Replica):
            raise WrongError(f"attribute 'placement' holds {str(replica)[:60]}; valid: #moe.replica<expert, @banks>")
        expert = integer(replica.expert, "attribute 'placement': expert", 0, most)
        replicas.append((expert, value(replica.banks, "attribute 'placement': banks")))
    if len(set(replicas)) < len(replicas):
        raise WrongError("attribute 'placement' has a replica twice; valid: distinct bank sets of an expert")
    return replicas


def read_needed(store: ir.OpView) -> tuple[int, ...] | None:
    """Return how often verify needed each expert, in ‰; None where that is open.

    Raises:
        WrongError: malformed.
    """
    found = store.attributes["needed"].maybe_downcast()
    if isinstance(found, Open):
        return None
    shares, experts = integers(found.shares, "attribute 'needed'", 0, 1000), store.attributes["experts"].value
    if len(shares) != experts:
        raise WrongError(f"attribute 'needed' holds {len(shares)} numbers; valid: one for each of {experts} experts")
    return shares


class EmbedOp(MoeOperation, name="embed", traits=[ext.Pure]):
    """Look token embeddings up in external memory, one row a token."""

    tokens: ext.Operand[Tokens]
    row_bytes: I64
    result: ext.Result[Hidden]


class AttentionOp(MoeOperation, name="attention"):
    """Norm, projections, rotary embedding, attention over the KV cache (which it writes), output, residual add."""

    hidden: ext.Operand[Hidden]
    layer: I64
    weight_bytes: I64
    macs_per_token: I64
    gathered_elements: I64
    kv_elements: I64
    window: I64
    attention_macs: I64
    kv_heads: I64
    merged_elements: I64
    state_bytes: I64
    result: ext.Result[Hidden]


class MixerOp(MoeOperation, name="mixer"):
    """Norm, projections, a recurrence or convolution over the tokens (whose state it writes), output, residual add."""

    hidden: ext.Operand[Hidden]
    layer: I64
    weight_bytes: I64
    macs_per_token: I64
    gathered_elements: I64
    state_bytes: I64
    result: ext.Result[Hidden]


class RouterOp(MoeOperation, name="router", traits=[ext.Pure]):
    """Norm, router projection, top-k."""

    hidden: ext.Operand[Hidden]
    layer: I64
    weight_bytes: I64
    macs_per_token: I64
    result: ext.Result[Routing]


class RestrictOp(MoeOperation, name="restrict", traits=[ext.Pure]):
    """A router's choice narrowed to residents of a store: those chosen, then the most popular others, up to top-k."""

    routing: ext.Operand[Routing]
    store: Symbol
    result: ext.Result[Routing]

    def check(self) -> None:
        """The store exists, and the routing is of its shape."""
        _check_routing(self, 0)


class ExpertsOp(MoeOperation, name="experts", traits=[ext.Pure]):
    """The routed experts of a layer, weighted and summed; `slice` is `whole`, or `msb` for the draft's arithmetic."""

    hidden: ext.Operand[Hidden]
    routing: ext.Operand[Routing]
    store: Symbol
    slice: ir.StringAttr
    result: ext.Result[Hidden]

    def check(self) -> None:
        """The store exists, the routing is of its shape, and the slice is known."""
        _check_routing(self, 1)
        if self.attributes["slice"].value not in (WHOLE_SLICE, MSB_SLICE):
            raise WrongError(
                f"attribute 'slice' is {self.attributes['slice']}; valid: {one_of((WHOLE_SLICE, MSB_SLICE))}"
            )


def _check_routing(op: ir.OpView, place: int) -> None:
    name = op.attributes["store"].value
    store = symbol(op, name)
    if store is None or store.operation.name != "moe.expert_store":
        raise WrongError(f"refers to an expert store '{name}' that does not exist")
    routing = Routing(op.operation.operands[place].type)
    shape = tuple(integer(number, "routing", 1, MOST_EXPERTS) for number in (routing.experts, routing.top_k))
    if shape != (store.attributes["experts"].value, store.attributes["top_k"].value):
        raise WrongError(
            f"routing does not match store '{name}': {store.attributes['top_k'].value} of "
            f"{store.attributes['experts'].value} experts"
        )


class MlpOp(MoeOperation, name="mlp", traits=[ext.Pure]):
    """A dense feed-forward block: of a dense layer, or the shared experts of a MoE layer."""

    hidden: ext.Operand[Hidden]
    layer: I64
    weight_bytes: I64
    macs_per_token: I64
    gathered_elements: I64
    shared: I64
    result: ext.Result[Hidden]

    RANGES = {"shared": (0, 1)}


class AddOp(MoeOperation, name="add", traits=[ext.Pure]):
    """Sum of the residual stream and what a block adds to it."""

    terms: ext.Operand[Hidden]
    more: ext.Operand[Hidden]
    result: ext.Result[Hidden]


class HeadOp(MoeOperation, name="head", traits=[ext.Pure]):
    """Final norm and the projection to the vocabulary."""

    hidden: ext.Operand[Hidden]
    weight_bytes: I64
    macs_per_token: I64
    result: ext.Result[Logits]
