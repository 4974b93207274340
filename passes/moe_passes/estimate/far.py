"""What may become of an expert in the far memory beside being loaded, and when it is better computed where it lies."""

from collections.abc import Iterable, Sequence

from moe_passes.estimate.cost import CostModel
from moe_passes.plan.decisions import LATE, MOST_FAR_TOKENS
from moe_passes.plan.model import ExpertLayer
from moe_passes.plan.place import Place


def far_tokens(cost: CostModel, layers: Sequence[ExpertLayer], place: Place | None) -> tuple[int, ...]:
    """Return up to how many tokens of an expert it may be computed in the far memory, to choose from; ascending.

    A placement that is asked for says whether it loads what is not near; else whatever is sooner is on offer.
    """
    if place is None:
        return tuple(sorted({0, most_far_tokens(cost, layers)}))
    return (0,) if place.loads or not cost.rates().computes_far else (MOST_FAR_TOKENS,)


def late_ways(cost: CostModel) -> tuple[str, ...]:
    """Return what may become of an expert that is neither near nor loaded ahead, of `LATE`."""
    return LATE if cost.rates().streams else LATE[:1]


def most_far_tokens(cost: CostModel, layers: Iterable[ExpertLayer]) -> int:
    """Return up to how many tokens every expert takes no longer where it lies than a load of it; 0 where none does."""
    return min(_most_tokens(cost, layer) for layer in layers)


def _most_tokens(cost: CostModel, layer: ExpertLayer) -> int:
    load = cost.external_read_seconds(layer.whole_bytes)

    def is_sooner(tokens: int) -> bool:
        seconds = cost.far_seconds(layer.whole_bytes, tokens * layer.parameters, tokens, False)
        return seconds is not None and seconds <= load

    low, high = 0, MOST_FAR_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_sooner(middle) else (low, middle - 1)
    return low
