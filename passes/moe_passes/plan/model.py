"""The model as the passes see it: its shape, its routed experts, and its dense parts."""

import math
from dataclasses import dataclass, fields

from moe_passes.plan.decisions import ALL, MSB

WHOLE_BITS = 8
"""Of a weight of which a step computes with everything."""
DENSE_BITS, DENSE_MSB_BITS = 8.5, 4.5
"""Of a dense weight, INT8 with an FP16 scale per 32 whatever the experts are, and of its most significant slice
(docs/reference.md section 2)."""
ALIGNMENT_BYTES = 64
"""Staging addresses are multiples of this."""


@dataclass(frozen=True)
class ModelShape:
    """The model as a whole.

    Attributes:
        name: the name it was asked for by.
        architecture: model class, as in `config.json`.
        hidden: width of the residual stream.
        layers: decoder layers, MoE or not.
        vocabulary: rows of the head.
        total_parameters: all of them.
        embedding_parameters: of the input embedding.
        expert_bits: bits of a routed expert's weight in full precision, scales included.
        msb_bits: bits of its most significant slice, scales included.
        dense_bits: bits of a dense weight, scales included.
        dense_msb_bits: bits of its most significant slice; as many as of the weight where it cannot be sliced.
        kv_bits: bits of a cached element.
        embedding_bits: bits of a weight of the input embedding.
        format: what the weights are in, as it was asked for or as the configuration says.
    """

    name: str
    architecture: str
    hidden: int
    layers: int
    vocabulary: int
    total_parameters: int
    embedding_parameters: int
    expert_bits: float
    msb_bits: float
    dense_bits: float = DENSE_BITS
    dense_msb_bits: float = DENSE_MSB_BITS
    kv_bits: float = 16.0
    embedding_bits: float = 16.0
    format: str = "int8-sliced"

    @property
    def slices_dense(self) -> bool:
        """Whether a draft may compute with slices of dense weights."""
        return self.dense_msb_bits < self.dense_bits

    @property
    def embedding_bytes(self) -> int:
        """Bytes of the input embedding, which lies in the far memory."""
        return round(self.embedding_parameters * self.embedding_bits / 8)


@dataclass(frozen=True)
class TracedLayers:
    """Which layers were traced, where one of each kind stands for the others.

    Attributes:
        like: for each decoder layer, the traced layer that it is like.
    """

    like: tuple[int, ...]


@dataclass(frozen=True)
class ExpertLayer:
    """The routed experts of one MoE layer, all of one shape.

    Attributes:
        name: symbol of the layer's expert store.
        layer: index of the decoder layer.
        experts: how many.
        top_k: experts a token is routed to.
        parameters: of one expert.
        msb_bytes: of one expert's most significant slice.
        residual_bytes: of the rest of it (0 where the weights cannot be sliced).
    """

    name: str
    layer: int
    experts: int
    top_k: int
    parameters: int
    msb_bytes: int
    residual_bytes: int

    @property
    def whole_bytes(self) -> int:
        """Bytes of one expert in full precision."""
        return self.msb_bytes + self.residual_bytes

    def resident_bytes(self, level: int) -> int:
        """Bytes of an expert in HB at a residency."""
        return {MSB: self.msb_bytes, ALL: self.whole_bytes}.get(level, 0)

    def drafted_bytes(self, bits: int) -> int:
        """Bytes of an expert that a draft of so many bits computes with."""
        return self.msb_bytes if bits < WHOLE_BITS else self.whole_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes of a staging slot: half an expert, or a residual slice; all of an expert that has no slices."""
        size = max(self.residual_bytes, -(-self.whole_bytes // 2)) if self.residual_bytes else self.whole_bytes
        return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    @property
    def staged_bytes(self) -> int:
        """Bytes that a whole expert takes in staging."""
        return (2 if self.residual_bytes else 1) * self.slot_bytes


@dataclass(frozen=True)
class DensePart:
    """Everything of one decoder layer (or the head) that every token runs through.

    Attributes:
        layer: index of the decoder layer; `ModelShape.layers` for the head.
        weight_bytes: quantised weights.
        macs_per_token: multiply-accumulates on those weights, per token.
        gathered_elements: output elements per token that are gathered over the aggregation link.
        kv_elements: cached elements per token of context, of 16 bits each: one of 8 bits counts half.
        window: attention window in tokens, 0 for all of the context.
        attention_macs: multiply-accumulates per token and token of context.
        kv_heads: heads whose caches are apart: 1 where all share a latent.
        merged_elements: elements per token of a partial attention, its maximum and sum included: what each of several
            banks that hold parts of one cache sends to be merged.
        state_bytes: what recurrent and convolutional token mixers keep of a sequence, however long it is.
    """

    layer: int
    weight_bytes: int = 0
    macs_per_token: int = 0
    gathered_elements: int = 0
    kv_elements: int = 0
    window: int = 0
    attention_macs: int = 0
    kv_heads: int = 0
    merged_elements: int = 0
    state_bytes: int = 0

    def __add__(self, other: "DensePart") -> "DensePart":
        """Add the work of two parts of one layer."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(DensePart) if f.name != "layer"}
        return DensePart(layer=self.layer, **sums)

    def read_bytes(self, bits: int) -> int:
        """Bytes of the weights that a step computes with: all, or in 4 bits their most significant slices."""
        return self.weight_bytes if bits >= WHOLE_BITS else math.ceil(self.weight_bytes * DENSE_MSB_BITS / DENSE_BITS)

    def kv_copies(self, batch: int, banks: int, kv_banks: int) -> int:
        """Copies of the KV cache if that of each head and sequence is striped over so many of the banks.

        Caches of heads and sequences lie beside each other; where they do not fill the banks, each is there several
        times, and each copy serves a part of the query's heads.
        """
        return max(1, banks // (kv_banks * batch * self.kv_heads)) if self.kv_heads else 1

    def kv_bytes(self, context: int) -> int:
        """Bytes of this part's FP16 KV cache of one sequence, and of what else it keeps of it."""
        return 2 * self.kv_elements * self.seen(context) + self.state_bytes

    def seen(self, context: int) -> int:
        """Tokens of the context that attention looks at."""
        return min(context, self.window) if self.window else context
