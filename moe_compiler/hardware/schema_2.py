"""`schema: 2` of hardware files: any number of memories, engines and links (DESIGN section 6)."""

import itertools
from dataclasses import replace
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
    Title,
)

MOST_LEVELS = 3
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
Rate = Annotated[str, Field(pattern=r"^(w[1-9][0-9]?a[1-9][0-9]?|attention)$")]
Width = Annotated[int, Field(ge=1, le=2**20)]


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

    def to_memory(self, name: str, given: str) -> Memory:
        """Convert to SI; what has no banks is one, and nothing is staged but near."""
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
            staging_bytes=0,
            given=given,
        )

    def to_near_memory(self, given: str, reads: float, link: "LinkSection | None") -> Memory:
        """Convert to SI, as its engine sees it.

        Args:
            given: its name.
            reads: bytes per second that the engine reaches.
            link: that weights pass by over on their way to the engine, where they do.
        """
        memory = self.to_memory("hb", given)
        passing = (link.energy_pj_per_bit or 0.0) * PJ_PER_BIT if link else 0.0
        return replace(
            memory,
            latency_seconds=(self.latency_ns + (link.latency_ns if link else 0.0)) * 1e-9,
            bank_bytes_per_second=reads / self.efficiency / memory.banks,
            read_joules_per_byte=memory.read_joules_per_byte + passing,
            staging_bytes=AUTO if self.staging_gb == "auto" else round(self.staging_gb * GB),
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
    tops_by_width: dict[Width, Positive] = Field(default_factory=dict)
    energy_pj_per_mac: dict[Rate, NotNegative] | None = None
    bandwidth_gb_s: Positive | None = None
    streams: tuple[StreamSection, ...] = ()
    step_overhead_us: NotNegative = 0.0
    layer_overhead_us: NotNegative = 0.0
    expert_overhead_us: NotNegative = 0.0
    width_overhead_us: NotNegative = 0.0

    def stream_of(self, memory: str) -> str | None:
        """Return the link over which weights of a memory pass by, or None."""
        return next((stream.link for stream in self.streams if stream.memory == memory), None)

    def by_width(self) -> tuple[tuple[int, int], ...]:
        """Return (tokens that meet a weight, multiply-accumulates per second from there on), ascending."""
        return tuple((width, round(tops * 1e12 / 2)) for width, tops in sorted(self.tops_by_width.items()))

    def to_processor(self, name: str, memory: MemorySection, link: "LinkSection | None") -> Processor:
        """Convert to SI; an operation is half a multiply-accumulate.

        Args:
            name: its name.
            memory: that it computes on.
            link: that the weights of its memory pass by over, where they do.
        """
        rates: dict[int, float] = {}
        for bits, tops in _by_bits(self.tops):
            rates[bits] = max(rates.get(bits, 0.0), tops * 1e12 / 2)
        if ATTENTION in self.tops:
            rates.setdefault(16, self.tops[ATTENTION] * 1e12 / 2)
        own = self.bandwidth_gb_s * GB if self.bandwidth_gb_s else memory.bytes_per_second
        return Processor(
            name=name,
            macs_per_second=tuple(sorted(rates.items())),
            bytes_per_second=min(own, link.bandwidth_gb_s * GB) if link else own,
            step_seconds=self.step_overhead_us * 1e-6,
            layer_seconds=self.layer_overhead_us * 1e-6,
            expert_seconds=self.expert_overhead_us * 1e-6,
            width_seconds=self.width_overhead_us * 1e-6,
            by_width=self.by_width(),
        )

    def to_engine(self, processor: Processor, far: str | None) -> Engine:
        """Convert to SI.

        Args:
            processor: made from this.
            far: the memory after its own, or None.
        """
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
            given=processor.name,
            streams=int(far is not None and self.stream_of(far) is not None),
            step_seconds=processor.step_seconds,
            layer_seconds=processor.layer_seconds,
            expert_seconds=processor.expert_seconds,
            width_seconds=processor.width_seconds,
            widths=tuple(width for width, _ in processor.by_width),
            width_macs_per_second=tuple(rate for _, rate in processor.by_width),
        )

    def to_far_engine(self, processor: Processor, near: "EngineSection") -> FarEngine:
        """Convert to SI.

        Args:
            processor: made from this.
            near: the engine of the near memory.
        """
        joules = dict(_by_bits(self.energy_pj_per_mac or {}))
        return FarEngine(
            name=processor.name,
            macs_per_second=processor.rate(8),
            joules_per_mac=joules.get(8, joules.get(16, 0.0)) * 1e-12,
            bytes_per_second=processor.bytes_per_second,
            layer_seconds=processor.layer_seconds,
            expert_seconds=processor.expert_seconds,
            same_unit=int(self.unit is not None and self.unit == near.unit),
            widths=tuple(width for width, _ in processor.by_width),
            width_macs_per_second=tuple(rate for _, rate in processor.by_width),
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
            given=given,
            reduces=int(self.reduces),
            shared=int(self.sharing == "shared"),
            half_duplex=int(self.duplex == "half"),
        )


