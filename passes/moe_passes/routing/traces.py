"""Routing traces: validation, and the rounds that are cut from them."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_passes.plan.errors import InputError

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

TRAIN_FRACTION = 0.75
"""The first three quarters of a trace are optimised for, the rest is reported on."""


@dataclass(frozen=True)
class RoutingTrace:
    """Experts chosen per token and MoE layer.

    Attributes:
        experts: [token, layer, k], the target model's choices, in decoding order.
        draft_experts: [token, layer, k], the draft's own (unrestricted) choices for the same tokens.
        experts_per_layer: number of experts of a layer.
    """

    experts: IntArray
    draft_experts: IntArray
    experts_per_layer: int

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self.experts.shape[0])

    def sha256(self) -> str:
        """Digest of shape and content, the same on every machine."""
        digest = hashlib.sha256()
        for array in (self.experts, self.draft_experts):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return digest.hexdigest()


def validate(experts: npt.NDArray[Any], name: str, layers: int, top_k: int, count: int) -> IntArray:
    """Check one array of a profile against the model's shape and return it as int64.

    Raises:
        InputError: wrong rank, shape, type, an id out of range, or one expert twice in a token's choice.
    """
    where = f"profile '{name}'"
    if experts.dtype.kind not in "iu":
        raise InputError(f"{where}: array has type {experts.dtype}; expert ids must be integers")
    if experts.ndim != 3:
        raise InputError(f"{where}: array has shape {experts.shape}; valid: [token, layer, k]")
    if experts.shape[0] == 0:
        raise InputError(f"{where}: no tokens")
    if experts.shape[1:] != (layers, top_k):
        raise InputError(
            f"{where}: shape {experts.shape} is of another model: "
            f"this one has {layers} MoE layers and top-{top_k}, so [token, {layers}, {top_k}]"
        )
    bad = (experts < 0) | (experts >= count)
    if bad.any():
        token, layer, k = (int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{where}: expert id {int(experts[token, layer, k])} at [token {token}, layer {layer}, k {k}] "
            f"is out of range; valid: 0 to {count - 1}"
        )
    ordered = np.sort(experts, axis=2)
    twice = (ordered[:, :, 1:] == ordered[:, :, :-1]).any(axis=2)
    if twice.any():
        token, layer = (int(i) for i in np.argwhere(twice)[0])
        raise InputError(f"{where}: token {token} chooses one expert twice in layer {layer}")
    return experts.astype(np.int64)


@dataclass(frozen=True)
class Rounds:
    """Rounds cut from a trace: `batch` runs of `width` consecutive tokens each.

    Attributes:
        tokens: [round, batch, width], token indices into the trace.
    """

    tokens: IntArray

    def __len__(self) -> int:
        return int(self.tokens.shape[0])


def cut_rounds(trace_tokens: int, batch: int, width: int, split: str, most: int) -> Rounds:
    """Cut one split of a trace into rounds and keep at most `most` of them, evenly spread.

    With R runs of `width` consecutive tokens in the split and S = ⌊R / batch⌋ rounds, round i takes runs
    i, i+S, i+2S, …, so that the sequences of a batch come from different parts of the trace.

    Args:
        trace_tokens: length of the trace.
        batch: sequences in a round.
        width: tokens of a sequence in a round, γ + 1.
        split: `train` or `held-out`.
        most: number of rounds to keep.

    Raises:
        InputError: the split is too short for one round.
    """
    first, length = split_of(trace_tokens, split)
    count = length // width // batch
    if count == 0:
        needed = int(np.ceil(batch * width / (1 - TRAIN_FRACTION)))
        raise InputError(
            f"profile has {trace_tokens} tokens: too few for one {split} round of batch {batch} and "
            f"{width} tokens a sequence; valid: at least {needed} tokens, a smaller batch or draft length"
        )
    return Rounds(cut(first, length, batch, width)[evenly(count, most)])


def evenly(count: int, most: int) -> IntArray:
    """Return at most so many of the numbers below `count` (at least one where there are any), evenly spread."""
    return np.linspace(0, count - 1, min(count, max(1, most))).round().astype(np.int64)


def split_of(trace_tokens: int, split: str) -> tuple[int, int]:
    """Return the first token and the length of a split, `train` or `held-out`."""
    border = int(trace_tokens * TRAIN_FRACTION)
    return (0, border) if split == "train" else (border, trace_tokens - border)


def cut(first: int, length: int, batch: int, width: int) -> IntArray:
    """Cut tokens into R = ⌊length / width⌋ runs and S = ⌊R / batch⌋ steps; step i is runs i, i+S, i+2S, …

    Returns:
        [step, batch, width], token indices.
    """
    count = length // width // batch
    starts = first + width * (np.arange(count)[:, None] + count * np.arange(batch)[None, :])
    return np.asarray(starts[:, :, None] + np.arange(width))


def membership(choices: IntArray, experts: int) -> BoolArray:
    """Turn [..., k] expert ids into a [..., experts] mask."""
    mask = np.zeros((*choices.shape[:-1], experts), dtype=np.bool_)
    np.put_along_axis(mask, choices, True, axis=-1)
    return mask


def restrict(asked: BoolArray, resident: BoolArray, order: IntArray, top_k: int) -> BoolArray:
    """Restrict the router's choice to resident experts, as the draft does.

    Asked experts that are resident are kept; the rest of the min(top_k, residents) places go to the
    highest-ranked residents that were not asked for. A trace has no scores, so popularity ranks them.

    Args:
        asked: [..., experts], the unrestricted choice.
        resident: [experts], or what broadcasts to `asked`.
        order: [experts], expert ids from most to least popular.
        top_k: experts a token is routed to.

    Returns:
        [..., experts], the restricted choice.
    """
    kept = asked & resident
    places = np.minimum(top_k, resident.sum(axis=-1, keepdims=True)) - kept.sum(axis=-1, keepdims=True)
    spare = (resident & ~kept)[..., order]
    filled = spare & (np.cumsum(spare, axis=-1, dtype=np.int32) <= places)
    result = kept.copy()
    result[..., order] |= filled
    return result


def popularity(trace: RoutingTrace, first: int = 0) -> IntArray:
    """Count how often each expert was chosen, by the first so many tokens (0: those of training): [layer, expert]."""
    border = first or int(trace.tokens * TRAIN_FRACTION) or trace.tokens
    used = trace.experts[:border]
    layers = used.shape[1]
    flat = used + trace.experts_per_layer * np.arange(layers)[None, :, None]
    counts = np.bincount(flat.ravel(), minlength=layers * trace.experts_per_layer)
    return counts.reshape(layers, trace.experts_per_layer).astype(np.int64)


def relabelled(trace: RoutingTrace, counts: IntArray) -> RoutingTrace:
    """Give experts other ids: the most popular of a layer that of the most popular by `counts`, and so on.

    Experts of a trace that was made without a plan in mind are as good as any other's: a plan that goes by popularity
    can be tried on it.

    Args:
        trace: to relabel.
        counts: [layer, expert], how often each was chosen in another trace of the same shape.
    """
    old, new = by_popularity(popularity(trace)), by_popularity(counts)
    ids = np.empty_like(old)
    np.put_along_axis(ids, old, new, axis=1)
    rows = np.arange(len(ids))[None, :, None]
    return RoutingTrace(ids[rows, trace.experts], ids[rows, trace.draft_experts], trace.experts_per_layer)


def by_popularity(counts: IntArray) -> IntArray:
    """Rank experts of each layer from most to least popular, ties by id: [layer, rank] → expert."""
    return np.argsort(-counts, axis=1, kind="stable")
