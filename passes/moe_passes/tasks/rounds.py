"""Take rounds out of a routing trace, in the form that task graphs are built from."""

from dataclasses import replace

import numpy as np

from moe_passes.routing.rounds import RoundRouting
from moe_passes.routing.traces import (
    IntArray,
    RoutingTrace,
    by_popularity,
    cut_rounds,
    membership,
    popularity,
    restrict,
)
from moe_passes.solve.hot_set.promote import promoted
from moe_passes.tasks.problem import StaticPlan

TRAINING_ROUNDS = 16


def take_rounds(trace: RoutingTrace, plan: StaticPlan, split: str, most: int) -> list[RoundRouting]:
    """Take up to `most` rounds of a split (`train` or `held-out`)."""
    tokens = cut_rounds(trace.tokens, plan.batch, plan.length + 1, split, most).tokens
    counts = popularity(trace)
    return [_routing(trace, plan, counts, chosen) for chosen in tokens]


def without_wrong_asks(routing: RoundRouting) -> RoundRouting:
    """Return the round as it would be had the draft asked for nothing but what verify needs."""
    return replace(routing, asked=routing.asked & np.any(routing.verify, axis=1, keepdims=True))


def representative(rounds: list[RoundRouting], plan: StaticPlan) -> RoundRouting:
    """Choose the round whose external bytes are the median."""
    sizes = [external_bytes(plan, routing) for routing in rounds]
    return rounds[int(np.argsort(sizes, kind="stable")[(len(sizes) - 1) // 2])]


def external_bytes(plan: StaticPlan, routing: RoundRouting) -> int:
    """Return the expert bytes that a round's verify needs from external memory."""
    total = 0
    for row, layer in enumerate(plan.layers):
        distinct = routing.verify[row].any(axis=0)
        total += sum(layer.loaded_bytes(int(e)) for e in np.flatnonzero(distinct))
    return total


def _routing(trace: RoutingTrace, plan: StaticPlan, counts: IntArray, tokens: np.ndarray) -> RoundRouting:
    """Build one round from token indices [batch, γ + 1]."""
    count, top_k = trace.experts_per_layer, trace.experts.shape[2]
    order = by_popularity(counts)
    verify = membership(trace.experts[tokens.ravel()], count).transpose(1, 0, 2)
    drafts = tokens[:, : plan.length].T
    asked = membership(trace.draft_experts[drafts], count).transpose(0, 2, 1, 3)
    drafted = np.zeros_like(asked)
    for row, layer in enumerate(plan.layers):
        drafted[:, row] = restrict(asked[:, row], layer.residency > 0, order[row], top_k)
    hotness = counts + asked.sum(axis=(0, 2))
    pairs = [
        promoted(layer.residency > 0, verify[row].any(axis=0), hotness[row]) for row, layer in enumerate(plan.layers)
    ]
    before = tokens - tokens.shape[1]
    recent = membership(trace.experts[before[before >= 0]], count).sum(axis=0)
    return RoundRouting(verify, asked, drafted, recent, tuple(pairs))
