"""Large-neighbourhood search: free some tasks, keep the order of all others, and let CP-SAT find something shorter.

Others keep their modes and, on every resource, their order: each unit of a resource that a task takes was last given
back by another, and that one still goes first (Policella, Cesta, Oddi, Smith, "From precedence constraint posting to
partial order schedules", AI Communications 20, 2007). So whatever stands behind a free task moves with it. Free are the
tasks of a window of time, or those of a few resources in a longer one. A neighbourhood that was searched to its end was
too small, one that was not was too large: its size follows.
"""

import random
from dataclasses import replace

from ortools.sat.python import cp_model

from moe_passes.plan.round import Schedule
from moe_passes.solve.rcpsp.model import WholeModel, run
from moe_passes.solve.rcpsp.problem import Budget, Problem

FIRST_SIZE = 120
SMALLEST, LARGEST = 12, 400
SECONDS = 0.4
"""For one neighbourhood."""
SECONDS_PER_USE = 5e-5
"""Charged per neighbourhood and use of a resource in a mode: copying the model and presolving it."""
MOST_CONFLICTS, SECONDS_PER_CONFLICT = 30, 0.03
"""Where buffers are held: bounds of times can creep up nanosecond by nanosecond, and a conflict takes up to 0.1 s."""
LEAST_GAIN = 1e-4
"""Of the makespan: less is not worth a turn."""
WIDER = 3
"""How much longer the window is in which only some resources are free."""


def improve(problem: Problem, schedule: Schedule, bound: int, budget: Budget) -> Schedule:
    """Return a schedule that is not longer; it stops at the budget, or when the bound is close enough."""
    if not problem.tasks:
        return schedule
    base = WholeModel(problem, bound, None)
    base.require(range(len(problem.tasks)))
    base.model.minimize(base.makespan)
    choose, spent, size, turn = random.Random(budget.seed), 0.0, FIRST_SIZE, 0
    best, makespan = schedule, schedule.makespan(problem)
    overhead = SECONDS_PER_USE * sum(1 + len(mode.uses) for task in problem.tasks for mode in task.modes)
    while spent < budget.seconds and not budget.is_over and not budget.is_close(makespan, bound):
        free = _free(problem, best, choose, size, turn)
        left = replace(budget, seconds=budget.seconds - spent, seed=budget.seed + turn)
        status, found, used = _solve(base, best, free, makespan, bound, left)
        spent += used + overhead
        turn += 1
        if found is not None:
            best, makespan = found, found.makespan(problem)
        elif status == cp_model.INFEASIBLE:
            if len(free) == len(problem.tasks):
                return best
            size = min(LARGEST, size + max(1, size // 8))
        else:
            size = max(SMALLEST, size - max(1, size // 8))
    return best


def _free(problem: Problem, schedule: Schedule, choose: random.Random, size: int, turn: int) -> set[int]:
    """Choose tasks: of a window of time; every other time, of some resources in a longer window."""
    by_start = sorted(range(len(problem.tasks)), key=lambda n: (schedule.starts[n], n))
    width = size if turn % 2 == 0 else WIDER * size
    first = choose.randrange(max(1, len(by_start) - width // 2)) - width // 4
    window = by_start[max(0, first) : max(0, first) + width]
    if turn % 2 == 0 or len(problem.capacities) < 2:
        return set(window[:size])
    resources = list(range(len(problem.capacities)))
    choose.shuffle(resources)
    free: set[int] = set()
    for resource in resources:
        users = [n for n in window if any(k == resource for mode in problem.tasks[n].modes for k, _ in mode.uses)]
        if free and len(free | set(users)) > size:
            continue
        free |= set(users[:size])
    return free


def _solve(
    base: WholeModel, schedule: Schedule, free: set[int], makespan: int, bound: int, budget: Budget
) -> tuple[int, Schedule | None, float]:
    """Look for something shorter; return the status, what was found, and the deterministic seconds."""
    problem, model = base.problem, base.model.clone()
    gain = 1 if len(free) == len(problem.tasks) else max(1, round(makespan * LEAST_GAIN))
    model.add(base.makespan <= max(bound, makespan - gain))
    for number in range(len(problem.tasks)):
        model.add_hint(base.starts[number], schedule.starts[number])
        model.add_hint(base.ends[number], schedule.end(problem, number))
        if number not in free and len(base.picks[number]) > 1:
            model.add(base.picks[number][schedule.modes[number]] == 1)
    for first, later in _order(problem, schedule, free):
        model.add(base.ends[first] <= base.starts[later])
    turn = replace(budget, seconds=min(SECONDS, budget.seconds))
    if problem.buffers:
        most_conflicts = min(MOST_CONFLICTS, 1 + int(budget.seconds / SECONDS_PER_CONFLICT))
        status, solver, used = run(model, turn, most_conflicts, is_part=True)
        used += SECONDS_PER_CONFLICT * solver.num_conflicts
    else:
        status, solver, used = run(model, turn, is_part=True)
    found = base.schedule(solver) if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None
    return status, found, used


def _order(problem: Problem, schedule: Schedule, free: set[int]) -> set[tuple[int, int]]:
    """Return pairs of kept tasks of which the first gives back what the second takes: by resource, unit by unit."""
    holds: dict[int, list[tuple[int, int, int, int, int]]] = {}
    for number, task in enumerate(problem.tasks):
        mode = task.modes[schedule.modes[number]]
        if number not in free and mode.duration:
            for resource, amount in mode.uses:
                if amount:
                    entry = (schedule.starts[number], schedule.end(problem, number), number, number, amount)
                    holds.setdefault(resource, []).append(entry)
    for buffer in problem.buffers:
        if buffer.first not in free and buffer.last not in free:
            start, end = schedule.starts[buffer.first], schedule.end(problem, buffer.last)
            if end > start:
                holds.setdefault(buffer.resource, []).append((start, end, buffer.first, buffer.last, buffer.amount))
    pairs: set[tuple[int, int]] = set()
    for resource, entries in holds.items():
        pairs |= _chains(sorted(entries), problem.capacities[resource])
    return pairs


def _chains(entries: list[tuple[int, int, int, int, int]], capacity: int) -> set[tuple[int, int]]:
    """Give every entry (start, end, taker, giver, amount) its units from those that ended last before it starts."""
    pairs: set[tuple[int, int]] = set()
    given_back: list[tuple[int, int, int]] = [(-1, -1, capacity)]
    for start, end, taker, giver, amount in entries:
        ready = sorted((entry for entry in given_back if entry[0] <= start), reverse=True)
        kept = [entry for entry in given_back if entry[0] > start]
        left = amount
        for ended, before, units in ready:
            taken = min(left, units)
            left -= taken
            if taken and before >= 0 and before != taker:
                pairs.add((before, taker))
            if units > taken:
                kept.append((ended, before, units - taken))
        given_back = [*kept, (end, giver, amount)]
    return pairs
