"""The machine that is compiled for, in SI units: what the passes know of a hardware file."""

from dataclasses import dataclass

AUTO = -1
"""`Memory.staging_bytes` when select-draft chooses the size."""
MOST_BANKS = 65_536
"""Of a memory: beyond any machine."""


@dataclass(frozen=True)
class Memory:
    """One memory tier.

    Attributes:
        name: `hb` (hybrid-bonded, banked, near-memory compute) or `external`.
        capacity_bytes: bytes in all banks.
        banks: banks that work independently (1 for a striped external memory).
        bank_bytes_per_second: peak of one bank.
        efficiency: reachable fraction of the peak, in (0, 1].
        latency_seconds: from request to first byte.
        read_joules_per_byte: energy of a read.
        write_joules_per_byte: energy of a write.
        staging_bytes: bytes set aside for prefetched slices; `AUTO` to let select-draft choose.
        given: name in the hardware file, where that is another.
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
    given: str = ""

    @property
    def bytes_per_second(self) -> float:
        """Reachable bytes per second of all banks together."""
        return self.banks * self.bank_bytes_per_second * self.efficiency


@dataclass(frozen=True)
class Engine:
    """The processing elements, one under each bank of HB, which also serve as the xPU.

    Attributes:
        name: name in the hardware file.
        w4a8_macs_per_second: peak of all elements on 4-bit weight slices.
        w8a8_macs_per_second: peak of all elements on 8-bit weights.
        w4a8_joules_per_mac: energy of a multiply-accumulate on a 4-bit slice.
        w8a8_joules_per_mac: energy of a multiply-accumulate on an 8-bit weight.
        attention_macs_per_second: peak of all elements on the FP16 KV cache.
        attention_joules_per_mac: energy of a multiply-accumulate on the FP16 KV cache.
        streams: whether elements can compute on weights that stream past them.
        step_seconds: fixed, of a step.
        layer_seconds: fixed, of a layer's dense work.
        expert_seconds: fixed, of an expert.
        given: name in the hardware file, where that is another.
    """

    name: str
    w4a8_macs_per_second: float
    w8a8_macs_per_second: float
    w4a8_joules_per_mac: float
    w8a8_joules_per_mac: float
    attention_macs_per_second: float
    attention_joules_per_mac: float
    streams: int = 1
    step_seconds: float = 0.0
    layer_seconds: float = 0.0
    expert_seconds: float = 0.0
    given: str = ""


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
    """

    name: str
    macs_per_second: float
    joules_per_mac: float
    bytes_per_second: float
    layer_seconds: float
    expert_seconds: float


@dataclass(frozen=True)
class Link:
    """A link on the logic die.

    Attributes:
        name: `aggregation` (partial sums, all-gathers) or `streamline` (weights past the elements).
        bytes_per_second: bandwidth.
        latency_seconds: of one transfer.
        joules_per_byte: energy.
        reduces: whether partial sums of one token become one on the way; 0 or 1.
        given: name in the hardware file, where that is another.
    """

    name: str
    bytes_per_second: float
    latency_seconds: float
    joules_per_byte: float
    reduces: int = 0
    given: str = ""


@dataclass(frozen=True)
class Machine:
    """A whole machine. `hb` is None where there is no near memory; where it is the only one, `external` is `hb`.

    Attributes:
        name: name of the hardware file.
        external: main memory.
        hb: hybrid-bonded memory, or None.
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
    hb: Memory | None
    engine: Engine
    aggregation: Link
    streamline: Link
    static_watts: float
    overrides: tuple[str, ...] = ()
    far_engine: FarEngine | None = None
    deep: Memory | None = None
    deep_link: Link | None = None

    @property
    def is_unified(self) -> bool:
        """Whether everything lies in one near memory."""
        return self.external == self.hb
