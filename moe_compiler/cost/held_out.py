"""Apply the static plan to rounds it has never seen, and compare with a clairvoyant schedule of each.

The dispatcher is list scheduling by program order or by arrival: it starts what is ready and knows of a load only
once a router has asked for it. The clairvoyant answer is schedule-round's, which sees the whole round in advance. The
difference is the regret.
"""

from dataclasses import dataclass

import numpy as np
from moe_passes.cost import AnalyticCost
from moe_passes.instrumentation import solver_call
from moe_passes.lower_to_tasks.problem import StaticPlan
from moe_passes.lower_to_tasks.rounds import take_rounds
from moe_passes.lower_to_tasks.tasks import build
from moe_passes.machine import Machine
from moe_passes.routing import RoutingTrace
from moe_passes.schedule_round.check import violations
from moe_passes.schedule_round.greedy import list_schedule
from moe_passes.schedule_round.problem import Problem
from moe_passes.schedule_round.rewrite import NAME, record
from moe_passes.schedule_round.solve import solve
from moe_passes.workload import SolverRecord

ROUNDS = 8
CLAIRVOYANT_SECONDS = 0.5
"""Deterministic solver seconds per held-out round."""
DISPATCH_RULES = ("program", "ready")
"""List rules that need no knowledge of the future."""


@dataclass(frozen=True)
class HeldOut:
    """Seconds of held-out rounds.

    Attributes:
        rounds: how many.
        rule: dispatch rule, chosen on the training round.
        mean_seconds: mean over rounds, dispatched.
        p95_seconds: 95th percentile.
        regret: mean of (dispatched − clairvoyant) / clairvoyant.
        p95_regret: 95th percentile of the same.
        solvers: the clairvoyant schedule of each round.
    """

    rounds: int
    rule: str
    mean_seconds: float
    p95_seconds: float
    regret: float
    p95_regret: float
    solvers: tuple[SolverRecord, ...]


def choose_rule(training: Problem) -> str:
    """Choose the dispatch rule on the training round."""
    return min(DISPATCH_RULES, key=lambda rule: _dispatch(training, rule))


def evaluate(machine: Machine, plan: StaticPlan, trace: RoutingTrace, training: Problem, seed: int) -> HeldOut:
    """Dispatch held-out rounds and schedule them with hindsight."""
    rule, cost = choose_rule(training), AnalyticCost(machine)
    dispatched: list[float] = []
    records: list[SolverRecord] = []
    for routing in take_rounds(trace, plan, "held-out", ROUNDS):
        problem = build(plan, routing, cost).problem
        seconds = _dispatch(problem, rule) * 1e-9
        record = _clairvoyant(problem, f"held-out round {len(records)}, clairvoyant", seed)
        dispatched.append(seconds)
        records.append(record)
    regrets = [max(0.0, d / r.objective - 1) for d, r in zip(dispatched, records, strict=True)]
    return HeldOut(
        rounds=len(dispatched),
        rule=rule,
        mean_seconds=float(np.mean(dispatched)),
        p95_seconds=float(np.percentile(dispatched, 95)),
        regret=float(np.mean(regrets)),
        p95_regret=float(np.percentile(regrets, 95)),
        solvers=tuple(records),
    )


def _clairvoyant(problem: Problem, instance: str, seed: int) -> SolverRecord:
    with solver_call(NAME, instance):
        solution = solve(problem, seed, CLAIRVOYANT_SECONDS)
    wrong = violations(problem, solution.schedule)
    if wrong:
        raise AssertionError(f"{instance}: " + "; ".join(wrong[:5]))
    return record(solution, instance, seed)


def _dispatch(problem: Problem, rule: str) -> int:
    schedule = list_schedule(problem, rule) or list_schedule(problem, "program")
    assert schedule is not None
    return schedule.makespan(problem)
