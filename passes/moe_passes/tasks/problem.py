"""What a round's tasks are made from: the static plan, the routing of the round; and what is made of them."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moe_passes.plan.decisions import FROZEN, DispatchPlan, HotSetRule
from moe_passes.plan.model import WHOLE_BITS
from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.round import Work
from moe_passes.solve.dispatch.problem import Guess, Unknown
from moe_passes.solve.rcpsp.problem import Problem
from moe_passes.tasks.stages import Stage


@dataclass(frozen=True)
class StaticPlan:
    """Everything that is decided before a round is known.

    Attributes:
        batch: sequences.
        context: tokens in the KV cache.
        length: γ.
        bits: of a weight in the draft.
        hidden: width of the residual stream.
        staging_bytes: size of staging.
        draft: stages of a draft step.
        verify: stages of the verify step.
        layers: MoE layers, in order; expert stores by their position in it.
        dispatch: when loads start in a round that is not known.
        hot_set: how residents follow the routing.
        dense_bits: of a dense weight in the draft.
        kv_banks: banks that the KV cache of a head and sequence is striped over; 0: all.
    """

    batch: int
    context: int
    length: int
    bits: int
    hidden: int
    staging_bytes: int
    draft: tuple[Stage, ...]
    verify: tuple[Stage, ...]
    layers: tuple[PlacedLayer, ...]
    dispatch: DispatchPlan
    hot_set: HotSetRule = FROZEN
    dense_bits: int = WHOLE_BITS
    kv_banks: int = 0

    def with_needs(self, permille: npt.NDArray[np.int64], dispatch: DispatchPlan) -> "StaticPlan":
        """Return the plan with another dispatch plan, and how often verify needs each expert: [layer, expert], ‰."""
        layers = tuple(replace(layer, needed_permille=row) for layer, row in zip(self.layers, permille, strict=True))
        return replace(self, layers=layers, dispatch=dispatch)

    def row(self, store: str) -> int:
        """Return the position of an expert store among the layers."""
        return next(row for row, layer in enumerate(self.layers) if layer.shape.name == store)


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
    guesses: tuple[Guess, ...] = ()

    def unknown(self) -> Unknown:
        """Return the round as the dispatcher meets it."""
        return Unknown(self.problem, self.guesses)
