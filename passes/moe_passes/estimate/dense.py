"""How long dense work takes on a machine."""

from collections.abc import Iterable
from dataclasses import dataclass

from moe_passes.estimate.cost import CostModel
from moe_passes.plan.model import WHOLE_BITS, DensePart
from moe_passes.plan.round import BYTES_PER_ACTIVATION


@dataclass(frozen=True)
class DenseTime:
    """Time and work of a dense part for a step.

    Attributes:
        seconds: duration.
        weight_and_kv_bytes: bytes read, from HB or, without it, from external memory.
        link_bytes: bytes gathered over the aggregation link.
        macs: multiply-accumulates on 8 bits.
        sliced_macs: multiply-accumulates on the most significant slices of weights.
    """

    seconds: float
    weight_and_kv_bytes: int
    link_bytes: int
    macs: int
    sliced_macs: int


def dense_time(
    cost: CostModel, part: DensePart, batch: int, width: int, context: int, bits: int = WHOLE_BITS
) -> DenseTime:
    """Time a dense part for `batch` sequences of `width` tokens each, with weights of so many bits.

    Weights are spread over all banks by output columns, so nothing is summed across banks; outputs are gathered.
    Reading and computing overlap, gathering follows. Without HB everything streams from external memory.
    """
    tokens = batch * width
    size = part.read_bytes(bits) + batch * part.kv_bytes(context)
    attended = min(context, part.window) if part.window else context
    sliced = tokens * part.macs_per_token if bits < WHOLE_BITS else 0
    macs = tokens * (part.macs_per_token + attended * part.attention_macs) - sliced
    banks = cost.space().banks
    computed = cost.mac_seconds(macs, WHOLE_BITS, banks or 1) + cost.mac_seconds(sliced, bits, banks or 1)
    if not banks:
        return DenseTime(max(cost.external_read_seconds(size), computed), size, 0, macs, sliced)
    link_bytes = tokens * part.gathered_elements * BYTES_PER_ACTIVATION
    compute = max(cost.local_read_seconds(size / banks), computed)
    return DenseTime(compute + cost.aggregate_seconds(link_bytes), size, link_bytes, macs, sliced)


def step_seconds(
    cost: CostModel, parts: Iterable[DensePart], batch: int, width: int, context: int, bits: int = WHOLE_BITS
) -> float:
    """Seconds of all dense parts of one step."""
    return sum(dense_time(cost, part, batch, width, context, bits).seconds for part in parts)
