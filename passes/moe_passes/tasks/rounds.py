"""Take rounds out of a routing trace, in the form that task graphs are built from."""

from dataclasses import replace

import numpy as np

from moe_passes.plan.decisions import NONE
from moe_passes.plan.placed import PlacedLayer
from moe_passes.routing.rounds import RoundRouting
from moe_passes.routing.traces import (
    BoolArray,
    IntArray,
    RoutingTrace,
    by_popularity,
    cut_rounds,
    membership,
    popularity,
    restrict,
)
from moe_passes.solve.hot_set.follow import HotSet, Pairs
from moe_passes.tasks.problem import StaticPlan

TRAINING_ROUNDS = 16


def take_rounds(trace: RoutingTrace, plan: StaticPlan, split: str, most: int) -> list[RoundRouting]:
    """Take up to `most` rounds of a split (`train` or `held-out`), each as if it began with the plan's residents."""
    tokens = cut_rounds(trace.tokens, plan.batch, plan.length + 1, split, most).tokens
    return read_rounds(trace, plan, popularity(trace), tokens)


def read_rounds(trace: RoutingTrace, plan: StaticPlan, counts: IntArray, tokens: IntArray) -> list[RoundRouting]:
    """Read rounds of tokens [round, batch, γ + 1], each as if it began with the plan's residents.

    Args:
        trace: routing.
        plan: with the residents.
        counts: [layer, expert], how often training tokens chose each.
        tokens: token indices into the trace.
    """
    return [_Reader(trace, plan, counts).read(chosen) for chosen in tokens]


def follow_rounds(
    trace: RoutingTrace, plan: StaticPlan, counts: IntArray, tokens: IntArray, taken: IntArray
) -> list[tuple[StaticPlan, RoundRouting]]:
    """Take rounds that follow each other: the first begins with the plan's residents, the next with what that left.

    Args:
        trace: routing.
        plan: with the residents of the first round.
        counts: [layer, expert], how often training tokens chose each.
        tokens: [round, batch, γ + 1], of all rounds, token indices into the trace.
        taken: numbers of the rounds to take, ascending.

    Returns:
        Of each round that is taken the plan with its residents, and its routing.
    """
    reader, result = _Reader(trace, plan, counts), []
    wanted = set(taken.tolist())
    for number in range(max(wanted, default=-1) + 1):
        if number in wanted:
            result.append((reader.plan(), reader.read(tokens[number])))
        else:
            reader.skip(tokens[number])
    return result


def split_tokens(trace: RoutingTrace, plan: StaticPlan, split: str) -> IntArray:
    """Return the tokens of all rounds of a split: [round, batch, γ + 1].

    Raises:
        InputError: the split is too short for one round.
    """
    return cut_rounds(trace.tokens, plan.batch, plan.length + 1, split, trace.tokens).tokens


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


class _Reader:
    """Reads one round after the other off a trace."""

    def __init__(self, trace: RoutingTrace, plan: StaticPlan, counts: IntArray) -> None:
        self.trace, self.begun_with = trace, plan
        self.order = by_popularity(counts)
        resident = np.stack([layer.residency > 0 for layer in plan.layers])
        self.hot_set = HotSet(plan.hot_set, resident, counts)

    def plan(self) -> StaticPlan:
        """Return the plan with the residents of now: each has the banks of the one whose place it took."""
        pairs = zip(self.begun_with.layers, self.hot_set.place, strict=True)
        return replace(self.begun_with, layers=tuple(_exchanged(layer, place) for layer, place in pairs))

    def skip(self, tokens: IntArray) -> None:
        """Let residents follow a round of tokens [batch, γ + 1]."""
        self._follow(membership(self.trace.experts[tokens.ravel()], self.trace.experts_per_layer))

    def _follow(self, uses: BoolArray) -> Pairs:
        """Let residents follow the choices of a round: [token, layer, expert]."""
        return self.hot_set.follow(uses.sum(axis=0), len(uses), self.trace.experts.shape[2])

    def read(self, tokens: IntArray) -> RoundRouting:
        """Build a round from token indices [batch, γ + 1], and let residents follow it."""
        trace, plan, count = self.trace, self.begun_with, self.trace.experts_per_layer
        uses = membership(trace.experts[tokens.ravel()], count)
        drafts = tokens[:, : plan.length].T
        asked = membership(trace.draft_experts[drafts], count).transpose(0, 2, 1, 3)
        drafted, resident = np.zeros_like(asked), self.hot_set.resident
        for row in range(len(plan.layers)):
            drafted[:, row] = restrict(asked[:, row], resident[row], self.order[row], trace.experts.shape[2])
        before = tokens - tokens.shape[1]
        recent = membership(trace.experts[before[before >= 0]], count).sum(axis=0)
        return RoundRouting(
            uses.transpose(1, 0, 2), asked, drafted, recent, self._follow(uses).by_layer(len(plan.layers))
        )


def _exchanged(layer: PlacedLayer, place: IntArray) -> PlacedLayer:
    """Give every resident the residency and the banks of the one whose place it has."""
    return replace(
        layer,
        residency=np.where(place >= 0, layer.residency[place], NONE),
        replicas=tuple(layer.replicas[first] if first >= 0 else () for first in place.tolist()),
    )
