"""What a routing trace is like: the figures by which real and synthetic routing are compared.

Every figure is a mean over MoE layers. Windows and caches start anew with each request where requests are known.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_passes.routing.traces import BoolArray, IntArray, membership, split_of

WINDOWS = (2, 4, 8, 16)
"""Tokens of which distinct experts are counted."""
RECENT = 8
"""Tokens before, among whose experts a token's are looked for."""
CACHE_SHARES = (0.25, 0.4)
"""Of a layer's experts, that an LRU cache holds."""
POPULAR_SHARE = 0.25
"""Of a layer's experts, the most used: their share of all choices is the popularity."""


@dataclass(frozen=True)
class Statistics:
    """Figures of a trace; shares are from 0 to 1.

    Attributes:
        next_token: share of a token's experts that the token before used too.
        recent: share that one of the `RECENT` tokens before used.
        distinct: distinct experts of so many consecutive tokens, in units of top-k, by tokens (`WINDOWS`).
        popularity: share of the choices that go to the most used `POPULAR_SHARE` of the experts.
        next_layer: share of a layer's experts that this layer's foretell, learnt on the first three quarters.
        next_layer_by_popularity: the same without looking at this layer: the most used experts.
        cached: share of choices that an LRU cache of so large a share of the experts holds (`CACHE_SHARES`).
    """

    next_token: float
    recent: float
    distinct: dict[int, float]
    popularity: float
    next_layer: float
    next_layer_by_popularity: float
    cached: dict[float, float]


def statistics(chosen: IntArray, experts: int) -> Statistics:
    """Measure a trace.

    Args:
        chosen: [token, layer, k], consecutive tokens of one request, or of one after the other.
        experts: of a layer.
    """
    uses = membership(chosen, experts)
    top_k = chosen.shape[2]
    learnt, known = next_layer(uses, top_k)
    return Statistics(
        next_token=float((uses[1:] & uses[:-1]).sum() / max(1, uses[1:].sum())),
        recent=recent_share(uses, RECENT),
        distinct={w: distinct(uses, w) / top_k for w in WINDOWS if w <= len(uses)},
        popularity=popular_share(uses),
        next_layer=learnt,
        next_layer_by_popularity=known,
        cached={share: lru_hits(chosen, max(1, round(share * experts))) for share in CACHE_SHARES},
    )


def distinct(uses: BoolArray, window: int) -> float:
    """Mean distinct experts of `window` consecutive tokens: `uses` is [token, layer, expert]."""
    return float(_ever(uses, window).sum(axis=2).mean())


def recent_share(uses: BoolArray, window: int) -> float:
    """Share of a token's experts that one of the `window` tokens before used."""
    if len(uses) <= window:
        return float("nan")
    before = _ever(uses, window)[:-1]
    later = uses[window:]
    return float((later & before).sum() / later.sum())


def _ever(uses: BoolArray, window: int) -> BoolArray:
    """Whether any of tokens i to i + window − 1 uses an expert: [tokens − window + 1, layer, expert]."""
    counts = np.cumsum(uses, axis=0, dtype=np.int32)
    counts = np.concatenate([np.zeros_like(counts[:1]), counts])
    return np.asarray(counts[window:] > counts[:-window])


def popular_share(uses: BoolArray) -> float:
    """Share of the choices that go to the most used experts of each layer."""
    counts = np.sort(uses.sum(axis=0), axis=1)[:, ::-1]
    most = max(1, round(POPULAR_SHARE * counts.shape[1]))
    return float(counts[:, :most].sum() / counts.sum())


def next_layer(uses: BoolArray, top_k: int) -> tuple[float, float]:
    """Share of the next layer's experts that this layer's foretell, and that popularity alone does.

    For every pair of an expert here and one there it is counted, on the first three quarters of the tokens, how often a
    token uses both; the last quarter's tokens are foretold by the sum over their experts of the shares.
    """
    border = split_of(len(uses), "train")[1]
    train, test = uses[:border].astype(np.float32), uses[border:]
    if uses.shape[1] < 2 or not len(test) or not border:
        return float("nan"), float("nan")
    hits, hits_by_popularity = [], []
    for layer in range(uses.shape[1] - 1):
        here, there = train[:, layer], train[:, layer + 1]
        popularity = there.mean(axis=0)
        # One case of what is usual anyway stands for what was never seen.
        shares = (here.T @ there + popularity) / (here.sum(axis=0)[:, None] + 1.0)
        scores = test[:, layer].astype(np.float32) @ shares
        hits.append(_found(scores, test[:, layer + 1], top_k))
        hits_by_popularity.append(_found(np.broadcast_to(popularity, scores.shape), test[:, layer + 1], top_k))
    return float(np.mean(hits)), float(np.mean(hits_by_popularity))


def _found(scores: npt.NDArray[np.float32], uses: BoolArray, top_k: int) -> float:
    guesses = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return float(np.take_along_axis(uses, guesses, axis=1).mean())


def lru_hits(chosen: IntArray, slots: int) -> float:
    """Share of the choices that lie in a cache of `slots` experts a layer, which drops what was used the longest ago.

    A token's hits are counted before its misses are brought in; the first tokens, which find an empty cache, count.
    """
    layers = (chosen[:, layer].tolist() for layer in range(chosen.shape[1]))
    return sum(sum(hits) for tokens in layers for hits in least_recently_used(tokens, slots)) / chosen.size


def least_recently_used(steps: Iterable[list[int]], slots: int) -> Iterator[list[bool]]:
    """Say of every step's experts which a cache holds when the step begins; then they are brought in."""
    cache: OrderedDict[int, None] = OrderedDict()
    for experts in steps:
        yield [expert in cache for expert in experts]
        for expert in experts:
            cache.pop(expert, None)
            cache[expert] = None
        while len(cache) > slots:
            cache.popitem(last=False)
