"""A whole plan as the checker sees it, and whom it asks what primitive pieces of work take."""

from dataclasses import dataclass
from typing import Protocol

from moe_passes.plan.decisions import DispatchPlan, DraftPlan
from moe_passes.plan.model import ModelShape
from moe_passes.plan.phase import Phase
from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.request import Request
from moe_passes.plan.round import Buffer, LayerRouting, Schedule, SteadyState, Task, Work


class Capacities(Protocol):
    """How much the machine holds."""

    @property
    def banks(self) -> int:
        """Banks of the near memory; 0 without one."""
        ...

    @property
    def near_bytes(self) -> int:
        """Capacity of the near memory."""
        ...

    @property
    def far_bytes(self) -> int:
        """Capacity of the memory that holds the whole model; 0 where the near memory does."""
        ...

    @property
    def deep_bytes(self) -> int:
        """Capacity of the memory behind the far one; 0 without one."""
        ...

    @property
    def staging_bytes(self) -> int:
        """What the machine sets aside for what is loaded; negative where that is left to the compiler."""
        ...


class Abilities(Protocol):
    """What a machine can do."""

    @property
    def link_reduces(self) -> bool:
        """Whether partial sums of a token become one on their way."""
        ...

    @property
    def streams(self) -> bool:
        """Whether elements compute on weights that stream past them."""
        ...

    @property
    def loads_at_once(self) -> int:
        """Loads that share the link to the far memory; 1 where each has it for itself."""
        ...

    @property
    def is_half_duplex(self) -> bool:
        """Whether what is sent to the far engine takes the link that loads take."""
        ...

    @property
    def far_shares_unit(self) -> bool:
        """Whether the far engine is the silicon of the near one: one of the two works at a time."""
        ...

    @property
    def computes_far(self) -> bool:
        """Whether experts can be computed where they lie in the far memory."""
        ...


class Prices(Protocol):
    """Seconds of primitive pieces of work: the part of a cost model that cannot be derived."""

    def space(self) -> Capacities:
        """Return what the machine holds."""
        ...

    def rates(self) -> Abilities:
        """Return what the machine can do."""
        ...

    def fixed_seconds(self, what: str, tokens: int = 0) -> float:
        """Seconds that a `step` of so many tokens, a `layer` of dense work or an `expert` takes whatever it does."""
        ...

    def local_read_seconds(self, bytes_in_busiest_bank: float) -> float:
        """Seconds to read bytes out of one bank."""
        ...

    def external_read_seconds(self, size_bytes: float, share: float = 1.0) -> float:
        """Seconds to bring bytes out of external memory, with a share of its link."""
        ...

    def mac_seconds(self, macs: float, bits: int, elements: int, tokens: float) -> float:
        """Seconds for multiply-accumulates."""
        ...

    def aggregate_seconds(self, size_bytes: float) -> float:
        """Seconds on the aggregation link."""
        ...

    def stream_seconds(self, size_bytes: float) -> float:
        """Seconds for weights of the external memory to pass all elements."""
        ...

    def far_seconds(self, size_bytes: float, macs: float, tokens: float, beside_load: bool) -> float | None:
        """Seconds to compute an expert where it lies in the far memory; None where that cannot be."""
        ...

    def deep_seconds(self, size_bytes: float) -> float:
        """Seconds for bytes to come out of the deep memory."""
        ...

    def send_seconds(self, size_bytes: float) -> float:
        """Seconds a layer for activations to the far engine and back."""
        ...


@dataclass(frozen=True)
class Plan:
    """A complete plan.

    Attributes:
        prices: of the machine.
        model: the model as a whole.
        request: the request.
        draft: the draft plan.
        dispatch: the dispatcher's plan.
        draft_phase: one draft step.
        verify_phase: the verify step.
        layers: MoE layers with residency and replicas.
        routing: of the round, by expert store.
        names: of resources.
        capacities: of resources.
        tasks: of the round.
        work: of every task.
        buffers: what is held across tasks.
        schedule: start and mode of every task.
        offsets: address of every buffer.
        steady: the steady state.
    """

    prices: Prices
    model: ModelShape
    request: Request
    draft: DraftPlan
    dispatch: DispatchPlan
    draft_phase: Phase
    verify_phase: Phase
    layers: tuple[PlacedLayer, ...]
    routing: dict[str, LayerRouting]
    names: tuple[str, ...]
    capacities: tuple[int, ...]
    tasks: tuple[Task, ...]
    work: tuple[Work, ...]
    buffers: tuple[Buffer, ...]
    schedule: Schedule
    offsets: tuple[int, ...]
    steady: SteadyState | None

    def end(self, task: int) -> int:
        """Return when a task ends."""
        return self.schedule.end(self, task)

    def title(self, task: int) -> str:
        """Name a task for messages."""
        work = self.work[task]
        expert = f" expert {work.expert}" if work.expert >= 0 else ""
        at = f", {work.where}" if work.where else ""
        return f"task {task} ({work.kind}, step {work.step}, layer {work.layer}{expert}{at})"
