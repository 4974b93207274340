"""The hot set as rounds go by: what verify loads anyway may take the place of a resident that is asked for less.

Only what verify has loaded can be written into HB as it passes by (arXiv 2604.14626), so a set follows the routing
without a byte more from external memory. Hotness is what the target's routers chose, of this round too: a write starts
when the router of its layer has run.
"""

import math

import numpy as np
import numpy.typing as npt

from moe_passes.plan.decisions import HotSetRule
from moe_passes.routing.traces import BoolArray, IntArray

Swaps = tuple[tuple[tuple[int, int], ...], ...]
"""Per MoE layer, (expert, the resident that it replaces)."""
FloatArray = npt.NDArray[np.float64]


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

    def follow(self, chosen: IntArray, tokens: int, top_k: int) -> Swaps:
        """End a round: change residents, and return what takes whose place.

        Args:
            chosen: [layer, expert], tokens of the round that the target routed to each.
            tokens: of the round.
            top_k: experts of a token.
        """
        nothing: Swaps = ((),) * len(self.place)
        if not self.rule.window_tokens:
            return nothing
        self.rounds += 1
        # A share of a token's choices, so that the unit is that of the popularity.
        self.hotness = self.hotness * math.exp(-tokens / self.rule.window_tokens) + chosen / top_k
        if self.rounds % self.rule.every_rounds:
            return nothing
        pairs = hottest_for_coldest(self.resident, chosen > 0, self.hotness, self.rule.most)
        for layer, swaps in enumerate(pairs):
            for new, old in swaps:
                self.place[layer, new], self.place[layer, old] = self.place[layer, old], -1
        return pairs


def hottest_for_coldest(resident: BoolArray, needed: BoolArray, hotness: FloatArray, most: int) -> Swaps:
    """Pair the hottest newcomer of each layer with its coldest resident, the next with the next, at most so many.

    A pair swaps if the newcomer is the hotter of the two; of equals, the first counts.

    Args:
        resident: [layer, expert], what HB keeps.
        needed: [layer, expert], what verify computes in this round.
        hotness: [layer, expert].
        most: pairs of a layer.
    """
    layers = np.arange(len(resident))
    incoming = np.where(needed & ~resident, hotness, -np.inf)
    leaving = np.where(resident, hotness, np.inf)
    pairs: list[list[tuple[int, int]]] = [[] for _ in layers]
    for _ in range(min(most, resident.shape[1])):
        rows = np.arange(len(layers))
        new, old = incoming.argmax(axis=1), leaving.argmin(axis=1)
        better = incoming[rows, new] > leaving[rows, old]
        if not better.any():
            break
        # A layer whose pair does not swap has none that does.
        layers, new, old = layers[better], new[better], old[better]
        incoming, leaving, rows = incoming[better], leaving[better], rows[: len(layers)]
        for layer, pair in zip(layers.tolist(), zip(new.tolist(), old.tolist(), strict=True), strict=True):
            pairs[layer].append(pair)
        incoming[rows, new], leaving[rows, old] = -np.inf, np.inf
    return tuple(map(tuple, pairs))
