"""The engines that can compute an expert of the verify step, and how long each takes.

Near memory, every element reads what its own bank holds of the expert. As xPU, the elements share all of it: the
resident part streams past them over the streamline link, no faster than its banks give it. Loads travel over the same
link, so it is a shared resource: streaming either has the link for itself or takes what a load leaves of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from moe_passes.estimate.cost import CostModel
from moe_passes.plan.round import LINK_UNITS, Mode, nanoseconds

Uses = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ExpertWork:
    """An expert computation of verify.

    Attributes:
        resident_bytes: of the expert in HB.
        staged_bytes: of the expert in staging, striped over all banks.
        macs: multiply-accumulates.
    """

    resident_bytes: int
    staged_bytes: int
    macs: int


@dataclass(frozen=True)
class Engines:
    """What experts run on.

    Attributes:
        cost: durations.
        all_banks: demands of a task that runs on all of them.
        banks_of: banks → demands.
        link: number of the streamline link.
    """

    cost: CostModel
    all_banks: Uses
    banks_of: Callable[[tuple[int, ...]], Uses]
    link: int

    def load_units(self) -> int:
        """Units of the streamline link that a load takes: at least one, however fast the link is."""
        return min(LINK_UNITS, max(1, round(self.cost.load_link_share() * LINK_UNITS)))

    def modes(self, work: ExpertWork, homes: tuple[tuple[int, ...], ...]) -> tuple[Mode, ...]:
        """Return the ways to compute an expert whose resident part has replicas on `homes`, the preferred one first.

        Near memory on each replica's banks (all banks where a part is staged), then as xPU with the whole link and
        with what a load leaves of it. A way that is slower than another and needs at least the same is left out.
        """
        near = [self._near(work, home) for home in homes or ((),)]
        found = near + [self._xpu(work, homes, units) for units in (LINK_UNITS, LINK_UNITS - self.load_units())]
        kept: list[Mode] = []
        for mode in found:
            if mode is not None and not any(_covers(other, mode) for other in kept):
                kept.append(mode)
        return tuple(kept)

    def _near(self, work: ExpertWork, home: tuple[int, ...]) -> Mode:
        banks = self.cost.space().banks
        local = work.resident_bytes / len(home) if home else 0.0
        used = banks if work.staged_bytes or not home else len(home)
        read = self.cost.local_read_seconds(local + work.staged_bytes / banks)
        uses = self.all_banks if used == banks else self.banks_of(home)
        seconds = max(read, self.cost.mac_seconds(work.macs, 8, used)) + self.cost.fixed_seconds("expert")
        return Mode(nanoseconds(seconds), uses)

    def _xpu(self, work: ExpertWork, homes: tuple[tuple[int, ...], ...], units: int) -> Mode | None:
        if not units or not work.resident_bytes or not self.cost.rates().streams:
            return None
        banks = self.cost.space().banks
        # What streams past the elements is read out of the banks first: those of the widest replica.
        read = work.resident_bytes / max(map(len, homes)) + work.staged_bytes / banks
        seconds = max(
            self.cost.stream_seconds(work.resident_bytes * LINK_UNITS / units),
            self.cost.local_read_seconds(read),
            self.cost.mac_seconds(work.macs, 8, banks),
        )
        seconds += self.cost.fixed_seconds("expert")
        return Mode(nanoseconds(seconds), ((self.link, units), *self.all_banks))


def _covers(mode: Mode, other: Mode) -> bool:
    """Say whether a mode is at least as good as another at every moment."""
    needs = dict(other.uses)
    return mode.duration <= other.duration and all(needs.get(r, 0) >= amount for r, amount in mode.uses)
