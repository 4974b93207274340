"""How long dense work takes on a machine."""

from collections.abc import Iterable
from dataclasses import dataclass

from moe_passes.estimate.cost import CostModel
from moe_passes.plan.model import DensePart
from moe_passes.plan.round import BYTES_PER_ACTIVATION


@dataclass(frozen=True)
class DenseTime:
    """Time and work of a dense part for a step.

    Attributes:
        seconds: duration.
        weight_and_kv_bytes: bytes read, from HB or, without it, from external memory.
        link_bytes: bytes gathered over the aggregation link.
        macs: multiply-accumulates.
    """

    seconds: float
    weight_and_kv_bytes: int
    link_bytes: int
    macs: int


def dense_time(cost: CostModel, part: DensePart, batch: int, width: int, context: int) -> DenseTime:
    """Time a dense part for `batch` sequences of `width` tokens each.

    Weights are spread over all banks by output columns, so nothing is summed across banks; outputs are gathered.
    Reading and computing overlap, gathering follows. Without HB everything streams from external memory.
    """
    tokens = batch * width
    size = part.weight_bytes + batch * part.kv_bytes(context)
    attended = min(context, part.window) if part.window else context
    macs = tokens * (part.macs_per_token + attended * part.attention_macs)
    banks = cost.space().banks
    if not banks:
        return DenseTime(max(cost.external_read_seconds(size), cost.mac_seconds(macs, 8, 1)), size, 0, macs)
    link_bytes = tokens * part.gathered_elements * BYTES_PER_ACTIVATION
    compute = max(cost.local_read_seconds(size / banks), cost.mac_seconds(macs, 8, banks))
    return DenseTime(compute + cost.aggregate_seconds(link_bytes), size, link_bytes, macs)


def step_seconds(cost: CostModel, parts: Iterable[DensePart], batch: int, width: int, context: int) -> float:
    """Seconds of all dense parts of one step."""
    return sum(dense_time(cost, part, batch, width, context).seconds for part in parts)
