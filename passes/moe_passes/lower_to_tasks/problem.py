"""What lower-to-tasks starts from: the static plan, the routing of one round, and the tasks it makes of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_passes.schedule_round.problem import Guess, Problem
from moe_passes.workload import DensePart, DispatchPlan, ExpertLayer


@dataclass(frozen=True)
class PlacedLayer:
    """One MoE layer with every decision about it.

    Attributes:
        shape: of its experts.
        residency: [expert], 0 none, 1 msb, 2 all.
        replicas: banks of every replica of every expert's resident part.
        needed_permille: [expert], training rounds of 1,000 in which verify needed it.
    """

    shape: ExpertLayer
    residency: npt.NDArray[np.int64]
    replicas: tuple[tuple[tuple[int, ...], ...], ...]
    needed_permille: npt.NDArray[np.int64]

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
        dispatch: when loads start in a round that is not known.
    """

    batch: int
    context: int
    length: int
    bits: int
    hidden: int
    staging_bytes: int
    parts: tuple[DensePart, ...]
    layers: tuple[PlacedLayer, ...]
    dispatch: DispatchPlan


@dataclass(frozen=True)
class RoundRouting:
    """Routing of one round.

    Attributes:
        verify: [MoE layer, token, expert], choices of the batch·(γ + 1) verified tokens.
        asked: [step, MoE layer, batch, expert], unrestricted choices of the draft's router.
        drafted: [step, MoE layer, batch, expert], choices restricted to residents, which the draft computes.
        recent: [MoE layer, expert], tokens of the round before that were routed to an expert.
        promoted: per MoE layer, (expert, resident that it replaces) of the next hot set.
    """

    verify: npt.NDArray[np.bool_]
    asked: npt.NDArray[np.bool_]
    drafted: npt.NDArray[np.bool_]
    recent: npt.NDArray[np.int64]
    promoted: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class Work:
    """What a task does, for energy and the roofline.

    Kinds: `attention` (all dense work of a layer), `draft-experts`, `load`, `expert`, `write` (what the next hot set
    keeps of an expert, from staging to the banks of the expert that it replaces), `gather` (ends the experts of a
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
    replaces: int = -1


@dataclass(frozen=True)
class TaskGraph:
    """A round as a scheduling problem.

    Attributes:
        problem: its tasks.
        work: what each task does, in the same order.
        guesses: loads that start, if at all, before verify's router has said whether they are needed.
    """

    problem: Problem
    work: tuple[Work, ...]
    guesses: tuple[Guess, ...]
