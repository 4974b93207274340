"""`schema: 2` of hardware files: any number of memories, engines and links (DESIGN section 6)."""

from typing import Annotated, Any, Literal

import networkx as nx
from moe_passes.plan.machine import AUTO, Engine, FarEngine, Link, Machine, Memory
from moe_passes.plan.tiers import Processor, Tier, Tiers, Way
from pydantic import BaseModel, ConfigDict, Field, model_validator

from moe_compiler.hardware.schema import (
    GB,
    LARGEST,
    PJ_PER_BIT,
    Count,
    Flag,
    Fraction,
    NotNegative,
    Positive,
    Power,
    Section,
)

MOST_LEVELS = 3
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
Rate = Annotated[str, Field(pattern=r"^(w[1-9][0-9]?a[1-9][0-9]?|attention)$")]


class MemorySection(Section):
    """A memory: its whole bandwidth, or banks and that of each."""

    capacity_gb: Positive
    bandwidth_gb_s: Positive | None = None
    banks: Count | None = None
    bank_bandwidth_gb_s: Positive | None = None
    efficiency: Fraction = 1.0
    latency_ns: NotNegative
    devices: Count = 1
    staging_gb: Positive | Literal["auto"] = "auto"
    read_energy_pj_per_bit: NotNegative | None = None
    write_energy_pj_per_bit: NotNegative | None = None

    @model_validator(mode="after")
    def _says_its_bandwidth(self) -> "MemorySection":
        banked = self.banks is not None and self.bank_bandwidth_gb_s is not None
        if (self.bandwidth_gb_s is None) != banked:
            raise ValueError("valid: bandwidth_gb_s, or banks and bank_bandwidth_gb_s")
        return self

    @property
    def bytes_per_second(self) -> float:
        """Reachable, of all devices or banks together."""
        peak = self.bandwidth_gb_s or float(self.banks or 0) * float(self.bank_bandwidth_gb_s or 0)
        return peak * self.devices * self.efficiency * GB

    def to_memory(self, name: str, given: str, is_far: bool = False) -> Memory:
        """Convert to SI; what has no banks is one. Nothing is staged in a far memory."""
        banks = self.banks or 1
        return Memory(
            name=name,
            capacity_bytes=round(self.capacity_gb * self.devices * GB),
            banks=banks,
            bank_bytes_per_second=self.bytes_per_second / self.efficiency / banks,
            efficiency=self.efficiency,
            latency_seconds=self.latency_ns * 1e-9,
            read_joules_per_byte=(self.read_energy_pj_per_bit or 0.0) * PJ_PER_BIT,
            write_joules_per_byte=(self.write_energy_pj_per_bit or 0.0) * PJ_PER_BIT,
            staging_bytes=0 if is_far else AUTO if self.staging_gb == "auto" else round(self.staging_gb * GB),
            given=given,
        )


ATTENTION = "attention"


def _by_bits(figures: dict[str, float]) -> list[tuple[int, float]]:
    """Return (bits of a weight, figure) of figures by format, `w4a16` for example; attention's own left out."""
    return [(int(key[1:].partition("a")[0]), value) for key, value in figures.items() if key != ATTENTION]


