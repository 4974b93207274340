"""The schema of a hardware file, and the one place that converts its units to SI."""

from dataclasses import replace
from typing import Annotated, Literal

from moe_passes.plan.machine import AUTO, Engine, Link, Machine, Memory
from pydantic import BaseModel, ConfigDict, Field

GB = 1e9
PJ_PER_BIT = 8e-12
"""Joules per byte of one picojoule per bit."""

SMALLEST, LARGEST = 1e-6, 1e9
"""Range of a figure in its unit: wide enough for any machine, narrow enough that nothing overflows."""

Positive = Annotated[float, Field(ge=SMALLEST, le=LARGEST, strict=True, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST, strict=True, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.001, le=1, strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
FP16_PRODUCTS = 4
"""Products of 8 bits in one of 16: what attention on the FP16 KV cache costs where a file does not say."""
Count = Annotated[int, Field(ge=1, le=4096, strict=True)]


class Section(BaseModel):
    """A group of figures with their sources beside them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: dict[str, str] | str = Field(default_factory=dict)
    assumed: dict[str, str] | str = Field(default_factory=dict)

    def source_of(self, field: str) -> str:
        """Say where a figure comes from."""
        for label, notes in (("", self.source), ("assumed: ", self.assumed)):
            if isinstance(notes, dict) and field in notes:
                return label + notes[field]
        for label, notes in (("", self.source), ("assumed: ", self.assumed)):
            if isinstance(notes, str):
                return label + notes
        return "not stated"


def _or(given: float | None, usual: float) -> float:
    return usual if given is None else given


class HybridBonded(Section):
    """Memory `hb`: banks with an element under each."""

    capacity_gb: Positive
    banks: Count
    bank_bandwidth_gb_s: Positive
    efficiency: Fraction
    latency_ns: NotNegative
    read_energy_pj_per_bit: NotNegative
    write_energy_pj_per_bit: NotNegative
    staging_gb: Positive | Literal["auto"] = "auto"

    def to_memory(self) -> Memory:
        """Convert to SI."""
        return Memory(
            name="hb",
            capacity_bytes=round(self.capacity_gb * GB),
            banks=self.banks,
            bank_bytes_per_second=self.bank_bandwidth_gb_s * GB,
            efficiency=self.efficiency,
            latency_seconds=self.latency_ns * 1e-9,
            read_joules_per_byte=self.read_energy_pj_per_bit * PJ_PER_BIT,
            write_joules_per_byte=self.write_energy_pj_per_bit * PJ_PER_BIT,
            staging_bytes=AUTO if self.staging_gb == "auto" else round(self.staging_gb * GB),
        )


class External(Section):
    """Memory `external`: main memory, striped over its channels."""

    capacity_gb: Positive
    bandwidth_gb_s: Positive
    efficiency: Fraction
    latency_ns: NotNegative
    read_energy_pj_per_bit: NotNegative

    def to_memory(self) -> Memory:
        """Convert to SI; the channels work as one striped bank."""
        return Memory(
            name="external",
            capacity_bytes=round(self.capacity_gb * GB),
            banks=1,
            bank_bytes_per_second=self.bandwidth_gb_s * GB,
            efficiency=self.efficiency,
            latency_seconds=self.latency_ns * 1e-9,
            read_joules_per_byte=self.read_energy_pj_per_bit * PJ_PER_BIT,
            write_joules_per_byte=0.0,
            staging_bytes=0,
        )


class Elements(Section):
    """Engine `elements`: the processing elements; an operation is half a multiply-accumulate."""

    w8a8_tops: Positive
    w4a8_tops: Positive
    w8a8_energy_pj_per_mac: NotNegative
    w4a8_energy_pj_per_mac: NotNegative
    attention_tops: Positive | None = None
    attention_energy_pj_per_mac: NotNegative | None = None
    streams: Flag = True

    def to_engine(self) -> Engine:
        """Convert to SI."""
        return Engine(
            name="elements",
            w4a8_macs_per_second=self.w4a8_tops * 1e12 / 2,
            w8a8_macs_per_second=self.w8a8_tops * 1e12 / 2,
            w4a8_joules_per_mac=self.w4a8_energy_pj_per_mac * 1e-12,
            w8a8_joules_per_mac=self.w8a8_energy_pj_per_mac * 1e-12,
            attention_macs_per_second=_or(self.attention_tops, self.w8a8_tops / FP16_PRODUCTS) * 1e12 / 2,
            attention_joules_per_mac=_or(self.attention_energy_pj_per_mac, self.w8a8_energy_pj_per_mac * FP16_PRODUCTS)
            * 1e-12,
            streams=int(self.streams),
        )


class LinkSection(Section):
    """One link of the logic die."""

    bandwidth_gb_s: Positive
    latency_ns: NotNegative
    energy_pj_per_bit: NotNegative

    def to_link(self, name: str) -> Link:
        """Convert to SI."""
        return Link(
            name=name,
            bytes_per_second=self.bandwidth_gb_s * GB,
            latency_seconds=self.latency_ns * 1e-9,
            joules_per_byte=self.energy_pj_per_bit * PJ_PER_BIT,
        )


class Aggregation(LinkSection):
    """The link of partial sums and gathers, which may add sums of one token up on their way."""

    reduces: Flag = False

    def to_link(self, name: str) -> Link:
        """Convert to SI."""
        return replace(super().to_link(name), reduces=int(self.reduces))


class Power(Section):
    """Power that does not depend on the work."""

    static_w: NotNegative


class Memories(BaseModel):
    """Memories by name; `hb` may be missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    external: External
    hb: HybridBonded | None = None


class Engines(BaseModel):
    """Engines by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    elements: Elements


class Links(BaseModel):
    """Links by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    aggregation: Aggregation
    streamline: LinkSection


class Target(BaseModel):
    """A whole hardware file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = Field(min_length=1)
    memories: Memories
    engines: Engines
    links: Links
    power: Power

    def to_machine(self, overrides: tuple[str, ...]) -> Machine:
        """Convert to what the passes use, in SI units."""
        return Machine(
            name=self.name,
            external=self.memories.external.to_memory(),
            hb=self.memories.hb.to_memory() if self.memories.hb else None,
            engine=self.engines.elements.to_engine(),
            aggregation=self.links.aggregation.to_link("aggregation"),
            streamline=self.links.streamline.to_link("streamline"),
            static_watts=self.power.static_w,
            overrides=overrides,
        )


SECTIONS: dict[str, type[Section]] = {
    "memories.hb": HybridBonded,
    "memories.external": External,
    "engines.elements": Elements,
    "links.aggregation": Aggregation,
    "links.streamline": LinkSection,
    "power": Power,
}
"""Every section with figures, by its path."""

RETIRED = ("memories.external.channels", "memories.external.write_energy_pj_per_bit", "engines.elements.count")
"""Figures that older files state and that nothing reads: they are let pass."""

NOTES = ("source", "assumed")
