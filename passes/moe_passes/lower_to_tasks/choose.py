"""Choose the dispatcher's static plan: what it loads before it is asked to, in which order, on which engine.

Of the choices, the clairvoyant schedule of a round depends on `sure` alone. For each value of it, the plan with the
least mean time over training rounds is the one with the least regret over them; between values, the shorter time
counts, not the smaller regret. Order and threshold are varied together, then one choice at a time, the others as they
are best so far; the rounds that judge are not those that are reported on.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np

from moe_passes.cost import CostModel
from moe_passes.lower_to_tasks.likelihood import SHAPE, likelihoods, share_needed
from moe_passes.lower_to_tasks.problem import StaticPlan, TaskGraph
from moe_passes.lower_to_tasks.rounds import take_rounds
from moe_passes.lower_to_tasks.tasks import build_unknown
from moe_passes.routing import RoutingTrace
from moe_passes.schedule_round.dispatch import ENGINES, ORDERS, dispatch
from moe_passes.workload import DispatchPlan

JUDGES = 2
"""Training rounds that plans are compared on."""
STATISTICS_ROUNDS = 64
"""Training rounds that likelihoods are counted on."""
SURE_PERMILLE = (1000, 1001, 900)
LEAST_PERMILLE = (0, 800, 950, 1001)
NOTHING_AHEAD = DispatchPlan(1001, 1001, (), ORDERS[0], ENGINES[0])
"""Loads start when verify's router has asked for them."""


def choose_dispatch(plan: StaticPlan, trace: RoutingTrace, cost: CostModel) -> StaticPlan:
    """Return the plan with the dispatch plan that is fastest on training rounds, and the likelihoods it goes by.

    Without a draft or without HB, nothing can be loaded ahead.
    """
    if not plan.staging_bytes or not plan.length:
        return replace(plan, dispatch=replace(NOTHING_AHEAD, likelihood_permille=(0,) * math.prod(SHAPE)))
    rounds = take_rounds(trace, plan, "train", STATISTICS_ROUNDS)
    judges = rounds[:: max(1, len(rounds) // JUDGES)][:JUDGES]
    shares = share_needed(rounds)
    layers = tuple(replace(layer, needed_permille=shares[row]) for row, layer in enumerate(plan.layers))
    first = DispatchPlan(SURE_PERMILLE[0], LEAST_PERMILLE[0], likelihoods(rounds, shares), "likelihood", ENGINES[0])

    @cache
    def graphs(choice: DispatchPlan) -> list[TaskGraph]:
        return [build_unknown(replace(plan, layers=layers, dispatch=choice), judge, cost) for judge in judges]

    @cache
    def nanoseconds(choice: DispatchPlan) -> float:
        # Task graphs differ neither by order nor by engine.
        return mean_makespan(graphs(replace(choice, order=ORDERS[0], engine=ENGINES[0])), choice)

    best = first
    for vary in (_guesses, _sure, _engines):
        best = min(vary(best), key=nanoseconds)
    return replace(plan, layers=layers, dispatch=best)


def _sure(choice: DispatchPlan) -> Iterator[DispatchPlan]:
    return (replace(choice, sure_permille=value) for value in SURE_PERMILLE)


def _guesses(choice: DispatchPlan) -> Iterator[DispatchPlan]:
    """Vary order and threshold together: with little staging, likely loads of late layers block those of early ones."""
    for order in ("likelihood", "program"):
        yield from (replace(choice, order=order, least_permille=value) for value in LEAST_PERMILLE)


def _engines(choice: DispatchPlan) -> Iterator[DispatchPlan]:
    return (replace(choice, engine=value) for value in ENGINES)


def mean_makespan(graphs: list[TaskGraph], choice: DispatchPlan) -> float:
    """Dispatch rounds; returns their mean length in nanoseconds."""
    return float(np.mean([dispatch(g.problem, g.guesses, choice).makespan for g in graphs]))
