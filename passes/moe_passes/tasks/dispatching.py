"""From training rounds to the dispatcher's static plan."""

from dataclasses import replace

from moe_passes.estimate.cost import CostModel
from moe_passes.estimate.far import far_tokens, late_ways
from moe_passes.plan.decisions import DispatchPlan
from moe_passes.plan.place import Place
from moe_passes.routing.likelihood import likelihoods, share_needed, table
from moe_passes.routing.traces import RoutingTrace
from moe_passes.solve.dispatch.problem import Unknown
from moe_passes.solve.dispatch.solver import Abilities, choose_late, nothing_ahead, solve
from moe_passes.tasks.build import build_unknown
from moe_passes.tasks.problem import StaticPlan
from moe_passes.tasks.rounds import take_rounds

JUDGES = 2
"""Training rounds that plans are compared on."""
STATISTICS_ROUNDS = 64
"""Training rounds that likelihoods are counted on."""
NOTHING_AHEAD = nothing_ahead(table())


def with_dispatch(plan: StaticPlan, trace: RoutingTrace, cost: CostModel, place: Place | None = None) -> StaticPlan:
    """Return the plan with the dispatch plan that is fastest on training rounds, and the likelihoods it goes by.

    Without a draft nothing can be loaded ahead; nor where a placement computes what is not near, or all is.

    Args:
        plan: what was decided before.
        trace: routing.
        cost: the machine.
        place: that was asked for.
    """
    if not plan.staging_bytes:
        return replace(plan, dispatch=NOTHING_AHEAD)
    rounds = take_rounds(trace, plan, "train", STATISTICS_ROUNDS)
    shares = share_needed(rounds)
    far = far_tokens(cost, [layer.shape for layer in plan.layers], place)
    of = Abilities(far, late_ways(cost))
    judges = rounds[:: max(1, len(rounds) // JUDGES)][:JUDGES]

    def unknown(dispatch: DispatchPlan) -> list[Unknown]:
        guessed = plan.with_needs(shares, dispatch)
        return [build_unknown(guessed, judge, cost).unknown() for judge in judges]

    if not plan.length or 0 not in far:
        return plan.with_needs(shares, choose_late(table(), unknown, of))
    return plan.with_needs(shares, solve(likelihoods(rounds, shares), unknown, of))