FREE_LINK = Link("aggregation", LARGEST * GB, 0.0, 0.0, "aggregation")
"""Within a memory without banks nothing is summed up over a link."""
FREE_STREAM = Link("streamline", LARGEST * GB, 0.0, 0.0, "streamline")


class TieredTarget(BaseModel):
    """A whole hardware file of schema 2."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal[2] = Field(alias="schema")
    name: Title
    description: str = Field(min_length=1)
    memories: dict[Name, MemorySection] = Field(min_length=1, max_length=16)
    engines: dict[Name, EngineSection] = Field(min_length=1, max_length=16)
    links: dict[Name, LinkSection] = Field(default_factory=dict, max_length=32)
    power: Power | None = None

    def problems(self) -> list[tuple[str, str]]:
        """Return what makes no machine of the parts: (path, what is wrong and what would be valid)."""
        return self._unknown_names() or self._shape() or self._doubled() or self._wrong_streams()

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

    def _doubled(self) -> list[tuple[str, str]]:
        """Return engines of one memory, and links from one: which of them would count?"""
        found = []
        engines = [(engine.memory, f"engines.{name}.memory") for name, engine in self.engines.items()]
        links = [(link.from_, f"links.{name}.from") for name, link in self.links.items() if link.from_]
        within = [(link.within, f"links.{name}.within") for name, link in self._inner().items()]
        for pairs, what in ((engines, "engine of"), (links, "link from"), (within, "link within")):
            first: dict[str | None, str] = {}
            for memory, path in pairs:
                if first.setdefault(memory, path) != path:
                    valid = f"one {what} a memory; a part with an engine or a link of its own is a memory of its own"
                    found.append((path, f"value '{memory}', as {first[memory]}: valid: {valid}"))
        return found

    def _wrong_streams(self) -> list[tuple[str, str]]:
        """Return streams that are none: weights come from an engine's own memory, or from the next over its link."""
        order, found = self.order(), []
        after = dict(itertools.pairwise(order))
        for name, engine in self.engines.items():
            for n, stream in enumerate(engine.streams):
                link, path = self.links[stream.link], f"engines.{name}.streams.{n}"
                beyond = after.get(engine.memory)
                if stream.memory not in (engine.memory, beyond):
                    valid = f"'{engine.memory}'" + (f" or '{beyond}'" if beyond else "")
                    found.append((f"{path}.memory", f"value '{stream.memory}': valid: {valid}"))
                elif stream.memory not in (link.from_, link.within):
                    found.append((f"{path}.link", f"value '{stream.link}': valid: a link from '{stream.memory}'"))
        return found

    def _inner(self) -> dict[str, LinkSection]:
        """Return links of partial sums: within a memory, and nothing streams over them."""
        streamed = {stream.link for engine in self.engines.values() for stream in engine.streams}
        return {name: link for name, link in self.links.items() if link.within and name not in streamed}

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
        near_name, far_name, deep_name = [*self.order(), None, None][:MOST_LEVELS]
        assert near_name is not None
        engines, loads = self._engines(), {link.from_: (link, name) for name, link in self.links.items() if link.from_}
        inner = next(((link, name) for name, link in self._inner().items() if link.within == near_name), None)
        own, processor = engines[near_name]
        near = self.memories[near_name].to_near_memory(near_name, processor.bytes_per_second, self._passing(own))
        beyond = engines.get(far_name) if far_name else None
        return Machine(
            name=self.name,
            external=self.memories[far_name].to_memory("external", far_name) if far_name else near,
            hb=near,
            engine=own.to_engine(processor, far_name),
            aggregation=inner[0].to_link("aggregation", inner[1]) if inner else FREE_LINK,
            streamline=loads[far_name][0].to_link("streamline", loads[far_name][1]) if far_name else FREE_STREAM,
            static_watts=self.power.static_w if self.power else 0.0,
            overrides=overrides,
            deep=self.memories[deep_name].to_memory("deep", deep_name) if deep_name else None,
            deep_link=loads[deep_name][0].to_link("deep_link", loads[deep_name][1]) if deep_name else None,
            far_engine=beyond[0].to_far_engine(beyond[1], own) if beyond else None,
        )

    def _engines(self) -> dict[str, tuple[EngineSection, Processor]]:
        """Return the engine of each memory that has one, also in SI."""
        return {
            engine.memory: (engine, engine.to_processor(name, self.memories[engine.memory], self._passing(engine)))
            for name, engine in self.engines.items()
        }

    def _passing(self, engine: EngineSection) -> LinkSection | None:
        """Return the link over which an engine gets what lies in its own memory, where there is one."""
        name = engine.stream_of(engine.memory)
        return self.links[name] if name else None

    def to_tiers(self) -> Tiers:
        """Convert to SI."""
        order, engines = self.order(), self._engines()
        tiers = []
        for name in order:
            memory = self.memories[name]
            tiers.append(
                Tier(
                    name=name,
                    capacity_bytes=round(memory.capacity_gb * memory.devices * GB),
                    bytes_per_second=memory.bytes_per_second,
                    latency_seconds=memory.latency_ns * 1e-9,
                    engine=engines[name][1] if name in engines else None,
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
