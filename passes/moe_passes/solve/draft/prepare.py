"""From the model, the machine and a routing trace to a select-draft problem."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from moe_passes.estimate.cost import CostModel
from moe_passes.estimate.dense import DenseStep, step_seconds
from moe_passes.estimate.far import far_tokens
from moe_passes.estimate.feasibility import Footprint, check_placed, deep_experts, free_bytes, least_staging
from moe_passes.plan.acceptance import Acceptance
from moe_passes.plan.decisions import ALL, FROZEN, NONE, HotSetRule
from moe_passes.plan.errors import InputError
from moe_passes.plan.known import known_as
from moe_passes.plan.machine import AUTO
from moe_passes.plan.model import WHOLE_BITS, DensePart
from moe_passes.plan.place import ALL_NEAR, Place, parse_place
from moe_passes.plan.request import AUTO_LENGTH, MeasuredAcceptance, Request
from moe_passes.plan.round import BYTES_PER_ACTIVATION
from moe_passes.routing.traces import IntArray, RoutingTrace, cut_rounds, popularity, split_of
from moe_passes.solve.draft import acceptance
from moe_passes.solve.draft.history import cut_rounds as cut_judging
from moe_passes.solve.draft.history import replay
from moe_passes.solve.draft.problem import SLICED_BITS, Problem, Rates, Slice
from moe_passes.solve.residency.fixed import check_place, near_experts, rule_of

LONGEST_AUTO = 16
"""γ is chosen from 0 to this when the request says `auto`."""
STAGED_EXPERTS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Staging sizes to choose from, in whole experts."""
MOST_STAGING = 0.5
"""Largest share of the free HB that `auto` gives to staging."""
RULES = (
    FROZEN,
    *(HotSetRule(window, most, 1) for window in (16, 256, 1024) for most in (1, 8)),
    HotSetRule(64, 8, 4),
    HotSetRule(64, 1, 1),
    HotSetRule(64, 8, 1),
)
"""For the hot set, to choose from; descents start from the last."""
MOST_ROUNDS = 256
"""Rounds that settings are judged by in closed form."""
NARROW_BITS = 5.0
"""Scales included: what is computed with at the rate of 4-bit weights."""
SOME_BYTES = 1e9
"""What rates of closed forms are asked for, so that latencies weigh little."""


def prepare(
    cost: CostModel,
    request: Request,
    of: Footprint,
    draft: list[DensePart],
    verify: list[DensePart],
    trace: RoutingTrace,
    measured: tuple[MeasuredAcceptance, ...] = (),
) -> Problem:
    """Build the problem: the first half of the training tokens chooses residents, the second half judges.

    Args:
        cost: the machine.
        request: the request.
        of: what the model takes.
        draft: dense work of a draft step.
        verify: dense work of the verify step.
        trace: routing that is compiled against; its train split is used.
        measured: what was measured of drafts.

    Raises:
        InfeasibleError: staging is too small.
        InputError: the trace is too short.
    """
    lengths = _lengths(request, trace, Acceptance((), 1, 0.0, "", measured).longest)
    first = of.layers[0]
    # What has no slices is computed with as it is: in four bits if its weights have no more.
    is_narrow = bool(first.residual_bytes) or of.model.expert_bits <= NARROW_BITS
    slices = [Slice(SLICED_BITS if is_narrow else WHOLE_BITS, first.msb_bytes, first.residual_bytes)]
    if first.residual_bytes:
        slices.append(Slice(WHOLE_BITS, first.whole_bytes, 0))
    border = split_of(trace.tokens, "train")[1]
    # Of three quarters of a trace, the last of which is a round at least, half is a round too.
    half = border // 2
    place = place_of(cost, request, of)
    counts = popularity(trace, half)
    placed = placed_bytes(place, of, counts, request.seed)
    check_placed(cost, of, place, placed)
    copies = _copies_bytes(cost, of, placed)
    problem = Problem(
        batch=request.batch,
        top_k=first.top_k,
        capacity_bytes=free_bytes(cost, of),
        copies_bytes=copies,
        slices=tuple(slices),
        staging_choices=_staging_choices(cost, of, placed),
        lengths=lengths,
        rules=RULES if place is None else (rule_of(place, first.experts),),
        whole_bytes=first.whole_bytes,
        popularity=counts,
        chosen=trace.experts[half:border],
        asked=trace.draft_experts[half:border],
        acceptance=Acceptance((), 1, 0.0, "open: it follows from what sets of this problem cover"),
        rates=_rates(cost, request, of, draft, verify, lengths, copies),
        most_rounds=MOST_ROUNDS,
        far_tokens=far_tokens(cost, of.layers, place),
        deep_experts=deep_experts(cost, of),
        place=place,
        placed_bytes=placed,
        seed=request.seed,
    )
    return replace(problem, acceptance=_acceptance(problem, of, verify, measured))


def place_of(cost: CostModel, request: Request, of: Footprint) -> Place | None:
    """Return the placement that is asked for; where there is one memory, everything is near.

    Raises:
        InputError: it names what is not there.
    """
    space = cost.space()
    if not request.place and not space.is_unified:
        return None
    place = parse_place(request.place or ALL_NEAR)
    memories = (space.near_name,) if space.is_unified else (space.near_name, space.far_name)
    check_place(place, (len(of.layers), of.layers[0].experts), memories, cost.rates().computes_far)
    return place


def placed_bytes(place: Place | None, of: Footprint, counts: IntArray, seed: int) -> int:
    """Return the bytes of the experts that a placement has near."""
    if place is None:
        return 0
    return int(near_experts(place, counts, seed).sum()) * of.layers[0].whole_bytes


