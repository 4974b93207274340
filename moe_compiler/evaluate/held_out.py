"""Apply the static plan to rounds it has never seen, and compare with a clairvoyant schedule of each.

Rounds follow each other through the held-out split: each begins with the residents that the last one left, and some,
evenly spread, are dispatched. The dispatcher starts what is ready and guesses which loads will be needed, as the static
plan says. The clairvoyant schedule is schedule-round's: it sees the round in advance and loads nothing in vain. The
difference is the regret. Most of it is the price of what the draft asks for and verify does not need; what is left
without that is the dispatcher's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from moe_passes.estimate.cost import CostModel
from moe_passes.instrumentation import solver_call
from moe_passes.plan.decisions import ORDERS, SolverRecord
from moe_passes.plan.round import Schedule, Work
from moe_passes.routing.rounds import RoundRouting
from moe_passes.routing.traces import RoutingTrace, evenly, popularity
from moe_passes.solve.dispatch.online import Dispatched, dispatch
from moe_passes.solve.dispatch.solver import mean_makespan
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.problem import Problem
from moe_passes.solve.rcpsp.solver import PASS, checked, record, round_budget, solve
from moe_passes.tasks.build import build, build_unknown
from moe_passes.tasks.problem import StaticPlan
from moe_passes.tasks.rounds import follow_rounds, split_tokens, without_wrong_asks

from moe_compiler.evaluate.report import confidence

ROUNDS, TOKENS = 8, 32
"""Rounds, and tokens of a sequence, that are dispatched at least, where the trace has them."""
CLAIRVOYANT_SECONDS = 4.0
"""Deterministic solver seconds, shared by the held-out rounds."""


class Executed(NamedTuple):
    """A round as it was run, and which of its tasks are loads in vain."""

    problem: Problem
    work: tuple[Work, ...]
    schedule: Schedule
    wasted: tuple[int, ...]


@dataclass(frozen=True)
class HeldOut:
    """Held-out rounds.

    Attributes:
        seconds: of each round, dispatched.
        executed: each round as it was run.
        regret: mean of (dispatched − clairvoyant) / clairvoyant.
        p95_regret: 95th percentile of the same.
        informed_regret: mean of the same, had the draft asked for nothing in vain.
        wasted: loads a round that nothing needed, mean.
        swaps: residents that change a round, mean.
        solvers: the clairvoyant schedule of each round.
    """

    seconds: tuple[float, ...]
    executed: tuple[Executed, ...]
    regret: float
    p95_regret: float
    informed_regret: float
    wasted: float
    swaps: float
    solvers: tuple[SolverRecord, ...]

    @property
    def mean_seconds(self) -> float:
        """Mean over rounds."""
        return float(np.mean(self.seconds))

    def confidence(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the mean seconds, by drawing rounds anew."""
        return confidence(self.seconds)


def evaluate(cost: CostModel, plan: StaticPlan, trace: RoutingTrace, seed: int) -> HeldOut:
    """Dispatch held-out rounds and schedule them with hindsight."""
    rounds = _rounds(plan, trace)
    executed: list[Executed] = []
    seconds, informed, wasted = [], [], []
    records: list[SolverRecord] = []
    for then, routing in rounds:
        graph = build_unknown(then, routing, cost)
        online = dispatch(graph.unknown(), plan.dispatch)
        executed.append(_checked(online, graph.work))
        instance = f"held-out round {len(records)}, clairvoyant"
        budget = CLAIRVOYANT_SECONDS / len(rounds)
        records.append(_clairvoyant(build(then, routing, cost).problem, online, instance, seed, budget))
        seconds.append(online.makespan * 1e-9)
        informed.append(informed_makespan(then, routing, cost) * 1e-9)
        wasted.append(len(online.wasted))
    regrets = [d / r.objective - 1 for d, r in zip(seconds, records, strict=True)]
    informed_regrets = [max(0.0, d / r.objective - 1) for d, r in zip(informed, records, strict=True)]
    return HeldOut(
        seconds=tuple(seconds),
        executed=tuple(executed),
        regret=float(np.mean(regrets)),
        p95_regret=float(np.percentile(regrets, 95)),
        informed_regret=float(np.mean(informed_regrets)),
        wasted=float(np.mean(wasted)),
        swaps=float(np.mean([sum(map(len, routing.promoted)) for _, routing in rounds])),
        solvers=tuple(records),
    )


def mean_seconds(cost: CostModel, plan: StaticPlan, trace: RoutingTrace) -> float:
    """Dispatch held-out rounds, and nothing else; returns their mean seconds."""
    graphs = [build_unknown(then, routing, cost) for then, routing in _rounds(plan, trace)]
    return mean_makespan([graph.unknown() for graph in graphs], plan.dispatch) * 1e-9


def _rounds(plan: StaticPlan, trace: RoutingTrace) -> list[tuple[StaticPlan, RoundRouting]]:
    tokens = split_tokens(trace, plan, "held-out")
    taken = evenly(len(tokens), max(ROUNDS, TOKENS // (plan.length + 1)))
    return follow_rounds(trace, plan, popularity(trace), tokens, taken)


def _checked(online: Dispatched, work: Sequence[Work]) -> Executed:
    problem, schedule = online.executed()
    wrong = violations(problem, schedule)
    if wrong:
        raise AssertionError("dispatched: " + "; ".join(wrong[:5]))
    numbers = {number: place for place, number in enumerate(online.kept)}
    kept = tuple(work[number] for number in numbers)
    return Executed(problem, kept, schedule, tuple(sorted(numbers[number] for number in online.wasted)))


def informed_makespan(plan: StaticPlan, routing: RoundRouting, cost: CostModel) -> int:
    """Dispatch a round in which the draft asks for nothing in vain, so that every ask is trusted; nanoseconds."""
    trusting = replace(plan, dispatch=replace(plan.dispatch, least_permille=0, order=ORDERS[0]))
    return dispatch(build_unknown(trusting, without_wrong_asks(routing), cost).unknown(), trusting.dispatch).makespan


def _clairvoyant(problem: Problem, online: Dispatched, instance: str, seed: int, seconds: float) -> SolverRecord:
    """Schedule a round that is known; what the dispatcher did, less the loads in vain, is a schedule of it too."""
    with solver_call(PASS, instance):
        answer = solve(problem, round_budget(seconds, seed))
    makespan = min(checked(problem, answer).makespan(problem), online.makespan)
    return record(answer, makespan, instance, seed)
