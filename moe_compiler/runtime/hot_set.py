"""Which residents give way to what verify has loaded: hotness counts what draft routers ask for."""

from collections import Counter
from collections.abc import Iterable, Mapping


class HotSet:
    """The residents of every layer, and how hot each expert is.

    Attributes:
        resident: experts in HB, by decoder layer.
    """

    def __init__(self, resident: Mapping[int, Iterable[int]], needed_permille: Mapping[int, list[int]]) -> None:
        # Hotness starts from what training rounds needed.
        self.resident = {layer: set(experts) for layer, experts in resident.items()}
        self._hotness = {layer: Counter(dict(enumerate(counts))) for layer, counts in needed_permille.items()}
        self._used: dict[int, set[int]] = {}

    def asked(self, layer: int, experts: Iterable[int]) -> None:
        """Count what a draft router asked for, one entry a token."""
        self._hotness.setdefault(layer, Counter()).update(experts)

    def used(self, layer: int, experts: Iterable[int]) -> None:
        """Note what verify has loaded: only that can become resident."""
        self._used.setdefault(layer, set()).update(experts)

    def update(self) -> list[tuple[int, int, int]]:
        """Let the hottest newcomer replace the coldest resident while it is the hotter of the two.

        Returns:
            (layer, expert, the resident that gave way), in order.
        """
        swaps = []
        for layer, residents in self.resident.items():
            heat = self._hotness.get(layer, Counter())
            incoming = sorted(self._used.get(layer, set()) - residents, key=lambda e: (-heat[e], e))
            leaving = sorted(residents, key=lambda e: (heat[e], e))
            for new, old in zip(incoming, leaving, strict=False):
                if heat[new] <= heat[old]:
                    break
                residents.remove(old)
                residents.add(new)
                swaps.append((layer, new, old))
        self._used.clear()
        return swaps
