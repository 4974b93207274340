"""Iterated justification: push all tasks to the right, then to the left again, and do so from disturbed orders.

A schedule that is read backwards is a list schedule of the reversed problem with other priorities, and what comes out
is rarely longer and often shorter (Valls, Ballestín, Quintanilla, "Justification and RCPSP: a technique that pays",
EJOR 165, 2005). When a turn gains nothing more, the order of the best schedule is disturbed and justified anew. This
is by far the fastest way out of a bad list schedule where many tasks share few resources; CP-SAT goes on from there.
"""

from dataclasses import replace

import numpy as np

from moe_passes.plan.round import Buffer, Schedule
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.greedy import schedule_by
from moe_passes.solve.rcpsp.problem import Budget, Problem

DISTURBANCES = (0.01, 0.03, 0.1)
"""Of start times, as parts of the makespan."""
SECONDS_PER_TASK, SECONDS_PER_QUEUE = 9e-6, 1.7e-7
"""Charged per task of a list schedule, and per task and queue of those that use the same; measured on one core."""


def improve(problem: Problem, schedule: Schedule, bound: int, budget: Budget) -> Schedule:
    """Return a schedule that is not longer."""
    reverse, choose = _reversed(problem), np.random.default_rng(budget.seed)
    cost = turn_seconds(problem)
    spent = 0.0
    best = current = schedule
    makespan = best.makespan(problem)
    while spent + cost < budget.seconds and not budget.is_over and not budget.is_close(makespan, bound):
        spent += cost
        turned = _turn(problem, reverse, current)
        gained = turned is not None and turned.makespan(problem) < current.makespan(problem)
        if turned is not None and gained:
            current = turned
        if current.makespan(problem) <= makespan and not violations(problem, current):
            best, makespan = current, current.makespan(problem)
        if gained:
            continue
        noise = choose.random(len(problem.tasks)) * makespan * choose.choice(DISTURBANCES)
        current = schedule_by(problem, _ranks(np.array(best.starts) + noise)) or best
        spent += cost / 2
    return best


def turn_seconds(problem: Problem) -> float:
    """Return what is charged for a turn: two list schedules."""
    queues = len({tuple(mode.uses for mode in task.modes) for task in problem.tasks})
    return 2 * len(problem.tasks) * (SECONDS_PER_TASK + SECONDS_PER_QUEUE * queues)


def _turn(problem: Problem, reverse: Problem, schedule: Schedule) -> Schedule | None:
    """Justify to the right, then to the left; None where list scheduling fails on the way."""
    last = len(problem.tasks) - 1
    right = schedule_by(reverse, [-schedule.end(problem, last - n) for n in range(last + 1)])
    if right is None:
        return None
    return schedule_by(problem, [-right.end(reverse, last - n) for n in range(last + 1)])


def _ranks(keys: np.ndarray) -> list[int]:
    """Turn real keys into priorities, which are whole numbers."""
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[np.argsort(keys, kind="stable")] = np.arange(len(keys))
    result: list[int] = ranks.tolist()
    return result


def _reversed(problem: Problem) -> Problem:
    """Return the problem that runs backwards: task n is the last but n; release times are left to the way back."""
    last, successors = len(problem.tasks) - 1, problem.successors
    tasks = tuple(
        replace(problem.tasks[last - n], after=tuple(sorted(last - s for s in successors[last - n])), release=0)
        for n in range(last + 1)
    )
    buffers = tuple(Buffer(b.resource, b.amount, last - b.last, last - b.first) for b in problem.buffers)
    return Problem(problem.capacities, problem.names, tasks, buffers)
