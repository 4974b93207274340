"""What everything that decides or reports asks of a machine: the one interface to its figures.

A cost model is made for a machine by a factory that is registered under a name (`registry.py`), travels in the
pipeline's context, and answers in seconds and joules. Nothing but a cost model reads a figure of a machine.
"""

from dataclasses import dataclass
from typing import Protocol

from moe_passes.plan.machine import Machine
from moe_passes.plan.round import Traffic


@dataclass(frozen=True)
class Space:
    """How much a machine holds.

    Attributes:
        machine: its name.
        banks: of the near memory.
        near_bytes: capacity of the near memory.
        far_bytes: capacity of the memory that holds the whole model; 0 where the near memory does.
        staging_bytes: of the near memory, set aside for what is loaded; `AUTO` where select-draft chooses.
        near_name: of the near memory in the hardware file.
        far_name: of the far memory there.
        deep_bytes: capacity of the memory behind the far one; 0 without one.
        deep_name: of that memory.
    """

    machine: str
    banks: int
    near_bytes: int
    far_bytes: int
    staging_bytes: int
    near_name: str = "hb"
    far_name: str = "external"
    deep_bytes: int = 0
    deep_name: str = "deep"

    @property
    def is_unified(self) -> bool:
        """Whether the near memory holds the whole model."""
        return self.far_bytes == 0


@dataclass(frozen=True)
class Rates:
    """What a machine does in the long run, latencies left out: for closed forms and rooflines.

    Attributes:
        bank_bytes_per_second: reads of one bank.
        far_bytes_per_second: reads of the far memory.
        load_bytes_per_second: the far memory, or the link behind it where that is slower.
        link_bytes_per_second: partial sums and gathers.
        w4a8_macs_per_second: all elements, weights of up to 4 bits.
        w8a8_macs_per_second: all elements, 8-bit weights.
        attention_macs_per_second: all elements, the FP16 KV cache.
        load_latency_seconds: of one load.
        link_reduces: whether partial sums of one token become one on their way.
        streams: whether elements compute on weights of the far memory that pass by, without storing them.
        loads_at_once: loads that share the link to the far memory; 1 where each has it for itself.
        is_half_duplex: whether what is sent to the far engine takes the link that loads take.
        far_shares_unit: whether the far engine is the silicon of the near one: one of the two works at a time.
        far_engine_bytes_per_second: reads of the engine of the far memory; 0 without one.
        far_engine_macs_per_second: of the engine of the far memory.
    """

    bank_bytes_per_second: float
    far_bytes_per_second: float
    load_bytes_per_second: float
    link_bytes_per_second: float
    w4a8_macs_per_second: float
    w8a8_macs_per_second: float
    attention_macs_per_second: float
    load_latency_seconds: float
    link_reduces: bool
    streams: bool = False
    loads_at_once: int = 1
    is_half_duplex: bool = False
    far_shares_unit: bool = False
    far_engine_bytes_per_second: float = 0.0
    far_engine_macs_per_second: float = 0.0

    @property
    def computes_far(self) -> bool:
        """Whether experts can be computed where they lie in the far memory."""
        return self.far_engine_bytes_per_second > 0


class CostModel(Protocol):
    """Seconds and joules."""

    def space(self) -> Space:
        """Return what the machine holds."""
        ...

    def rates(self) -> Rates:
        """Return what the machine does in the long run."""
        ...

    def local_read_seconds(self, bytes_in_busiest_bank: float) -> float:
        """Seconds to read bytes out of one HB bank, first byte included."""
        ...

    def external_read_seconds(self, size_bytes: float, share: float = 1.0) -> float:
        """Seconds to bring bytes out of external memory, first byte included, with a share of its link."""
        ...

    def mac_seconds(self, macs: float, bits: int, elements: int, tokens: float) -> float:
        """Seconds for multiply-accumulates.

        Args:
            macs: on the elements together.
            bits: of the weights; 16: attention on the KV cache.
            elements: that work.
            tokens: that meet each weight.
        """
        ...

    def aggregate_seconds(self, size_bytes: float) -> float:
        """Seconds to move partial sums or activations over the aggregation link."""
        ...

    def stream_seconds(self, size_bytes: float) -> float:
        """Seconds for weights of the external memory to pass all elements, first byte included."""
        ...

    def far_seconds(self, size_bytes: float, macs: float, tokens: float, beside_load: bool) -> float | None:
        """Seconds to compute an expert where it lies in the far memory; None where that cannot be.

        Args:
            size_bytes: of the expert.
            macs: multiply-accumulates.
            tokens: that are routed to it.
            beside_load: while something is loaded out of the same memory, which takes its share of the bandwidth.
        """
        ...

    def deep_seconds(self, size_bytes: float) -> float:
        """Seconds for bytes to come out of the deep memory into the far one, first byte included; 0 without one."""
        ...

    def send_seconds(self, size_bytes: float) -> float:
        """Seconds a layer for activations to the far engine and back, and what is fixed of its layers."""
        ...

    def fixed_seconds(self, what: str, tokens: int = 0) -> float:
        """Seconds that a `step` of so many tokens, a `layer` of dense work or an `expert` takes whatever it does."""
        ...

    def joules(self, traffic: Traffic, seconds: float) -> dict[str, float]:
        """Joules of so much work in so many seconds, by part of the machine; none where energies are not known."""
        ...


class CostModelFactory(Protocol):
    """Makes the cost model of a machine; what is registered under a name."""

    def __call__(self, machine: Machine) -> CostModel:
        """Return the model of a machine."""
        ...
