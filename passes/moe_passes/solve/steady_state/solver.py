"""The steady state: round after round, with what the next one surely needs loaded in the idle tail of this one.

Some loads may start before anything in their round has run. If such a load runs in the period before, it no longer
delays its own round; it takes an idle channel then, and holds its bytes across the border. Which of them cross is
chosen by trying prefixes of the given order. The period is the makespan of one round in which the loads that cross are
there at the start and those of the next round are loaded by the end. Where nothing is gained, as much crosses as costs
nothing: it leaves the draft's time to loads that are less sure.

**Bound.** However loads are moved, in the long run every period holds all work of a round: for each resource, Σ p·r /
R. Also, whatever crosses is held at the border, so it fits: the loads that cross, one after another, take at most K,
the sum of the durations of all that may cross, or of those that fill the capacity at the largest ratio of duration to
bytes. Run before the period they make a schedule of a single round, so the period is at least the bound of a single
round less K.
"""

from collections.abc import Sequence
from dataclasses import replace

from moe_passes.plan.round import Buffer, Schedule, SteadyState, Task, Work
from moe_passes.solve.rcpsp.greedy import list_schedule
from moe_passes.solve.rcpsp.problem import Problem
from moe_passes.solve.steady_state.check import NOTHING, repeated_violations, sharing

RULES = ("program", "tail")


def may_cross(problem: Problem, work: Sequence[Work]) -> tuple[list[int], int]:
    """Return the loads that may run in the period before their round, and the task that its tail begins after.

    Loads that are sure to be needed wait for nothing in their round; the tail begins when the last router has run.
    """
    ahead = [n for n, w in enumerate(work) if w.kind == "load" and not problem.tasks[n].after]
    return ahead, max(n for n, w in enumerate(work) if w.kind == "attention")


def steady_state(
    problem: Problem, ahead: Sequence[int], after: int, single: Schedule, single_bound: int
) -> SteadyState:
    """Find the shortest period.

    Args:
        problem: one round.
        ahead: tasks without predecessors that may run in the period before, in the order in which they are taken.
        after: the task after which those of the next round may start: where the tail begins.
        single: a schedule of one round, with which nothing crosses.
        single_bound: lower bound on the makespan of one round.
    """
    bound = max(_load_bound(problem), single_bound - _most_crossing(problem, ahead))
    best = SteadyState(single.makespan(problem), bound, (), None)
    for count in _counts(_most(problem, ahead)):
        found = _with(problem, ahead[:count], after, best.lower_bound)
        is_first = found is not None and found.period == best.period and not best.carried
        if found is not None and (is_first or found.period < best.period):
            best = found
    wrong = repeated_violations(problem, best, single, after)
    if wrong:
        raise AssertionError("steady state: " + "; ".join(wrong[:5]))
    return best


def addressed(problem: Problem, steady: SteadyState, single: Schedule, offsets: Sequence[int]) -> SteadyState:
    """Return a steady state in which no two staged slices meet at an address.

    Addresses were chosen for one round. Where they do not serve the steady state, nothing crosses, and rounds follow
    each other as scheduled.
    """
    if steady.schedule is None or not sharing(problem, steady, single, offsets):
        return steady
    return replace(steady, period=single.makespan(problem), carried=(), schedule=None)


def _load_bound(problem: Problem) -> int:
    busy = [0] * len(problem.capacities)
    for task in problem.tasks:
        for k in set.intersection(*({r for r, _ in mode.uses} for mode in task.modes)):
            busy[k] += min(mode.duration * amount for mode in task.modes for r, amount in mode.uses if r == k)
    loads = [-(-work // capacity) for work, capacity in zip(busy, problem.capacities, strict=True) if capacity]
    return max(loads, default=0)


def _most_crossing(problem: Problem, ahead: Sequence[int]) -> int:
    """Return K: how long the loads take that can be held at the border."""
    most = sum(problem.shortest(number) for number in ahead)
    opened = problem.opened
    for resource, capacity in enumerate(problem.capacities):
        amounts = [opened.get(number, {}).get(resource, 0) for number in ahead]
        if all(amounts):
            pairs = zip(ahead, amounts, strict=True)
            longest = max((-(-problem.shortest(n) * capacity // amount) for n, amount in pairs), default=0)
            most = min(most, longest)
    return most


def _most(problem: Problem, ahead: Sequence[int]) -> int:
    """Return how many loads can cross, for room: the largest must still fit beside them."""
    held = problem.opened
    room = list(problem.capacities)
    for resource in range(len(room)):
        room[resource] -= max((amounts.get(resource, 0) for amounts in held.values()), default=0)
    for count, number in enumerate(ahead):
        for resource, amount in held.get(number, {}).items():
            room[resource] -= amount
            if room[resource] < 0:
                return count
    return len(ahead)


def _counts(most: int) -> list[int]:
    """Return the numbers of loads to try, the largest first: all, 2^k and 3·2^k."""
    steps = {step << k for k in range(most.bit_length()) for step in (1, 3)}
    return sorted({most, *(step for step in steps if step < most)} - {0}, reverse=True)


def _with(problem: Problem, carried: Sequence[int], after: int, bound: int) -> SteadyState | None:
    """Schedule one period with these loads carried; None if it does not work out."""
    period_problem, places, loads = _one_period(problem, carried, after)
    found = [s for rule in RULES if (s := list_schedule(period_problem, rule)) is not None]
    inside = [s for s in found if all(s.starts[place] == 0 for place in range(len(carried)))]
    if not inside:
        return None
    best = min(inside, key=lambda schedule: schedule.makespan(period_problem))
    crossing = dict(zip(carried, loads, strict=True))
    order = [crossing.get(number, places[number]) for number in range(len(problem.tasks))]
    schedule = Schedule(tuple(best.starts[n] for n in order), tuple(best.modes[n] for n in order))
    return SteadyState(best.makespan(period_problem), bound, tuple(carried), schedule)


def _one_period(problem: Problem, carried: Sequence[int], after: int) -> tuple[Problem, list[int], list[int]]:
    """Build one period: carried loads are there at time 0; then the round; then the loads of the next one.

    Returns:
        The problem, the place of every task of the round in it, and the places of the next round's loads.
    """
    crossing = {number: place for place, number in enumerate(carried)}
    tasks = [Task(NOTHING) for _ in carried]
    places: list[int] = []
    for number, task in enumerate(problem.tasks):
        if number in crossing:
            places.append(crossing[number])
            continue
        places.append(len(tasks))
        tasks.append(replace(task, after=tuple(places[before] for before in task.after)))
    loads = [len(tasks) + n for n in range(len(carried))]
    tasks += [Task(problem.tasks[number].modes, (places[after],)) for number in carried]
    end = len(tasks)
    tasks.append(Task(NOTHING, tuple(range(len(tasks)))))
    buffers = [Buffer(b.resource, b.amount, places[b.first], places[b.last]) for b in problem.buffers]
    buffers += [
        Buffer(b.resource, b.amount, loads[crossing[b.first]], end) for b in problem.buffers if b.first in crossing
    ]
    return Problem(problem.capacities, problem.names, tuple(tasks), tuple(buffers)), places, loads
