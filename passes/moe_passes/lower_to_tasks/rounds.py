"""Take rounds out of a routing trace, in the form that task graphs are built from."""

import numpy as np

from moe_passes.lower_to_tasks.problem import RoundRouting, StaticPlan
from moe_passes.routing import RoutingTrace, by_popularity, cut_rounds, membership, popularity, restrict

TRAINING_ROUNDS = 16


def take_rounds(trace: RoutingTrace, plan: StaticPlan, split: str, most: int) -> list[RoundRouting]:
    """Take up to `most` rounds of a split (`train` or `held-out`)."""
    tokens = cut_rounds(trace.tokens, plan.batch, plan.length + 1, split, most).tokens
    order = by_popularity(popularity(trace))
    return [_routing(trace, plan, order, chosen) for chosen in tokens]


def representative(trace: RoutingTrace, plan: StaticPlan) -> RoundRouting:
    """Choose the training round whose external bytes are the median of the training sample."""
    rounds = take_rounds(trace, plan, "train", TRAINING_ROUNDS)
    sizes = [external_bytes(plan, routing) for routing in rounds]
    return rounds[int(np.argsort(sizes, kind="stable")[(len(sizes) - 1) // 2])]


def external_bytes(plan: StaticPlan, routing: RoundRouting) -> int:
    """Return the expert bytes that a round's verify needs from external memory."""
    total = 0
    for row, layer in enumerate(plan.layers):
        distinct = routing.verify[row].any(axis=0)
        total += sum(layer.loaded_bytes(int(e)) for e in np.flatnonzero(distinct))
    return total


def _routing(trace: RoutingTrace, plan: StaticPlan, order: np.ndarray, tokens: np.ndarray) -> RoundRouting:
    """Build one round from token indices [batch, γ + 1]."""
    count, top_k = trace.experts_per_layer, trace.experts.shape[2]
    verify = membership(trace.experts[tokens.ravel()], count).transpose(1, 0, 2)
    drafts = tokens[:, : plan.length].T
    asked = membership(trace.draft_experts[drafts], count).transpose(0, 2, 1, 3)
    drafted = np.zeros_like(asked)
    for row, layer in enumerate(plan.layers):
        drafted[:, row] = restrict(asked[:, row], layer.residency > 0, order[row], top_k)
    return RoundRouting(verify, asked, drafted)
