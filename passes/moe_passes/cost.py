"""What the passes ask a cost model, and the analytic model that answers by default.

Passes depend on the `CostModel` protocol alone, so an external simulator can take the analytic model's place.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from moe_passes.machine import Machine, Memory

BYTES_PER_ACTIVATION = 2
"""Partial sums and gathered activations travel as 16-bit numbers."""


MOST_WRITE_SHARE = 0.5
"""Largest share of the HB bandwidth that writes into staging take."""


class CostModel(Protocol):
    """Durations in seconds. A machine without HB is asked for external reads only."""

    def banks(self) -> int:
        """Return the number of HB banks (0 without HB)."""
        ...

    def local_read_seconds(self, bytes_in_busiest_bank: float) -> float:
        """Seconds to read bytes out of one HB bank, first byte included."""
        ...

    def external_read_seconds(self, size_bytes: float) -> float:
        """Seconds to bring bytes out of external memory, first byte included."""
        ...

    def mac_seconds(self, macs: float, bits: int, elements: int) -> float:
        """Seconds for multiply-accumulates on weights of so many bits, spread over so many elements."""
        ...

    def aggregate_seconds(self, size_bytes: float) -> float:
        """Seconds to move partial sums or activations over the aggregation link."""
        ...

    def stream_seconds(self, size_bytes: float) -> float:
        """Seconds to stream weights past all elements over the streamline link."""
        ...

    def load_link_share(self) -> float:
        """Share of the streamline link that an external read takes, in (0, 1]."""
        ...


@dataclass(frozen=True)
class AnalyticCost:
    """Bandwidth, peak rate and latency, as the hardware file states them.

    HB reads run at the reachable bandwidth less what an always-running load would write into staging, so that a
    load never slows a read: `bank_bytes_per_second · efficiency − load bytes per second / banks`. On a machine whose
    HB is not faster than its external memory, loads are held to `MOST_WRITE_SHARE` of the HB bandwidth.
    """

    machine: Machine

    def banks(self) -> int:
        """Return the number of HB banks (0 without HB)."""
        return self.machine.hb.banks if self.machine.hb else 0

    def local_read_seconds(self, bytes_in_busiest_bank: float) -> float:
        """See `CostModel`."""
        hb = self._hb()
        if bytes_in_busiest_bank <= 0:
            return 0.0
        reserved = self._load_bytes_per_second() / hb.banks
        return hb.latency_seconds + bytes_in_busiest_bank / (hb.bank_bytes_per_second * hb.efficiency - reserved)

    def external_read_seconds(self, size_bytes: float) -> float:
        """See `CostModel`; the streamline link or the writes into HB limit it where they are slower."""
        if size_bytes <= 0:
            return 0.0
        return self.machine.external.latency_seconds + size_bytes / self._load_bytes_per_second()

    def mac_seconds(self, macs: float, bits: int, elements: int) -> float:
        """See `CostModel`; up to 4 bits run at the 4-bit rate; each bank has an equal share of the peak."""
        engine = self.machine.engine
        peak = engine.w4a8_macs_per_second if bits <= 4 else engine.w8a8_macs_per_second
        return macs / (peak * min(1.0, elements / (self.banks() or 1)))

    def aggregate_seconds(self, size_bytes: float) -> float:
        """See `CostModel`."""
        link = self.machine.aggregation
        return link.latency_seconds + size_bytes / link.bytes_per_second if size_bytes > 0 else 0.0

    def stream_seconds(self, size_bytes: float) -> float:
        """See `CostModel`."""
        link = self.machine.streamline
        return link.latency_seconds + size_bytes / link.bytes_per_second if size_bytes > 0 else 0.0

    def load_link_share(self) -> float:
        """See `CostModel`."""
        return self._load_bytes_per_second() / self.machine.streamline.bytes_per_second

    def _load_bytes_per_second(self) -> float:
        rate = min(self.machine.external.bytes_per_second, self.machine.streamline.bytes_per_second)
        hb = self.machine.hb
        return min(rate, MOST_WRITE_SHARE * hb.bytes_per_second) if hb else rate

    def _hb(self) -> Memory:
        if self.machine.hb is None:
            raise ValueError(f"machine '{self.machine.name}' has no memory 'hb'")
        return self.machine.hb


def nanoseconds(seconds: float) -> int:
    """Round up to whole nanoseconds, the unit of the scheduler: a duration is never understated."""
    return math.ceil(round(seconds * 1e9, 6))
