"""Which residents give way to what verify loads, as the plan's rule says."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HotSetRule:
    """How residents follow the routing.

    Attributes:
        window_tokens: over so many tokens, what a token counts for falls by a factor e; 0: residents stay.
        most: experts of a layer that a round changes at most.
        every_rounds: rounds from one change to the next.

    Raises:
        ValueError: one of them cannot be.
    """

    window_tokens: int = 0
    most: int = 0
    every_rounds: int = 1

    def __post_init__(self) -> None:
        for name, least in (("window_tokens", 0), ("most", 0), ("every_rounds", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is {value!r}; valid: {least} or more")


class HotSet:
    """The residents of every layer, and how hot each expert is.

    Attributes:
        resident: experts in HB, by decoder layer.
    """

    def __init__(self, resident: Mapping[int, Iterable[int]], needed_permille: Mapping[int, list[int]]) -> None:
        self.resident = {layer: set(experts) for layer, experts in resident.items()}
        self._shares = {layer: [n / max(1, sum(counts)) for n in counts] for layer, counts in needed_permille.items()}
        self._hotness: dict[int, dict[int, float]] = {}
        self._rounds: Counter[int] = Counter()

    def follow(self, layer: int, chosen: list[int], tokens: int, rule: HotSetRule) -> dict[int, int]:
        """Take in a layer's round: the hottest newcomer replaces the coldest resident while it is the hotter.

        Args:
            layer: decoder layer.
            chosen: by the target's router, one entry a token: only that can become resident.
            tokens: of the round.
            rule: how residents follow.

        Returns:
            By expert that is resident now, the one whose place it has.
        """
        if not rule.window_tokens:
            return {}
        counts = Counter(chosen)
        self._warm(layer, counts, rule, tokens)
        self._rounds[layer] += 1
        return {} if self._rounds[layer] % rule.every_rounds else self._swap(layer, counts, rule.most)

    def count_anew(self) -> None:
        """Count rounds from now on."""
        self._rounds.clear()

    def _warm(self, layer: int, chosen: Counter[int], rule: HotSetRule, tokens: int) -> None:
        """Let hotness fade by a round and add the round, as a share of each token's choices."""
        # Hotness starts from what training rounds needed.
        heat = self._hotness.get(layer)
        if heat is None:
            heat = {e: share * rule.window_tokens for e, share in enumerate(self._shares.get(layer, ()))}
        fade, each = math.exp(-tokens / rule.window_tokens), tokens / max(1, chosen.total())
        known = sorted({*heat, *chosen})
        self._hotness[layer] = {e: heat.get(e, 0.0) * fade + chosen[e] * each for e in known}

    def _swap(self, layer: int, chosen: Counter[int], most: int) -> dict[int, int]:
        residents, swaps = self.resident.get(layer, set()), {}
        heat = dict.fromkeys(residents, 0.0) | self._hotness[layer]
        incoming = sorted(set(chosen) - residents, key=lambda e: (-heat[e], e))[:most]
        leaving = sorted(residents, key=lambda e: (heat[e], e))
        for new, old in zip(incoming, leaving, strict=False):
            if heat[new] <= heat[old]:
                break
            residents.remove(old)
            residents.add(new)
            swaps[new] = old
        return swaps
