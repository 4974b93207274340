"""From the model, the machine and a routing trace to a select-draft problem."""

import numpy as np

from moe_passes.estimate.cost import CostModel
from moe_passes.estimate.dense import step_seconds
from moe_passes.estimate.feasibility import Footprint, free_bytes, least_staging
from moe_passes.plan.machine import AUTO
from moe_passes.plan.model import DensePart
from moe_passes.plan.request import AUTO_LENGTH, Request
from moe_passes.plan.round import BYTES_PER_ACTIVATION
from moe_passes.routing.traces import RoutingTrace, cut_rounds, membership, popularity
from moe_passes.solve.draft import acceptance
from moe_passes.solve.draft.problem import Problem, Rates, Slice

TRAINING_ROUNDS = 16
SAMPLE_STEPS = 8
LONGEST_AUTO = 8
"""γ is chosen from 0 to this when the request says `auto`."""
STAGED_EXPERTS = (2, 4, 8, 16, 32, 64, 128, 256)
"""Staging sizes to choose from, in whole experts."""
MOST_STAGING = 0.25
"""Largest share of the free HB that `auto` gives to staging."""
SOME_BYTES = 1e9
"""What rates of closed forms are asked for, so that latencies weigh little."""


def longest_draft(request: Request) -> int:
    """Return the largest γ that can be chosen."""
    return LONGEST_AUTO if request.draft_length == AUTO_LENGTH else request.draft_length


def prepare(
    cost: CostModel,
    request: Request,
    of: Footprint,
    draft: list[DensePart],
    verify: list[DensePart],
    trace: RoutingTrace,
) -> Problem:
    """Build the problem.

    Args:
        cost: the machine.
        request: the request.
        of: what the model takes.
        draft: dense work of a draft step.
        verify: dense work of the verify step.
        trace: routing that is compiled against; its train split is used.

    Raises:
        InfeasibleError: staging is too small.
        InputError: the trace is too short.
    """
    longest, is_auto = longest_draft(request), request.draft_length == AUTO_LENGTH
    lengths = tuple(range(longest + 1)) if is_auto else tuple({0: 0, longest: 0})
    first, count = of.layers[0], trace.experts_per_layer
    rounds = cut_rounds(trace.tokens, request.batch, longest + 1, "train", TRAINING_ROUNDS)
    asked_tokens = membership(trace.draft_experts[rounds.tokens], count)
    shares, at_reference = acceptance.curve(of.model.name)
    slices = [Slice(4, first.msb_bytes, first.residual_bytes)]
    if first.residual_bytes:
        slices.append(Slice(8, first.whole_bytes, 0))
    return Problem(
        batch=request.batch,
        top_k=first.top_k,
        capacity_bytes=free_bytes(cost, of),
        slices=tuple(slices),
        staging_choices=_staging_choices(cost, of),
        lengths=lengths,
        allowed=lengths if is_auto else (longest,),
        whole_bytes=first.whole_bytes,
        popularity=popularity(trace),
        used=np.asarray(membership(trace.experts[rounds.tokens], count).any(axis=1)),
        asked=np.asarray(asked_tokens.any(axis=1)),
        token_asked=asked_tokens[:SAMPLE_STEPS, :, 0],
        acceptance=tuple((shares, tuple(acceptance.at_length(a, n) for a in at_reference)) for n in lengths),
        rates=_rates(cost, request, of.model.hidden, draft, verify, lengths),
    )


def _staging_choices(cost: CostModel, of: Footprint) -> tuple[int, ...]:
    least = least_staging(cost, of)
    if cost.space().staging_bytes != AUTO:
        return (least,)
    staged, most = of.two_experts // 2, max(least, int(MOST_STAGING * free_bytes(cost, of)))
    return tuple(n * staged for n in STAGED_EXPERTS if n * staged <= most)


def _rates(
    cost: CostModel,
    request: Request,
    hidden: int,
    draft: list[DensePart],
    verify: list[DensePart],
    lengths: tuple[int, ...],
) -> Rates:
    banks, rates = cost.space().banks, cost.rates()
    return Rates(
        draft_dense_seconds=step_seconds(cost, draft, request.batch, 1, request.context),
        verify_dense_seconds=tuple(step_seconds(cost, verify, request.batch, n + 1, request.context) for n in lengths),
        hb_seconds_per_byte=cost.local_read_seconds(SOME_BYTES / banks) / SOME_BYTES,
        external_seconds_per_byte=cost.external_read_seconds(SOME_BYTES) / SOME_BYTES,
        load_latency_seconds=rates.load_latency_seconds,
        gather_seconds_per_token=banks * hidden * BYTES_PER_ACTIVATION / rates.link_bytes_per_second,
    )
