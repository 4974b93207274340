"""The hot set as rounds go by: what verify loads anyway may take the place of a resident that is asked for less.

Only what verify has loaded can be written into HB as it passes by (arXiv 2604.14626), so a set follows the routing
without a byte more from external memory. Hotness is what the target's routers chose, of this round too: a write starts
when the router of its layer has run.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moe_passes.plan.decisions import HotSetRule
from moe_passes.routing.traces import BoolArray, IntArray

Swaps = tuple[tuple[tuple[int, int], ...], ...]
"""Per MoE layer, (expert, the resident that it replaces)."""
FloatArray = npt.NDArray[np.float64]


class Pairs(NamedTuple):
    """Residents that change: arrays [pair], those of a layer hottest newcomer first."""

    layer: IntArray
    new: IntArray
    old: IntArray

    def by_layer(self, layers: int) -> Swaps:
        """Return them layer by layer, as numbers of Python."""
        result: list[list[tuple[int, int]]] = [[] for _ in range(layers)]
        for layer, new, old in zip(self.layer.tolist(), self.new.tolist(), self.old.tolist(), strict=True):
            result[layer].append((new, old))
        return tuple(map(tuple, result))


NO_PAIRS = Pairs(*(np.zeros(0, dtype=np.int64) for _ in Pairs._fields))


class HotSet:
    """The residents of every layer, and how hot each expert is.

    Attributes:
        place: [layer, expert], the first resident whose place an expert has; −1 where it is not resident.
        hotness: [layer, expert].
    """

    def __init__(self, rule: HotSetRule, resident: BoolArray, popularity: IntArray) -> None:
        """Begin with what the plan keeps, as hot as it was in training.

        Args:
            rule: how it follows.
            resident: [layer, expert].
            popularity: [layer, expert], how often training tokens chose each.
        """
        self.rule, self.rounds = rule, 0
        self.place = np.where(resident, np.arange(resident.shape[1]), -1)
        choices = np.maximum(1, popularity.sum(axis=1, keepdims=True))
        self.hotness: FloatArray = popularity / choices * rule.window_tokens

    @property
    def resident(self) -> BoolArray:
        """What HB keeps now: [layer, expert]."""
        return np.asarray(self.place >= 0)

    def follow(self, chosen: IntArray, tokens: int, top_k: int) -> Pairs:
        """End a round: change residents, and return what takes whose place.

        Args:
            chosen: [layer, expert], tokens of the round that the target routed to each.
            tokens: of the round.
            top_k: experts of a token.
        """
        if not self.rule.window_tokens:
            return NO_PAIRS
        self.rounds += 1
        # A share of a token's choices, so that the unit is that of the popularity.
        self.hotness = self.hotness * math.exp(-tokens / self.rule.window_tokens) + chosen / top_k
        if self.rounds % self.rule.every_rounds:
            return NO_PAIRS
        pairs = hottest_for_coldest(self.resident, chosen > 0, self.hotness, self.rule.most)
        self.place[pairs.layer, pairs.new] = self.place[pairs.layer, pairs.old]
        self.place[pairs.layer, pairs.old] = -1
        return pairs


def hottest_for_coldest(resident: BoolArray, needed: BoolArray, hotness: FloatArray, most: int) -> Pairs:
    """Pair the hottest newcomer of each layer with its coldest resident, the next with the next, at most so many.

    A pair swaps if the newcomer is the hotter of the two; of equals, the first counts.

    Args:
        resident: [layer, expert], what HB keeps.
        needed: [layer, expert], what verify computes in this round.
        hotness: [layer, expert].
        most: pairs of a layer.
    """
    rows = np.arange(len(resident))
    incoming = np.where(needed & ~resident, hotness, -np.inf)
    leaving = np.where(resident, hotness, np.inf)
    found = [NO_PAIRS]
    for _ in range(min(most, resident.shape[1])):
        new, old = incoming.argmax(axis=1), leaving.argmin(axis=1)
        layer = np.flatnonzero(incoming[rows, new] > leaving[rows, old])
        if not len(layer):
            break
        pairs = Pairs(layer, new[layer], old[layer])
        incoming[layer, pairs.new], leaving[layer, pairs.old] = -np.inf, np.inf
        found.append(pairs)
    return Pairs(*map(np.concatenate, zip(*found, strict=True)))
