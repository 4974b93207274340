"""The analytic cost model: bandwidth, peak rate, latency and energy, as the hardware file states them."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

from moe_passes.estimate.cost import Rates, Space
from moe_passes.plan.machine import Engine, FarEngine, Machine
from moe_passes.plan.round import Traffic
from moe_passes.plan.tiers import rate_of_width

MOST_WRITE_SHARE = 0.5
"""Largest share of the HB bandwidth that writes into staging take."""
LOADS_AT_ONCE = 2
"""On a link that is shared: enough for one load's latency to pass while another's bytes come."""


@dataclass(frozen=True)
class AnalyticCost:
    """The default `CostModel`.

    HB reads run at the reachable bandwidth less what an always-running load would write into staging, so that a
    load never slows a read: `bank_bytes_per_second · efficiency − load bytes per second / banks`. Where one memory
    holds everything, nothing is loaded. On a machine whose HB is not faster than its external memory, loads are held to
    `MOST_WRITE_SHARE` of the HB bandwidth.
    """

    machine: Machine

    def space(self) -> Space:
        """See `CostModel`."""
        return self._space

    def rates(self) -> Rates:
        """See `CostModel`."""
        return self._rates

    @cached_property
    def _space(self) -> Space:
        hb, external, deep = self.machine.hb, self.machine.external, self.machine.deep
        far_bytes = 0 if self.machine.is_unified else external.capacity_bytes
        names = (hb.given, external.given)
        space = Space(self.machine.name, hb.banks, hb.capacity_bytes, far_bytes, hb.staging_bytes, *names)
        return replace(space, deep_bytes=deep.capacity_bytes, deep_name=deep.given) if deep else space

    @cached_property
    def _rates(self) -> Rates:
        machine, hb, far = self.machine, self.machine.hb, self.machine.far_engine
        return Rates(
            bank_bytes_per_second=hb.bank_bytes_per_second * hb.efficiency,
            far_bytes_per_second=machine.external.bytes_per_second,
            load_bytes_per_second=self._stream_bytes_per_second(),
            link_bytes_per_second=machine.aggregation.bytes_per_second,
            w4a8_macs_per_second=machine.engine.w4a8_macs_per_second,
            w8a8_macs_per_second=machine.engine.w8a8_macs_per_second,
            attention_macs_per_second=machine.engine.attention_macs_per_second,
            link_reduces=bool(machine.aggregation.reduces),
            streams=bool(machine.engine.streams),
            load_latency_seconds=self._load_latency_seconds(),
            loads_at_once=LOADS_AT_ONCE if machine.streamline.shared else 1,
            is_half_duplex=bool(machine.streamline.half_duplex),
            far_shares_unit=bool(far and far.same_unit),
            far_engine_bytes_per_second=far.bytes_per_second if far else 0.0,
            far_engine_macs_per_second=far.macs_per_second if far else 0.0,
        )

    def local_read_seconds(self, bytes_in_busiest_bank: float) -> float:
        """See `CostModel`."""
        hb = self.machine.hb
        if bytes_in_busiest_bank <= 0:
            return 0.0
        reserved = 0.0 if self.machine.is_unified else self._load_bytes_per_second() / hb.banks
        return hb.latency_seconds + bytes_in_busiest_bank / (hb.bank_bytes_per_second * hb.efficiency - reserved)

    def external_read_seconds(self, size_bytes: float, share: float = 1.0) -> float:
        """See `CostModel`; the link or the writes into HB limit it where they are slower."""
        if size_bytes <= 0:
            return 0.0
        return self._load_latency_seconds() + size_bytes / (share * self._load_bytes_per_second())

    def mac_seconds(self, macs: float, bits: int, elements: int, tokens: float) -> float:
        """See `CostModel`; each rate serves up to its bits, 16 are attention; a bank has an equal share of the peak."""
        engine = self.machine.engine
        rates = (
            (4, engine.w4a8_macs_per_second),
            (8, engine.w8a8_macs_per_second),
            (math.inf, engine.attention_macs_per_second),
        )
        peak = min(next(rate for most, rate in rates if bits <= most), _rate_of_width(engine, tokens))
        return macs / (peak * min(1.0, elements / self.machine.hb.banks))

    def aggregate_seconds(self, size_bytes: float) -> float:
        """See `CostModel`."""
        link = self.machine.aggregation
        return link.latency_seconds + size_bytes / link.bytes_per_second if size_bytes > 0 else 0.0

    def stream_seconds(self, size_bytes: float) -> float:
        """See `CostModel`; nothing is written, so HB does not limit it."""
        if size_bytes <= 0:
            return 0.0
        return self._load_latency_seconds() + size_bytes / self._stream_bytes_per_second()

    def far_seconds(self, size_bytes: float, macs: float, tokens: float, beside_load: bool) -> float | None:
        """See `CostModel`; a load takes its rate off what the memory gives."""
        engine = self.machine.far_engine
        if engine is None:
            return None
        rate = engine.bytes_per_second
        if beside_load:
            rate = min(rate, self.machine.external.bytes_per_second - self._load_bytes_per_second())
        if rate <= 0:
            return None
        peak = min(engine.macs_per_second, _rate_of_width(engine, tokens))
        return max(size_bytes / rate, macs / peak) + engine.expert_seconds

    def deep_seconds(self, size_bytes: float) -> float:
        """See `CostModel`."""
        deep, link = self.machine.deep, self.machine.deep_link
        if deep is None or link is None or size_bytes <= 0:
            return 0.0
        rate = min(deep.bytes_per_second, link.bytes_per_second)
        return deep.latency_seconds + link.latency_seconds + size_bytes / rate

    def send_seconds(self, size_bytes: float) -> float:
        """See `CostModel`; the way is the link that loads take, there and back."""
        link, engine = self.machine.streamline, self.machine.far_engine
        fixed = engine.layer_seconds if engine else 0.0
        return 2 * (link.latency_seconds + size_bytes / link.bytes_per_second) + fixed

    def fixed_seconds(self, what: str, tokens: int = 0) -> float:
        """See `CostModel`."""
        engine = self.machine.engine
        step = engine.step_seconds + tokens * engine.width_seconds
        return {"step": step, "layer": engine.layer_seconds, "expert": engine.expert_seconds}[what]

    def joules(self, traffic: Traffic, seconds: float) -> dict[str, float]:
        """See `CostModel`; what is read from external memory crosses the link to it."""
        machine, engine, hb = self.machine, self.machine.engine, self.machine.hb
        if not machine.external.read_joules_per_byte and not engine.w8a8_joules_per_mac:
            return {}
        computed = traffic.w4a8_macs * engine.w4a8_joules_per_mac + traffic.w8a8_macs * engine.w8a8_joules_per_mac
        computed += traffic.attention_macs * engine.attention_joules_per_mac
        far_engine, far_read = machine.far_engine, traffic.far_read_bytes
        computed_far = {"far_engine": traffic.far_macs * far_engine.joules_per_mac} if far_engine else {}
        return {
            "hb_read": traffic.hb_read_bytes * hb.read_joules_per_byte,
            "hb_write": traffic.hb_write_bytes * hb.write_joules_per_byte,
            "external_read": (traffic.external_read_bytes + far_read) * machine.external.read_joules_per_byte,
            "elements": computed,
            **computed_far,
            "aggregation_link": traffic.link_bytes * machine.aggregation.joules_per_byte,
            "streamline_link": traffic.external_read_bytes * machine.streamline.joules_per_byte,
            "static": machine.static_watts * seconds,
        }

    def _load_latency_seconds(self) -> float:
        return self.machine.external.latency_seconds + self.machine.streamline.latency_seconds

    def _stream_bytes_per_second(self) -> float:
        return min(self.machine.external.bytes_per_second, self.machine.streamline.bytes_per_second)

    def _load_bytes_per_second(self) -> float:
        return min(self._stream_bytes_per_second(), MOST_WRITE_SHARE * self.machine.hb.bytes_per_second)


def _rate_of_width(engine: Engine | FarEngine, tokens: float) -> float:
    return rate_of_width(list(zip(engine.widths, engine.width_macs_per_second, strict=True)), tokens)
