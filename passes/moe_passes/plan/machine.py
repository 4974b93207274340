"""The machine that is compiled for, in SI units: what the passes know of a hardware file."""

from dataclasses import dataclass
from functools import cached_property

AUTO = -1
"""`Memory.staging_bytes` when select-draft chooses the size."""
MOST_BANKS = 65_536
"""Of a memory: beyond any machine."""


@dataclass(frozen=True)
class Memory:
    """One memory tier.

    Attributes:
        name: `hb` (near, in banks that elements compute on), `external` (far) or `deep`.
        capacity_bytes: bytes in all banks.
        banks: banks that work independently (1 for a striped external memory).
        bank_bytes_per_second: peak of one bank.
        efficiency: reachable fraction of the peak, in (0, 1].
        latency_seconds: from request to first byte.
        read_joules_per_byte: energy of a read.
        write_joules_per_byte: energy of a write.
        staging_bytes: bytes set aside for prefetched slices; `AUTO` to let select-draft choose.
        given: name in the hardware file.
    """

    name: str
    capacity_bytes: int
    banks: int
    bank_bytes_per_second: float
    efficiency: float
    latency_seconds: float
    read_joules_per_byte: float
    write_joules_per_byte: float
    staging_bytes: int
    given: str

    @property
    def bytes_per_second(self) -> float:
        """Reachable bytes per second of all banks together."""
        return self.banks * self.bank_bytes_per_second * self.efficiency


@dataclass(frozen=True)
class Engine:
    """The processing elements, one under each bank of HB.

    Attributes:
        name: `elements`.
        w4a8_macs_per_second: peak of all elements on 4-bit weight slices.
        w8a8_macs_per_second: peak of all elements on 8-bit weights.
        w4a8_joules_per_mac: energy of a multiply-accumulate on a 4-bit slice.
        w8a8_joules_per_mac: energy of a multiply-accumulate on an 8-bit weight.
        attention_macs_per_second: peak of all elements on the FP16 KV cache.
        attention_joules_per_mac: energy of a multiply-accumulate on the FP16 KV cache.
        given: name in the hardware file.
        streams: whether they also compute on weights of the external memory that pass by, without storing them; 0 or 1.
        step_seconds: fixed, of a step.
        layer_seconds: fixed, of a layer's dense work.
        expert_seconds: fixed, of an expert.
        width_seconds: fixed, of a step for every token that it takes.
        widths: tokens that meet a weight, ascending, from which on a product runs at another rate.
        width_macs_per_second: that rate, for each of them; below the first, the first.
    """

    name: str
    w4a8_macs_per_second: float
    w8a8_macs_per_second: float
    w4a8_joules_per_mac: float
    w8a8_joules_per_mac: float
    attention_macs_per_second: float
    attention_joules_per_mac: float
    given: str
    streams: int = 0
    step_seconds: float = 0.0
    layer_seconds: float = 0.0
    expert_seconds: float = 0.0
    width_seconds: float = 0.0
    widths: tuple[int, ...] = ()
    width_macs_per_second: tuple[int, ...] = ()


@dataclass(frozen=True)
class FarEngine:
    """What computes on weights where they lie in the far memory: a CPU beside its DRAM, for example.

    Attributes:
        name: in the hardware file.
        macs_per_second: peak on 8-bit weights.
        joules_per_mac: energy of a multiply-accumulate on an 8-bit weight.
        bytes_per_second: at which it reads the far memory.
        layer_seconds: fixed, of a layer that it computes experts of.
        expert_seconds: fixed, of an expert.
        same_unit: whether it is the silicon of the elements, so that one of the two works at a time; 0 or 1.
        widths: as of `Engine`.
        width_macs_per_second: as of `Engine`.
    """

    name: str
    macs_per_second: float
    joules_per_mac: float
    bytes_per_second: float
    layer_seconds: float
    expert_seconds: float
    same_unit: int = 0
    widths: tuple[int, ...] = ()
    width_macs_per_second: tuple[int, ...] = ()


@dataclass(frozen=True)
class Link:
    """A link.

    Attributes:
        name: `aggregation` (partial sums, all-gathers), `streamline` (from the external memory) or `deep_link`.
        bytes_per_second: bandwidth.
        latency_seconds: of one transfer.
        joules_per_byte: energy.
        reduces: whether partial sums of one token become one on the way; 0 or 1.
        given: name in the hardware file.
        shared: whether two loads may take half of it each; 0 or 1.
        half_duplex: whether what comes back takes the link as well; 0 or 1.
    """

    name: str
    bytes_per_second: float
    latency_seconds: float
    joules_per_byte: float
    given: str
    reduces: int = 0
    shared: int = 0
    half_duplex: int = 0


@dataclass(frozen=True)
class Machine:
    """A whole machine. Where the near memory is the only one, `external` is `hb`.

    Attributes:
        name: name of the hardware file.
        external: the far memory, which holds the whole model.
        hb: the near memory, which the elements compute on.
        engine: the elements.
        aggregation: link for partial sums.
        streamline: link that carries weights past all elements.
        static_watts: power that does not depend on the work.
        overrides: the `--set` assignments that were applied, as text.
        far_engine: what computes on the external memory where there is also HB, or None.
        deep: the memory behind the external one, which holds the whole model where that does not; or None.
        deep_link: from the deep memory to the external one.
    """

    name: str
    external: Memory
    hb: Memory
    engine: Engine
    aggregation: Link
    streamline: Link
    static_watts: float
    overrides: tuple[str, ...] = ()
    far_engine: FarEngine | None = None
    deep: Memory | None = None
    deep_link: Link | None = None

    @cached_property
    def is_unified(self) -> bool:
        """Whether everything lies in one near memory."""
        return self.external == self.hb