class StreamSection(BaseModel):
    """What passes by an engine: weights of a memory over a link."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    memory: Name
    link: Name


class EngineSection(Section):
    """An engine: it computes on what lies in its memory."""

    memory: Name
    unit: Name | None = None
    tops: dict[Rate, Positive] = Field(min_length=1)
    tops_by_width: dict[int, Positive] = Field(default_factory=dict)
    energy_pj_per_mac: dict[Rate, NotNegative] | None = None
    bandwidth_gb_s: Positive | None = None
    streams: tuple[StreamSection, ...] = ()
    step_overhead_us: NotNegative = 0.0
    layer_overhead_us: NotNegative = 0.0
    expert_overhead_us: NotNegative = 0.0
    width_overhead_us: NotNegative = 0.0

    def to_processor(self, name: str, memory: MemorySection) -> Processor:
        """Convert to SI; an operation is half a multiply-accumulate."""
        rates: dict[int, float] = {}
        for bits, tops in _by_bits(self.tops):
            rates[bits] = max(rates.get(bits, 0.0), tops * 1e12 / 2)
        if ATTENTION in self.tops:
            rates.setdefault(16, self.tops[ATTENTION] * 1e12 / 2)
        own = self.bandwidth_gb_s * GB if self.bandwidth_gb_s else memory.bytes_per_second
        return Processor(
            name=name,
            macs_per_second=tuple(sorted(rates.items())),
            bytes_per_second=own,
            step_seconds=self.step_overhead_us * 1e-6,
            layer_seconds=self.layer_overhead_us * 1e-6,
            expert_seconds=self.expert_overhead_us * 1e-6,
        )

    def to_engine(self, processor: Processor) -> Engine:
        """Convert to SI, with the rates of a processor made from this."""
        energy = self.energy_pj_per_mac or {}
        joules = {bits: value * 1e-12 for bits, value in _by_bits(energy)}
        attention = self.tops.get(ATTENTION)
        return Engine(
            name="elements",
            w4a8_macs_per_second=processor.rate(4),
            w8a8_macs_per_second=processor.rate(8),
            w4a8_joules_per_mac=joules.get(4, joules.get(8, 0.0)),
            w8a8_joules_per_mac=joules.get(8, joules.get(16, 0.0)),
            attention_macs_per_second=attention * 1e12 / 2 if attention else processor.rate(16),
            attention_joules_per_mac=energy.get(ATTENTION, 0.0) * 1e-12 or joules.get(16, 0.0),
            streams=int(bool(self.streams)),
            step_seconds=processor.step_seconds,
            layer_seconds=processor.layer_seconds,
            expert_seconds=processor.expert_seconds,
            given=processor.name,
        )

    def to_far_engine(self, processor: Processor) -> FarEngine:
        """Convert to SI, with the rates of a processor made from this."""
        joules = dict(_by_bits(self.energy_pj_per_mac or {}))
        return FarEngine(
            name=processor.name,
            macs_per_second=processor.rate(8),
            joules_per_mac=joules.get(8, joules.get(16, 0.0)) * 1e-12,
            bytes_per_second=processor.bytes_per_second,
            layer_seconds=processor.layer_seconds,
            expert_seconds=processor.expert_seconds,
        )


class LinkSection(Section):
    """A link: from one memory to another, within a banked memory, or across the devices of one."""

    from_: Name | None = Field(default=None, alias="from")
    to: Name | None = None
    within: Name | None = None
    across: Name | None = None
    bandwidth_gb_s: Positive
    latency_ns: NotNegative
    sharing: Literal["exclusive", "shared"] = "exclusive"
    duplex: Literal["half", "full"] = "full"
    reduces: Flag = False
    energy_pj_per_bit: NotNegative | None = None

    @model_validator(mode="after")
    def _says_where(self) -> "LinkSection":
        ways = ((self.from_, self.to), (self.within,), (self.across,))
        given = [all(ends) for ends in ways if any(ends)]
        if given != [True]:
            raise ValueError("valid: from and to, or within, or across")
        return self

    def to_link(self, name: str, given: str) -> Link:
        """Convert to SI."""
        return Link(
            name=name,
            bytes_per_second=self.bandwidth_gb_s * GB,
            latency_seconds=self.latency_ns * 1e-9,
            joules_per_byte=(self.energy_pj_per_bit or 0.0) * PJ_PER_BIT,
            reduces=int(self.reduces),
            given=given,
        )


FREE_LINK = Link("aggregation", LARGEST * GB, 0.0, 0.0)
"""Within a memory without banks nothing is summed up over a link."""
FREE_STREAM = Link("streamline", LARGEST * GB, 0.0, 0.0)


class TieredTarget(BaseModel):
    """A whole hardware file of schema 2."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal[2] = Field(alias="schema")
    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = Field(min_length=1)
    memories: dict[Name, MemorySection] = Field(min_length=1, max_length=16)
    engines: dict[Name, EngineSection] = Field(min_length=1, max_length=16)
    links: dict[Name, LinkSection] = Field(default_factory=dict, max_length=32)
    power: Power | None = None

    def problems(self) -> list[tuple[str, str]]:
        """Return what makes no machine of the parts: (path, what is wrong and what would be valid)."""
        return self._unknown_names() or self._shape()

    def _unknown_names(self) -> list[tuple[str, str]]:
        known = ", ".join(self.memories)
        found = []
        for path, name in self._named_memories():
            if name not in self.memories:
                found.append((path, f"value '{name}': valid: a memory of this file: {known}"))
        for name, engine in self.engines.items():
            for n, stream in enumerate(engine.streams):
                if stream.link not in self.links:
                    valid = ", ".join(self.links) or "none is there"
                    found.append((f"engines.{name}.streams.{n}.link", f"value '{stream.link}': valid: a link: {valid}"))
        return found

    def _named_memories(self) -> list[tuple[str, str]]:
        found = [(f"engines.{name}.memory", engine.memory) for name, engine in self.engines.items()]
        for name, engine in self.engines.items():
            found += [(f"engines.{name}.streams.{n}.memory", s.memory) for n, s in enumerate(engine.streams)]
        for name, link in self.links.items():
            ends = (("from", link.from_), ("to", link.to), ("within", link.within), ("across", link.across))
            found += [(f"links.{name}.{end}", memory) for end, memory in ends if memory is not None]
        return found

    def _graph(self) -> "nx.DiGraph[str]":
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(self.memories)
        graph.add_edges_from((link.from_, link.to) for link in self.links.values() if link.from_)
        return graph

    def _shape(self) -> list[tuple[str, str]]:
        graph, computing = self._graph(), {engine.memory for engine in self.engines.values()}
        if not nx.is_directed_acyclic_graph(graph):
            cycle = " -> ".join(edge[0] for edge in nx.find_cycle(graph))
            return [("links", f"they lead in a circle ({cycle}): valid: links from far memories to nearer ones")]
        ends = [name for name in self.memories if not graph.out_degree(name)]
        near = [name for name in ends if name in computing]
        if len(near) > 1:
            return [("memories", f"{' and '.join(near)} are both nearest: valid: one that all links lead to")]
        silent = [name for name in ends if name not in computing]
        if silent:
            return [(f"memories.{silent[0]}", "no engine computes on it and no link leads on: valid: either")]
        order = self.order()
        if len(order) > MOST_LEVELS or any(graph.out_degree(name) > 1 for name in order):
            return [("memories", f"{len(order)} in {', '.join(order)}: valid: a chain of at most {MOST_LEVELS}")]
        apart = [name for name, m in self.memories.items() if m.devices > 1 and not self._is_joined(name)]
        if apart:
            return [
                (f"memories.{apart[0]}.devices", "nothing joins them: valid: a link with `across: " + apart[0] + "`")
            ]
        return []

    def _is_joined(self, memory: str) -> bool:
        is_near = memory == self.order()[0]
        return not is_near or any(link.across == memory for link in self.links.values())

    def order(self) -> list[str]:
        """Return the memories from near to deep."""
        return list(reversed(list(nx.lexicographical_topological_sort(self._graph()))))

    def to_machine(self, overrides: tuple[str, ...]) -> Machine:
        """Convert to what the passes of `moec compile` know: a near memory, in banks or one, and a far one.

        A third one holds what the far memory does not.
        """
        order = self.order()
        tiers = self.to_tiers()
        near = self.memories[order[0]].to_memory("hb", order[0])
        engine = tiers.near.engine
        assert engine is not None
        of = {engine.memory: engine for engine in self.engines.values()}
        own, beyond = of[order[0]], tiers.tiers[1].engine if len(order) > 1 else None
        links = {link.from_: (link, name) for name, link in self.links.items() if link.from_}
        inner = next(((link, name) for name, link in self.links.items() if link.within == order[0]), None)
        return Machine(
            name=self.name,
            external=self.memories[order[1]].to_memory("external", order[1], is_far=True) if len(order) > 1 else near,
            hb=near,
            engine=own.to_engine(engine),
            aggregation=inner[0].to_link("aggregation", inner[1]) if inner else FREE_LINK,
            streamline=links[order[1]][0].to_link("streamline", links[order[1]][1]) if len(order) > 1 else FREE_STREAM,
            static_watts=self.power.static_w if self.power else 0.0,
            overrides=overrides,
            deep=self.memories[order[2]].to_memory("deep", order[2], is_far=True) if len(order) > 2 else None,
            deep_link=links[order[2]][0].to_link("deep_link", links[order[2]][1]) if len(order) > 2 else None,
            far_engine=of[order[1]].to_far_engine(beyond) if beyond else None,
        )

    def to_tiers(self) -> Tiers:
        """Convert to SI."""
        order, engines = self.order(), {engine.memory: (name, engine) for name, engine in self.engines.items()}
        tiers = []
        for name in order:
            memory = self.memories[name]
            computes = engines.get(name)
            tiers.append(
                Tier(
                    name=name,
                    capacity_bytes=round(memory.capacity_gb * memory.devices * GB),
                    bytes_per_second=memory.bytes_per_second,
                    latency_seconds=memory.latency_ns * 1e-9,
                    engine=computes[1].to_processor(computes[0], memory) if computes else None,
                )
            )
        links = {link.from_: (name, link) for name, link in self.links.items() if link.from_}
        ways = [
            Way(links[name][0], links[name][1].bandwidth_gb_s * GB, links[name][1].latency_ns * 1e-9)
            for name in order[1:]
        ]
        return Tiers(self.name, tuple(tiers), tuple(ways))


def sections_of(data: dict[str, Any]) -> dict[str, type[Section]]:
    """Return every section with figures that a file of schema 2 has, by its path."""
    kinds = (("memories", MemorySection), ("engines", EngineSection), ("links", LinkSection))
    found: dict[str, type[Section]] = {}
    for group, kind in kinds:
        names = data.get(group)
        found |= {f"{group}.{name}": kind for name in (names if isinstance(names, dict) else ())}
    if "power" in data:
        found["power"] = Power
    return found