def _lengths(request: Request, trace: RoutingTrace, known: int | None) -> tuple[int, ...]:
    """Return the draft lengths to choose from: those of which both splits have a round, where that is left open.

    Raises:
        InputError: the trace is too short, or a draft is asked for that is longer than the `known` acceptance.
    """
    if known is not None and request.draft_length > known:
        raise InputError(
            f"--draft-length {request.draft_length}: accepted lengths are known of drafts of up to {known} tokens; "
            f"valid: auto, or 0 to {known}"
        )
    is_auto = request.draft_length == AUTO_LENGTH
    for split in ("train", "held-out"):
        cut_rounds(trace.tokens, request.batch, 1 if is_auto else request.draft_length + 1, split, 1)
    if not is_auto:
        return (request.draft_length,)
    shortest = min(split_of(trace.tokens, split)[1] for split in ("train", "held-out"))
    longest = min(LONGEST_AUTO, shortest // request.batch - 1)
    return tuple(range(min(longest, longest if known is None else known) + 1))


def _acceptance(
    problem: Problem, of: Footprint, verify: list[DensePart], measured: tuple[MeasuredAcceptance, ...]
) -> Acceptance:
    """Take what was measured, else put published points at the coverage that their sets have in this routing."""
    if measured:
        return Acceptance((), acceptance.REFERENCE_LENGTH, 0.0, measured[0].source, measured)
    dense = sum(part.macs_per_token for part in verify)
    routed = sum(layer.top_k * layer.parameters for layer in of.layers)
    sliceable = of.layers[0].residual_bytes > 0
    return Acceptance(
        curves=tuple(
            acceptance.curve(model, tuple(_coverage(problem, point) for point in acceptance.PUBLISHED[model]))
            for model in acceptance.models_of(known_as(of.model))
        ),
        length=acceptance.REFERENCE_LENGTH,
        dense_share=dense / (dense + routed) if sliceable else 1.0,
        source=acceptance.source(known_as(of.model)),
    )


def _coverage(problem: Problem, point: acceptance.Point) -> float:
    """Return the coverage of a set of a published share that follows, at its batch or the largest there is."""
    length = min(acceptance.REFERENCE_LENGTH, len(problem.chosen) - 1)
    batch = max(1, min(point.batch, len(problem.chosen) // (length + 1)))
    if not length:
        return point.share
    order = np.argsort(-problem.popularity.ravel(), kind="stable")
    levels = np.full(problem.experts, NONE, dtype=np.int64)
    levels[order[: round(point.share * problem.experts)]] = ALL
    kept = levels.reshape(problem.popularity.shape)
    return replay(problem, cut_judging(problem, batch, length), kept, acceptance.PUBLISHED_RULE).coverage


def _staging_choices(cost: CostModel, of: Footprint, placed: int) -> tuple[int, ...]:
    least = least_staging(cost, of)
    if cost.space().staging_bytes != AUTO or cost.space().is_unified:
        return (least,)
    free = free_bytes(cost, of)
    staged, most = of.two_experts // 2, max(least, min(int(MOST_STAGING * free), free - placed))
    return tuple(n * staged for n in STAGED_EXPERTS if n * staged <= most)


def _copies_bytes(cost: CostModel, of: Footprint, placed: int) -> dict[int, int]:
    """Return the bytes of copies of the KV cache by the banks of each, of those that fit with the least staging."""
    banks, room = cost.space().banks, free_bytes(cost, of) - least_staging(cost, of) - placed
    copies = {n: of.kept_kv_bytes(banks, n) - of.kv_bytes for n in range(1, banks + 1) if banks % n == 0}
    return {n: size for n, size in copies.items() if size <= room}


def _rates(
    cost: CostModel,
    request: Request,
    of: Footprint,
    draft: list[DensePart],
    verify: list[DensePart],
    lengths: tuple[int, ...],
    layouts: Collection[int],
) -> Rates:
    banks, rates = cost.space().banks, cost.rates()
    plain = DenseStep(request.batch, 1, request.context)
    sums = 1 if rates.link_reduces else banks
    return Rates(
        draft_dense_seconds={
            (bits, striped): step_seconds(cost, draft, DenseStep(request.batch, 1, request.context, bits, striped))
            for bits in ((WHOLE_BITS, SLICED_BITS) if of.model.slices_dense else (WHOLE_BITS,))
            for striped in layouts
        },
        verify_dense_seconds={
            (n, striped): step_seconds(cost, verify, replace(plain, width=n + 1, kv_banks=striped))
            for n in {0, *lengths}
            for striped in layouts
        },
        hb_seconds_per_byte=cost.local_read_seconds(SOME_BYTES / banks) / SOME_BYTES,
        external_seconds_per_byte=cost.external_read_seconds(SOME_BYTES) / SOME_BYTES,
        load_latency_seconds=rates.load_latency_seconds,
        gather_seconds_per_token=sums * of.model.hidden * BYTES_PER_ACTIVATION / rates.link_bytes_per_second,
        **_far_rates(cost, request, of, lengths),
    )


def _far_rates(cost: CostModel, request: Request, of: Footprint, lengths: tuple[int, ...]) -> dict[str, Any]:
    rates = cost.rates()
    fixed = cost.far_seconds(0, 0, 1, False)
    if fixed is None:
        return {}
    token_bytes = of.model.hidden * BYTES_PER_ACTIVATION
    return {
        "far_seconds_per_byte": 1 / rates.far_engine_bytes_per_second,
        "far_expert_seconds": fixed,
        "far_layer_seconds": {n: cost.send_seconds(request.batch * (n + 1) * token_bytes) for n in {0, *lengths}},
        "far_memory_seconds_per_byte": 1 / rates.far_bytes_per_second,
    }
