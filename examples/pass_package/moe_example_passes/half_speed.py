"""half-speed: the analytic cost model of a machine on which everything takes twice as long."""

from dataclasses import dataclass, replace

from moe_passes.estimate.analytic import AnalyticCost
from moe_passes.estimate.cost import Rates


@dataclass(frozen=True)
class HalfSpeed(AnalyticCost):
    """Twice the seconds, half the rates, and the same joules but for static power."""

    def rates(self) -> Rates:
        """See `CostModel`."""
        full = super().rates()
        halves = {name: value / 2 for name, value in vars(full).items() if name.endswith("_per_second")}
        return replace(full, **halves, load_latency_seconds=2 * full.load_latency_seconds)

    def local_read_seconds(self, bytes_in_busiest_bank: float) -> float:
        """See `CostModel`."""
        return 2 * super().local_read_seconds(bytes_in_busiest_bank)

    def external_read_seconds(self, size_bytes: float, share: float = 1.0) -> float:
        """See `CostModel`."""
        return 2 * super().external_read_seconds(size_bytes, share)

    def mac_seconds(self, macs: float, bits: int, elements: int, tokens: float) -> float:
        """See `CostModel`."""
        return 2 * super().mac_seconds(macs, bits, elements, tokens)

    def aggregate_seconds(self, size_bytes: float) -> float:
        """See `CostModel`."""
        return 2 * super().aggregate_seconds(size_bytes)

    def stream_seconds(self, size_bytes: float) -> float:
        """See `CostModel`."""
        return 2 * super().stream_seconds(size_bytes)

    def far_seconds(self, size_bytes: float, macs: float, tokens: float, beside_load: bool) -> float | None:
        """See `CostModel`."""
        seconds = super().far_seconds(size_bytes, macs, tokens, beside_load)
        return None if seconds is None else 2 * seconds

    def deep_seconds(self, size_bytes: float) -> float:
        """See `CostModel`."""
        return 2 * super().deep_seconds(size_bytes)

    def send_seconds(self, size_bytes: float) -> float:
        """See `CostModel`."""
        return 2 * super().send_seconds(size_bytes)

    def fixed_seconds(self, what: str, tokens: int = 0) -> float:
        """See `CostModel`."""
        return 2 * super().fixed_seconds(what, tokens)
