"""The ways to bring what is not near, and to compute an expert of the verify step, and how long each takes.

Near memory, every element reads what its own bank holds of the expert; what was loaded lies striped over all banks. Or
what is not near streams past all elements and is not stored: each then computes whole tokens (data-parallel), so there
are no partial sums of it, and elements do nothing else meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass

from moe_passes.estimate.cost import CostModel
from moe_passes.plan.model import WHOLE_BITS
from moe_passes.plan.round import Mode, nanoseconds

Uses = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ExpertWork:
    """An expert computation of verify.

    Attributes:
        resident_bytes: of the expert in HB.
        missing_bytes: of the expert that are not in HB.
        macs: multiply-accumulates.
        tokens: that are routed to it.
    """

    resident_bytes: int
    missing_bytes: int
    macs: int
    tokens: int


@dataclass(frozen=True)
class Engines:
    """What experts run on.

    Attributes:
        cost: durations.
        far: number of the far memory with its link, as a resource.
        all_banks: demands of a task that runs on all of them.
        banks_of: banks → demands.
    """

    cost: CostModel
    far: int
    all_banks: Uses
    banks_of: Callable[[tuple[int, ...]], Uses]

    def near(self, work: ExpertWork, homes: tuple[tuple[int, ...], ...]) -> tuple[Mode, ...]:
        """Return the ways to compute an expert near memory, the preferred one first.

        On each of the replicas of its resident part, on `homes`; on all banks where a part was loaded. A way that is
        slower than another and needs at least the same is left out.
        """
        kept: list[Mode] = []
        for mode in (self._on(work, home) for home in homes or ((),)):
            if not any(_covers(other, mode) for other in kept):
                kept.append(mode)
        return tuple(kept)

    def loads(self, size: int, least_seconds: float, others: Uses) -> tuple[Mode, ...]:
        """Return the ways to load so many bytes: with the link to itself, and beside another load where it is shared.

        Args:
            size: bytes.
            least_seconds: that it takes however much of the link there is.
            others: demands beside the far memory and its link.
        """
        units = self.cost.rates().loads_at_once
        return tuple(
            Mode(
                nanoseconds(max(self.cost.external_read_seconds(size, taken / units), least_seconds)),
                ((self.far, taken), *others),
            )
            for taken in sorted({units, 1}, reverse=True)
        )

    def streamed(self, work: ExpertWork, home: tuple[int, ...], least_seconds: float, others: Uses) -> Mode:
        """Return the way to compute an expert as what is missing of it streams past.

        Args:
            work: of the expert.
            home: banks of its resident part; none without one.
            least_seconds: that what is missing takes however much of the link there is.
            others: demands beside the far memory, its link, and all banks.
        """
        read = self.cost.local_read_seconds(work.resident_bytes / len(home)) if home else 0.0
        computed = self.cost.mac_seconds(work.macs, WHOLE_BITS, self.cost.space().banks, work.tokens)
        seconds = max(self.cost.stream_seconds(work.missing_bytes), least_seconds, read, computed)
        seconds += self.cost.fixed_seconds("expert")
        uses = ((self.far, self.cost.rates().loads_at_once), *self.all_banks, *others)
        return Mode(nanoseconds(seconds), uses)

    def _on(self, work: ExpertWork, home: tuple[int, ...]) -> Mode:
        banks = self.cost.space().banks
        local = work.resident_bytes / len(home) if home else 0.0
        used = banks if work.missing_bytes or not home else len(home)
        read = self.cost.local_read_seconds(local + work.missing_bytes / banks)
        uses = self.all_banks if used == banks else self.banks_of(home)
        computed = self.cost.mac_seconds(work.macs, WHOLE_BITS, used, work.tokens)
        return Mode(nanoseconds(max(read, computed) + self.cost.fixed_seconds("expert")), uses)


def _covers(mode: Mode, other: Mode) -> bool:
    """Say whether a mode is at least as good as another at every moment."""
    needs = dict(other.uses)
    return mode.duration <= other.duration and all(needs.get(r, 0) >= amount for r, amount in mode.uses)
