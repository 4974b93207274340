"""`schema: 1` of hardware files: hybrid-bonded memory before an external one, or that alone. It becomes schema 2."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moe_compiler.hardware.schema import NOTES, Count, Flag, Fraction, NotNegative, Positive, Power, Section, Title
from moe_compiler.hardware.schema_2 import TieredTarget

FP16_PRODUCTS = 4
"""Products of 8 bits in one of 16: what attention on the FP16 KV cache costs where a file does not say."""


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


class External(Section):
    """Memory `external`: main memory, striped over its channels."""

    capacity_gb: Positive
    bandwidth_gb_s: Positive
    efficiency: Fraction
    latency_ns: NotNegative
    read_energy_pj_per_bit: NotNegative


class Elements(Section):
    """Engine `elements`: the processing elements."""

    w8a8_tops: Positive
    w4a8_tops: Positive
    w8a8_energy_pj_per_mac: NotNegative
    w4a8_energy_pj_per_mac: NotNegative
    attention_tops: Positive | None = None
    attention_energy_pj_per_mac: NotNegative | None = None
    streams: Flag = True

    def upgraded(self, memory: str) -> dict[str, Any]:
        """Return the engine of schema 2; without HB, everything streams past it from where it lies."""
        attention, energy = self.attention_tops, self.attention_energy_pj_per_mac
        return {
            "memory": memory,
            "streams": [{"memory": "external", "link": "streamline"}] if self.streams or memory == "external" else [],
            "tops": {
                "w4a8": self.w4a8_tops,
                "w8a8": self.w8a8_tops,
                "attention": self.w8a8_tops / FP16_PRODUCTS if attention is None else attention,
            },
            "energy_pj_per_mac": {
                "w4a8": self.w4a8_energy_pj_per_mac,
                "w8a8": self.w8a8_energy_pj_per_mac,
                "attention": self.w8a8_energy_pj_per_mac * FP16_PRODUCTS if energy is None else energy,
            },
        }


class LinkSection(Section):
    """One link of the logic die."""

    bandwidth_gb_s: Positive
    latency_ns: NotNegative
    energy_pj_per_bit: NotNegative


class Aggregation(LinkSection):
    """The link of partial sums and gathers, which may add sums of one token up on their way."""

    reduces: Flag = False


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
    name: Title
    description: str = Field(min_length=1)
    memories: Memories
    engines: Engines
    links: Links
    power: Power

    def upgraded(self) -> TieredTarget:
        """Return the same machine in schema 2."""
        near = "external" if self.memories.hb is None else "hb"
        streamline = {"within": "external"} if self.memories.hb is None else {"from": "external", "to": "hb"}
        links = {"streamline": _figures(self.links.streamline) | streamline}
        if self.memories.hb is not None:
            links["aggregation"] = _figures(self.links.aggregation) | {"within": "hb"}
        content = {
            "schema": 2,
            "name": self.name,
            "description": self.description,
            "memories": {name: _figures(part) for name, part in self.memories if part is not None},
            "engines": {"elements": self.engines.elements.upgraded(near)},
            "links": links,
            "power": _figures(self.power),
        }
        return TieredTarget.model_validate(content)


def _figures(section: Section) -> dict[str, Any]:
    return section.model_dump(exclude=set(NOTES))


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
