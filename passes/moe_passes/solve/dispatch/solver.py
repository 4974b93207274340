"""Choose the dispatcher's static plan: what it loads before it is asked to, in which order, on which engine.

Of the choices, the clairvoyant schedule of a round depends on `sure` alone. For each value of it, the plan with the
least mean time over training rounds is the one with the least regret over them; between values, the shorter time
counts, not the smaller regret. Order and threshold are varied together, then one choice at a time, the others as they
are best so far; the rounds that judge are not those that are reported on.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from moe_passes.plan.decisions import ENGINES, LATE, ORDERS, DispatchPlan, Likelihoods
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


@dataclass(frozen=True)
class Abilities:
    """What may become of what is not near, to choose from.

    Attributes:
        far_tokens: up to how many tokens of an expert it is computed in the far memory.
        late: of `LATE`, of others that were not loaded ahead.
    """

    far_tokens: tuple[int, ...] = (0,)
    late: tuple[str, ...] = LATE[:1]

    def plans(self, plan: DispatchPlan) -> Iterator[DispatchPlan]:
        """Vary a plan by them."""
        return (replace(plan, most_far_tokens=far, late=late) for late in self.late for far in self.far_tokens)


def solve(likelihoods: Likelihoods, rounds: Rounds, of: Abilities = Abilities()) -> DispatchPlan:
    """Return the plan that is fastest on training rounds.

    Args:
        likelihoods: of experts.
        rounds: that judge.
        of: what may become of what is not near.
    """

    @cache
    def seen(plan: DispatchPlan) -> Sequence[Unknown]:
        return rounds(plan)

    @cache
    def nanoseconds(plan: DispatchPlan) -> float:
        return mean_makespan(seen(replace(plan, order=ORDERS[0], engine=ENGINES[0])), plan)

    first = DispatchPlan(SURE_PERMILLE[0], LEAST_PERMILLE[0], likelihoods, "likelihood", ENGINES[0])
    far = (replace(first, most_far_tokens=tokens) for tokens in of.far_tokens)
    best = min((plan for start in far for plan in _guesses(start)), key=nanoseconds)
    for vary in (_sure, _engines, replace(of, far_tokens=(best.most_far_tokens,)).plans):
        best = min(vary(best), key=nanoseconds)
    return best


def choose_late(likelihoods: Likelihoods, rounds: Rounds, of: Abilities) -> DispatchPlan:
    """Return the fastest plan of those that load nothing ahead."""
    plans = list(of.plans(nothing_ahead(likelihoods)))
    return min(plans, key=lambda plan: mean_makespan(rounds(plan), plan)) if len(plans) > 1 else plans[0]


def _sure(plan: DispatchPlan) -> Iterator[DispatchPlan]:
    return (replace(plan, sure_permille=value) for value in SURE_PERMILLE)


def _guesses(plan: DispatchPlan) -> Iterator[DispatchPlan]:
    """Vary order and threshold together: with little staging, likely loads of late layers block those of early ones."""
    for order in ("likelihood", "program"):
        yield from (replace(plan, order=order, least_permille=value) for value in LEAST_PERMILLE)


def _engines(plan: DispatchPlan) -> Iterator[DispatchPlan]:
    return (replace(plan, engine=value) for value in ENGINES)


def mean_makespan(rounds: Iterable[Unknown], plan: DispatchPlan) -> float:
    """Dispatch rounds; returns their mean length in nanoseconds."""
    return float(np.mean([dispatch(round_, plan).makespan for round_ in rounds]))
