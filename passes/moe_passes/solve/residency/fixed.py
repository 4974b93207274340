"""A placement that is asked for: which experts it has near."""

import numpy as np
import numpy.typing as npt

from moe_passes.plan.decisions import FROZEN, HotSetRule
from moe_passes.plan.errors import InputError
from moe_passes.plan.place import ALL_NEAR, CACHE, FAR, FRONT, LAYERS, RANDOM, SHARE, Place
from moe_passes.routing.traces import BoolArray, by_popularity


def check_place(place: Place, shape: tuple[int, int], memories: tuple[str, ...], computes_far: bool) -> None:
    """Refuse what names layers, slots, memories or engines that are not there.

    Args:
        place: the placement.
        shape: MoE layers, and experts of each.
        memories: near to far.
        computes_far: whether the second memory has an engine.

    Raises:
        InputError: it cannot be.
    """
    layers, experts = shape
    if place.kind == LAYERS and place.number > layers:
        raise InputError(f"--place {place.text}: the model has {layers} MoE layers; valid: 0 to {layers}")
    if place.kind == CACHE and not 1 <= place.number <= experts:
        raise InputError(f"--place {place.text}: a layer has {experts} experts; valid: 1 to {experts} slots")
    if place.kind != ALL_NEAR and len(memories) == 1:
        raise InputError(f"--place {place.text}: there is one memory, '{memories[0]}'; valid: all-near")
    if place.kind == FAR and not computes_far:
        raise InputError(
            f"--place {place.text}: no engine computes on memory '{memories[1]}'; valid: experts=loaded, or another"
        )


def near_experts(place: Place, popularity: npt.NDArray[np.int64], seed: int) -> BoolArray:
    """Return which experts are near, of a cache at first: [layer, expert].

    Args:
        place: the placement.
        popularity: [layer, expert], how often training tokens chose each.
        seed: of random choices.
    """
    layers, experts = popularity.shape
    if place.kind == ALL_NEAR:
        return np.ones((layers, experts), dtype=np.bool_)
    near = np.zeros((layers, experts), dtype=np.bool_)
    if place.kind == LAYERS:
        near[: max(0, layers - place.number)] = True
    elif place.kind == SHARE and place.order == FRONT:
        near.ravel()[: round(place.share * near.size)] = True
    elif place.kind in (SHARE, CACHE):
        count = place.number if place.kind == CACHE else round(place.share * experts)
        order = by_popularity(popularity)
        if place.kind == SHARE and place.order == RANDOM:
            generator = np.random.default_rng(seed)
            order = np.stack([generator.permutation(experts) for _ in range(layers)])
        np.put_along_axis(near, order[:, :count], True, axis=1)
    return near


def rule_of(place: Place, experts: int) -> HotSetRule:
    """Return how the near experts follow the routing: a cache keeps what was used last.

    With a window of one token, hotness falls so fast that what was used in the last round is always the hottest.
    """
    return HotSetRule(1, experts, 1) if place.kind == CACHE else FROZEN
