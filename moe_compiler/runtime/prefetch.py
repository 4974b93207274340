"""Which experts are loaded before verify asks for them: the dispatcher's static plan, applied to a running decoder."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PrefetchPlan:
    """The static plan.

    Attributes:
        sure_permille: experts that were needed in at least so many of 1,000 training rounds are loaded at once.
        least_permille: others are loaded once asked for, if they are at least so likely to be needed.
        order: of prefetches: `program` (by layer), `ready` (as they are asked for) or `likelihood`.
        needed_permille: by decoder layer, of every expert.
        likelihood_permille: [share][recent][asks], by classes.
        borders: of the classes of shares, recent tokens and asks.
    """

    sure_permille: int = 1001
    least_permille: int = 0
    order: str = "ready"
    needed_permille: dict[int, list[int]] = field(default_factory=dict)
    likelihood_permille: list[list[list[int]]] = field(default_factory=lambda: [[[1000]]])
    borders: tuple[list[int], list[int], list[int]] = ([], [], [])

    def likelihood(self, share: int, recent: int, asks: int) -> int:
        """Return in how many of 1,000 training cases such an expert was needed."""
        values = zip((share, recent, asks), self.borders, strict=True)
        row, column, place = (bisect_right(borders, value) for value, borders in values)
        return self.likelihood_permille[row][column][place]


class Prefetcher:
    """Counts what routers ask for and says what to load, how urgently (lower is sooner; above 0)."""

    def __init__(self, plan: PrefetchPlan) -> None:
        self.plan = plan
        self._recent: Counter[tuple[int, int]] = Counter()
        self._used: Counter[tuple[int, int]] = Counter()
        self._asks: Counter[tuple[int, int]] = Counter()
        self._turn = 0

    def sure(self) -> list[tuple[int, int, int]]:
        """Begin a round: return (layer, expert, priority) of what is loaded at once."""
        self._recent, self._used, self._asks = self._used, Counter(), Counter()
        return [
            (layer, expert, self._priority(layer, expert))
            for layer, shares in self.plan.needed_permille.items()
            for expert, share in enumerate(shares)
            if share >= self.plan.sure_permille
        ]

    def asked(self, layer: int, experts: Iterable[int]) -> list[tuple[int, int, int]]:
        """Count what a draft router asks for, one entry a token; return what to load now."""
        asked = list(experts)
        self._asks.update((layer, expert) for expert in asked)
        likely = (e for e in dict.fromkeys(asked) if self._likelihood(layer, e) >= self.plan.least_permille)
        return [(layer, expert, self._priority(layer, expert)) for expert in likely]

    def used(self, layer: int, experts: Iterable[int]) -> None:
        """Count what verify's router chose, one entry a token: it is recent in the next round."""
        self._used.update((layer, expert) for expert in experts)

    def _likelihood(self, layer: int, expert: int) -> int:
        shares = self.plan.needed_permille.get(layer)
        share = shares[expert] if shares else 0
        return self.plan.likelihood(share, self._recent[layer, expert], self._asks[layer, expert])

    def _priority(self, layer: int, expert: int) -> int:
        self._turn += 1
        if self.plan.order == "program":
            return 1 + layer
        return self._turn if self.plan.order == "ready" else 1001 - self._likelihood(layer, expert)
