"""Apply the static plan to rounds it has never seen, and compare with a clairvoyant schedule of each.

The dispatcher starts what is ready and guesses which loads will be needed, as the static plan says. The clairvoyant
schedule is schedule-round's: it sees the round in advance and loads nothing in vain. The difference is the regret. Most
of it is the price of what the draft asks for and verify does not need; what is left without that is the dispatcher's.
"""

from dataclasses import dataclass, replace

import numpy as np
from moe_passes.estimate.cost import CostModel
from moe_passes.instrumentation import solver_call
from moe_passes.plan.decisions import ORDERS, SolverRecord
from moe_passes.routing.rounds import RoundRouting
from moe_passes.routing.traces import RoutingTrace
from moe_passes.solve.dispatch.online import Dispatched, dispatch
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.problem import Problem
from moe_passes.solve.rcpsp.solve import PASS, checked, record, round_budget, solve
from moe_passes.tasks.build import build, build_unknown
from moe_passes.tasks.problem import StaticPlan
from moe_passes.tasks.rounds import take_rounds, without_wrong_asks

ROUNDS = 8
CLAIRVOYANT_SECONDS = 0.5
"""Deterministic solver seconds per held-out round."""


@dataclass(frozen=True)
class HeldOut:
    """Seconds of held-out rounds.

    Attributes:
        rounds: how many.
        mean_seconds: mean over rounds, dispatched.
        p95_seconds: 95th percentile.
        regret: mean of (dispatched − clairvoyant) / clairvoyant.
        p95_regret: 95th percentile of the same.
        informed_regret: mean of the same, had the draft asked for nothing in vain.
        wasted: loads a round that nothing needed, mean.
        solvers: the clairvoyant schedule of each round.
    """

    rounds: int
    mean_seconds: float
    p95_seconds: float
    regret: float
    p95_regret: float
    informed_regret: float
    wasted: float
    solvers: tuple[SolverRecord, ...]


def evaluate(cost: CostModel, plan: StaticPlan, trace: RoutingTrace, seed: int) -> HeldOut:
    """Dispatch held-out rounds and schedule them with hindsight."""
    dispatched: list[float] = []
    informed: list[float] = []
    wasted: list[int] = []
    records: list[SolverRecord] = []
    for routing in take_rounds(trace, plan, "held-out", ROUNDS):
        online = dispatch(build_unknown(plan, routing, cost).unknown(), plan.dispatch)
        wrong = violations(*online.executed())
        if wrong:
            raise AssertionError("dispatched: " + "; ".join(wrong[:5]))
        instance = f"held-out round {len(records)}, clairvoyant"
        records.append(_clairvoyant(build(plan, routing, cost).problem, online, instance, seed))
        dispatched.append(online.makespan * 1e-9)
        informed.append(informed_makespan(plan, routing, cost) * 1e-9)
        wasted.append(online.wasted)
    regrets = [d / r.objective - 1 for d, r in zip(dispatched, records, strict=True)]
    informed_regrets = [max(0.0, d / r.objective - 1) for d, r in zip(informed, records, strict=True)]
    return HeldOut(
        rounds=len(dispatched),
        mean_seconds=float(np.mean(dispatched)),
        p95_seconds=float(np.percentile(dispatched, 95)),
        regret=float(np.mean(regrets)),
        p95_regret=float(np.percentile(regrets, 95)),
        informed_regret=float(np.mean(informed_regrets)),
        wasted=float(np.mean(wasted)),
        solvers=tuple(records),
    )


def informed_makespan(plan: StaticPlan, routing: RoundRouting, cost: CostModel) -> int:
    """Dispatch a round in which the draft asks for nothing in vain, so that every ask is trusted; nanoseconds."""
    trusting = replace(plan, dispatch=replace(plan.dispatch, least_permille=0, order=ORDERS[0]))
    return dispatch(build_unknown(trusting, without_wrong_asks(routing), cost).unknown(), trusting.dispatch).makespan


def _clairvoyant(problem: Problem, online: Dispatched, instance: str, seed: int) -> SolverRecord:
    """Schedule a round that is known; what the dispatcher did, less the loads in vain, is a schedule of it too."""
    with solver_call(PASS, instance):
        answer = solve(problem, round_budget(CLAIRVOYANT_SECONDS, seed))
    makespan = min(checked(problem, answer).makespan(problem), online.makespan)
    return record(answer, makespan, instance, seed)
