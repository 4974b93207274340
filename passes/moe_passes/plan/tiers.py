"""A machine as a chain of memories, near to far: what an estimate of a step needs of any machine, in SI units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Processor:
    """An engine that computes on what lies in its memory.

    Attributes:
        name: in the hardware file.
        macs_per_second: (bits of a weight, rate), ascending in bits.
        bytes_per_second: at which it reads its memory.
        step_seconds: fixed, of a step.
        layer_seconds: fixed, of a layer that it works on.
        expert_seconds: fixed, of an expert that it computes.
        width_seconds: fixed, of a step for every token that it takes.
        by_width: (tokens that meet a weight, rate from there on), ascending: no product is faster.
    """

    name: str
    macs_per_second: tuple[tuple[int, float], ...]
    bytes_per_second: float
    step_seconds: float = 0.0
    layer_seconds: float = 0.0
    expert_seconds: float = 0.0
    width_seconds: float = 0.0
    by_width: tuple[tuple[int, int], ...] = ()

    def rate(self, bits: float, tokens: float = math.inf) -> float:
        """Return multiply-accumulates per second on weights of so many bits that meet so many tokens.

        Args:
            bits: of a weight, its share of scales included: 8.5 are 8.
            tokens: that meet it.
        """
        rates = dict(self.macs_per_second)
        return min(rates[self.runs_as(bits)], rate_of_width(self.by_width, tokens))

    def runs_as(self, bits: float) -> int:
        """Return the width whose rate weights of so many bits run at: their own, the next wider, or the widest."""
        widths = [width for width, _ in self.macs_per_second]
        return next((width for width in widths if width >= math.floor(bits)), widths[-1])


def rate_of_width(by_width: Sequence[tuple[int, int]], tokens: float) -> float:
    """Return the fastest that a product runs whose weights meet so many tokens; infinite where nothing says.

    Args:
        by_width: (tokens, rate from there on), ascending; below the first, the first counts.
        tokens: that meet a weight.
    """
    if not by_width:
        return math.inf
    reached = [rate for width, rate in by_width if width <= tokens]
    return float(reached[-1] if reached else by_width[0][1])


@dataclass(frozen=True)
class Tier:
    """A memory.

    Attributes:
        name: in the hardware file.
        capacity_bytes: of all its devices.
        bytes_per_second: reachable, of all its devices.
        latency_seconds: to the first byte.
        engine: what computes on it; None where nothing does.
    """

    name: str
    capacity_bytes: int
    bytes_per_second: float
    latency_seconds: float
    engine: Processor | None


@dataclass(frozen=True)
class Way:
    """A link from a memory to the one before it."""

    name: str
    bytes_per_second: float
    latency_seconds: float


@dataclass(frozen=True)
class Tiers:
    """A machine.

    Attributes:
        name: of the hardware file.
        tiers: near, and up to two beyond it.
        ways: from each of those beyond to the one before it.
    """

    name: str
    tiers: tuple[Tier, ...]
    ways: tuple[Way, ...]

    @property
    def near(self) -> Tier:
        """The memory that dense weights and the KV cache lie in."""
        return self.tiers[0]

    def load_seconds(self, tier: int, size_bytes: float) -> float:
        """Seconds to bring bytes from a tier to the near one, over every link between, each as slow as its memory."""
        if not size_bytes:
            return 0.0
        ways, tiers = self.ways[:tier], self.tiers[1 : tier + 1]
        slowest = min(min(w.bytes_per_second, t.bytes_per_second) for w, t in zip(ways, tiers, strict=True))
        return sum(w.latency_seconds for w in ways) + tiers[-1].latency_seconds + size_bytes / slowest
