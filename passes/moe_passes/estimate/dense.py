"""How long dense work takes on a machine."""

from collections.abc import Iterable
from dataclasses import dataclass

from moe_passes.estimate.cost import CostModel
from moe_passes.plan.model import WHOLE_BITS, DensePart
from moe_passes.plan.round import BYTES_PER_ACTIVATION

ATTENTION_BITS = 16
"""Of the KV cache."""


@dataclass(frozen=True)
class DenseTime:
    """Time and work of a dense part for a step.

    Attributes:
        seconds: duration.
        weight_and_kv_bytes: bytes read from HB.
        link_bytes: bytes gathered over the aggregation link.
        macs: multiply-accumulates on 8-bit weights.
        sliced_macs: multiply-accumulates on the most significant slices of weights.
        attention_macs: multiply-accumulates on the KV cache.
    """

    seconds: float
    weight_and_kv_bytes: int
    link_bytes: int
    macs: int
    sliced_macs: int
    attention_macs: int


@dataclass(frozen=True)
class DenseStep:
    """A step, as far as dense work depends on it.

    Attributes:
        batch: sequences.
        width: tokens of each.
        context: tokens in each KV cache.
        bits: of the weights.
        kv_banks: banks that the cache of a head and sequence is striped over; 0: all.
    """

    batch: int
    width: int
    context: int
    bits: int = WHOLE_BITS
    kv_banks: int = 0


def dense_time(cost: CostModel, part: DensePart, step: DenseStep) -> DenseTime:
    """Time a dense part.

    Weights are spread over all banks by output columns, so nothing is summed across banks; outputs are gathered.
    Reading and computing overlap, gathering follows. Where a cache is striped over several banks, each of them sends
    its partial attention to be merged.
    """
    batch, width, context, bits = step.batch, step.width, step.context, step.bits
    tokens, banks = batch * width, cost.space().banks
    kv_banks = step.kv_banks or banks
    copies = part.kv_copies(batch, banks, kv_banks)
    size = part.read_bytes(bits) + copies * batch * part.kv_bytes(context)
    attended = part.seen(context)
    projected, attention = tokens * part.macs_per_token, tokens * attended * part.attention_macs
    macs, sliced = (0, projected) if bits < WHOLE_BITS else (projected, 0)
    computed = cost.mac_seconds(projected, bits, banks, tokens)
    computed += cost.mac_seconds(attention, ATTENTION_BITS, banks, tokens)
    merged = kv_banks * part.merged_elements if kv_banks > 1 and context else 0
    link_bytes = tokens * (part.gathered_elements + merged) * BYTES_PER_ACTIVATION
    seconds = max(cost.local_read_seconds(size / banks), computed) + cost.aggregate_seconds(link_bytes)
    return DenseTime(seconds, size, link_bytes, macs, sliced, attention)


def step_seconds(cost: CostModel, parts: Iterable[DensePart], step: DenseStep) -> float:
    """Seconds of all dense parts of one step, the last of them the head, with what is fixed of layers and the step."""
    seconds = [dense_time(cost, part, step).seconds for part in parts]
    if not seconds:
        return 0.0
    fixed = (len(seconds) - 1) * cost.fixed_seconds("layer") + cost.fixed_seconds("step", step.batch * step.width)
    return sum(seconds) + fixed
