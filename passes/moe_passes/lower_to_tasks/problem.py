"""What lower-to-tasks starts from: the static plan, the routing of one round, and the tasks it makes of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_passes.schedule_round.problem import Problem
from moe_passes.workload import DensePart, ExpertLayer


@dataclass(frozen=True)
class PlacedLayer:
    """One MoE layer with every decision about it.

    Attributes:
        shape: of its experts.
        residency: [expert], 0 none, 1 msb, 2 all.
        replicas: banks of every replica of every expert's resident part.
    """

    shape: ExpertLayer
    residency: npt.NDArray[np.int64]
    replicas: tuple[tuple[tuple[int, ...], ...], ...]

    def resident_bytes(self, expert: int) -> int:
        """Bytes of an expert in HB."""
        return (0, self.shape.msb_bytes, self.shape.whole_bytes)[int(self.residency[expert])]

    def loaded_bytes(self, expert: int) -> int:
        """Bytes of an expert that verify must load."""
        return self.shape.whole_bytes - self.resident_bytes(expert)


@dataclass(frozen=True)
class StaticPlan:
    """Everything that is decided before a round is known.

    Attributes:
        batch: sequences.
        context: tokens in the KV cache.
        length: γ.
        bits: of a weight in the draft.
        hidden: width of the residual stream.
        staging_bytes: size of staging (0 without HB).
        parts: dense work per decoder layer, the head last.
        layers: MoE layers, in order.
    """

    batch: int
    context: int
    length: int
    bits: int
    hidden: int
    staging_bytes: int
    parts: tuple[DensePart, ...]
    layers: tuple[PlacedLayer, ...]


@dataclass(frozen=True)
class RoundRouting:
    """Routing of one round.

    Attributes:
        verify: [MoE layer, token, expert], choices of the batch·(γ + 1) verified tokens.
        asked: [step, MoE layer, batch, expert], unrestricted choices of the draft's router.
        drafted: [step, MoE layer, batch, expert], choices restricted to residents, which the draft computes.
    """

    verify: npt.NDArray[np.bool_]
    asked: npt.NDArray[np.bool_]
    drafted: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Work:
    """What a task does, for energy and the roofline.

    Kinds: `attention` (all dense work of a layer), `draft-experts`, `load`, `expert`, `gather` (ends the experts of a
    layer), `head`.
    """

    kind: str
    step: int
    layer: int
    expert: int
    hb_read_bytes: int = 0
    hb_write_bytes: int = 0
    external_read_bytes: int = 0
    link_bytes: int = 0
    w4a8_macs: int = 0
    w8a8_macs: int = 0


@dataclass(frozen=True)
class TaskGraph:
    """A round as a scheduling problem, and what each of its tasks does (same order)."""

    problem: Problem
    work: tuple[Work, ...]
