"""From draft steps of a routing trace to a placement problem."""

import math

import numpy as np

from moe_passes.estimate.cost import CostModel
from moe_passes.plan.decisions import DraftPlan
from moe_passes.plan.model import ExpertLayer
from moe_passes.plan.round import BYTES_PER_ACTIVATION
from moe_passes.routing.traces import (
    BoolArray,
    RoutingTrace,
    by_popularity,
    cut_rounds,
    evenly,
    membership,
    popularity,
    restrict,
    split_of,
)
from moe_passes.solve.placement.problem import NOBODY, IntArray, Layer, Problem, Rates
from moe_passes.solve.placement.trial import cut_trial, with_prior

TRAINING_STEPS = 256


def prepare(
    cost: CostModel,
    batch: int,
    hidden: int,
    draft: DraftPlan,
    layers: list[tuple[ExpertLayer, IntArray]],
    trace: RoutingTrace,
) -> Problem:
    """Build the problem of placing what is resident.

    Args:
        cost: the machine.
        batch: sequences decoded together.
        hidden: width of the residual stream.
        draft: the draft plan.
        layers: the MoE layers with their residency, [expert].
        trace: routing that is compiled against; its train split is used.

    Raises:
        InputError: the trace is too short.
        InfeasibleError: the residents do not fit the banks.
    """
    order = by_popularity(popularity(trace))
    return Problem(
        rates=rates(cost, draft.expert_bytes, hidden, draft.bits),
        layers=tuple(
            _layer(trace, batch, draft, layer, row, residency, order[row])
            for row, (layer, residency) in enumerate(layers)
        ),
    )


def rates(cost: CostModel, expert_bytes: int, hidden: int, bits: int, loads: bool = False) -> Rates:
    """Return what placements are judged by.

    Args:
        cost: the machine.
        expert_bytes: of the near memory, for experts.
        hidden: width of the residual stream.
        bits: of the weights that are computed with.
        loads: whether a step loads what is not resident. A draft step does not: its channel is never waited for.
    """
    banks, of = cost.space().banks, cost.rates()
    return Rates(
        banks=banks,
        bank_capacity_bytes=expert_bytes // banks,
        bank_bytes_per_second=of.bank_bytes_per_second,
        link_bytes_per_second=of.link_bytes_per_second,
        external_bytes_per_second=of.far_bytes_per_second if loads else math.inf,
        # Where sums become one on their way, they cost the same wherever experts lie: next to nothing decides.
        partial_sum_bytes=1 if of.link_reduces else hidden * BYTES_PER_ACTIVATION,
        bank_macs_per_second=1 / cost.mac_seconds(1.0, bits, 1, math.inf),
    )


def _layer(
    trace: RoutingTrace,
    batch: int,
    draft: DraftPlan,
    layer: ExpertLayer,
    row: int,
    levels: IntArray,
    order: IntArray,
) -> Layer:
    """Cut training steps: draft steps with the restricted choice, or decoding steps where γ is 0."""
    first, length = split_of(trace.tokens, "train")
    source = trace.draft_experts if draft.length else trace.experts
    resident = levels > 0

    def steps_of(tokens: IntArray) -> IntArray:
        asked = membership(source[tokens[evenly(len(tokens), TRAINING_STEPS), :, 0], row], layer.experts)
        used = restrict(asked, resident, order, layer.top_k) if draft.length else asked & resident
        return _ids(used, layer.top_k)

    training = cut_rounds(trace.tokens, batch, 1, "train", TRAINING_STEPS).tokens
    making, trial = (
        with_prior(steps_of(tokens), levels, length * layer.top_k) for tokens in cut_trial(first, length, batch, 1)
    )
    return Layer(
        layer.name,
        layer.experts,
        layer.msb_bytes,
        layer.whole_bytes,
        steps_of(training),
        levels,
        making,
        trial,
        layer.parameters,
    )


def _ids(used: BoolArray, top_k: int) -> IntArray:
    """Turn a mask [step, token, expert] into expert ids [step, token, k], `NOBODY` where there are fewer."""
    ids = np.argsort(~used, axis=2, kind="stable")[:, :, :top_k]
    return np.where(np.take_along_axis(used, ids, axis=2), ids, NOBODY)
