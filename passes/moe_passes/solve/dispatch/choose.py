"""Choose the dispatcher's static plan: what it loads before it is asked to, in which order, on which engine.

Of the choices, the clairvoyant schedule of a round depends on `sure` alone. For each value of it, the plan with the
least mean time over training rounds is the one with the least regret over them; between values, the shorter time
counts, not the smaller regret. Order and threshold are varied together, then one choice at a time, the others as they
are best so far; the rounds that judge are not those that are reported on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from moe_passes.plan.decisions import ENGINES, ORDERS, DispatchPlan, Likelihoods
from moe_passes.solve.dispatch.online import dispatch
from moe_passes.solve.dispatch.problem import Unknown

SURE_PERMILLE = (1000, 1001, 900)
LEAST_PERMILLE = (0, 800, 950, 1001)
NEVER = 1001
"""A threshold that no likelihood reaches."""

Rounds = Callable[[DispatchPlan], Sequence[Unknown]]
"""Training rounds as the dispatcher meets them under a plan; they differ neither by order nor by engine."""


def nothing_ahead(likelihoods: Likelihoods) -> DispatchPlan:
    """Return the plan under which loads start when verify's router has asked for them."""
    return DispatchPlan(NEVER, NEVER, likelihoods, ORDERS[0], ENGINES[0])


def choose(likelihoods: Likelihoods, rounds: Rounds, far_tokens: tuple[int, ...] = (0,)) -> DispatchPlan:
    """Return the plan that is fastest on training rounds.

    Args:
        likelihoods: of experts.
        rounds: that judge.
        far_tokens: up to how many tokens of an expert it may be computed in the far memory, to choose from.
    """

    @cache
    def seen(sure: int, least: int, far: int) -> Sequence[Unknown]:
        return rounds(DispatchPlan(sure, least, likelihoods, ORDERS[0], ENGINES[0], far))

    @cache
    def nanoseconds(plan: DispatchPlan) -> float:
        return mean_makespan(seen(plan.sure_permille, plan.least_permille, plan.most_far_tokens), plan)

    first = DispatchPlan(SURE_PERMILLE[0], LEAST_PERMILLE[0], likelihoods, "likelihood", ENGINES[0])
    best = min((plan for far in far_tokens for plan in _guesses(replace(first, most_far_tokens=far))), key=nanoseconds)
    for vary in (_sure, _engines):
        best = min(vary(best), key=nanoseconds)
    return best


def choose_far(likelihoods: Likelihoods, rounds: Rounds, far_tokens: tuple[int, ...]) -> DispatchPlan:
    """Return the fastest plan of those that load nothing ahead."""
    plans = [replace(nothing_ahead(likelihoods), most_far_tokens=far) for far in far_tokens]
    return min(plans, key=lambda plan: mean_makespan(rounds(plan), plan)) if len(plans) > 1 else plans[0]


def _sure(plan: DispatchPlan) -> Iterator[DispatchPlan]:
    return (replace(plan, sure_permille=value) for value in SURE_PERMILLE)


def _guesses(plan: DispatchPlan) -> Iterator[DispatchPlan]:
    """Vary order and threshold together: with little staging, likely loads of late layers block those of early ones."""
    for order in ("likelihood", "program"):
        yield from (replace(plan, order=order, least_permille=value) for value in LEAST_PERMILLE)


def _engines(plan: DispatchPlan) -> Iterator[DispatchPlan]:
    return (replace(plan, engine=value) for value in ENGINES)


def mean_makespan(rounds: Sequence[Unknown], plan: DispatchPlan) -> float:
    """Dispatch rounds; returns their mean length in nanoseconds."""
    return float(np.mean([dispatch(round_, plan).makespan for round_ in rounds]))
