"""Which experts are loaded before verify asks for them: the dispatcher's static plan, applied to a running decoder."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Likelihoods:
    """In how many of 1,000 training cases verify needed an expert.

    Attributes:
        permille: [share][recent][asks], by classes.
        borders: of the classes of shares, recent tokens and asks.
    """

    permille: list[list[list[int]]] = field(default_factory=lambda: [[[1000]]])
    borders: tuple[list[int], list[int], list[int]] = ([], [], [])

    def of(self, share: int, recent: int, asks: int) -> int:
        """Return the likelihood of an expert in ‰."""
        values = zip((share, recent, asks), self.borders, strict=True)
        row, column, place = (bisect_right(borders, value) for value, borders in values)
        return self.permille[row][column][place]


class Prefetcher:
    """Counts what routers ask for and says what to load, how urgently (lower is sooner; above 0)."""

    def __init__(self, needed_permille: Mapping[int, list[int]], likelihoods: Likelihoods) -> None:
        self.needed_permille, self.likelihoods = needed_permille, likelihoods
        self._recent: Counter[tuple[int, int]] = Counter()
        self._used: Counter[tuple[int, int]] = Counter()
        self._asks: Counter[tuple[int, int]] = Counter()
        self._turn = 0

    def begin(self) -> None:
        """Begin a round: what verify used in the last one is recent now."""
        self._recent, self._used, self._asks = self._used, Counter(), Counter()

    def sure(self, permille: int, order: str) -> list[tuple[int, int, int]]:
        """Return (layer, expert, priority) of what was needed in at least so many of 1,000 training rounds."""
        return [
            (layer, expert, self._priority(layer, expert, order))
            for layer, shares in self.needed_permille.items()
            for expert, share in enumerate(shares)
            if share >= permille
        ]

    def asked(self, layer: int, experts: Iterable[int], least: int, order: str) -> list[tuple[int, int, int]]:
        """Count what a draft router asks for, one entry a token; return what is likely enough to be loaded now."""
        asked = list(experts)
        self._asks.update((layer, expert) for expert in asked)
        likely = (e for e in dict.fromkeys(asked) if least <= 0 or self._likelihood(layer, e) >= least)
        return [(layer, expert, self._priority(layer, expert, order)) for expert in likely]

    def used(self, layer: int, experts: Iterable[int]) -> None:
        """Count what verify's router chose, one entry a token: it is recent in the next round."""
        self._used.update((layer, expert) for expert in experts)

    def _likelihood(self, layer: int, expert: int) -> int:
        shares = self.needed_permille.get(layer)
        share = shares[expert] if shares else 0
        return self.likelihoods.of(share, self._recent[layer, expert], self._asks[layer, expert])

    def _priority(self, layer: int, expert: int, order: str) -> int:
        self._turn += 1
        if order == "program":
            return 1 + layer
        return self._turn if order == "ready" else 1001 - self._likelihood(layer, expert)
