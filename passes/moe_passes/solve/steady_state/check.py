"""Independent check of a steady state: rounds in a row, with the checker of single rounds."""

from collections.abc import Sequence

from moe_passes.plan.round import Buffer, Mode, Schedule, SteadyState, Task
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.problem import Problem

NOTHING = (Mode(0, ()),)
UNROLLED = 3
"""Periods that are checked in a row."""


def repeated_violations(problem: Problem, steady: SteadyState, single: Schedule, after: int) -> list[str]:
    """Check `UNROLLED` rounds in a row with the checker of single rounds: each starts a period after the one before.

    The first round finds its carried loads done; each load of round k + 1 that is carried runs in round k.
    """
    carried, schedule = set(steady.carried), steady.schedule or single
    tasks: list[Task] = []
    starts: list[int] = []
    modes: list[int] = []
    buffers: list[Buffer] = []
    loads: dict[int, int] = {}
    for k in range(UNROLLED):
        border = k * steady.period
        numbers: dict[int, int] = {}
        for number, task in enumerate(problem.tasks):
            if number in carried and k:
                numbers[number] = loads[number]
                continue
            numbers[number] = len(tasks)
            waits = (numbers[b] for b in task.after if b in numbers)
            entry = NOTHING if number in carried else task.modes
            tasks.append(Task(entry, tuple(waits), border))
            starts.append(border + (0 if number in carried else schedule.starts[number]))
            modes.append(0 if number in carried else schedule.modes[number])
        for number in steady.carried:
            loads[number] = len(tasks)
            tasks.append(Task(problem.tasks[number].modes, (numbers[after],)))
            starts.append(border + schedule.starts[number])
            modes.append(schedule.modes[number])
            if starts[-1] + tasks[-1].modes[modes[-1]].duration > border + steady.period:
                return [f"load {number} ends after its period"]
        buffers += [Buffer(b.resource, b.amount, numbers[b.first], numbers[b.last]) for b in problem.buffers]
    buffers += [
        Buffer(b.resource, b.amount, loads[b.first], loads[b.first]) for b in problem.buffers if b.first in carried
    ]
    return violations(
        Problem(problem.capacities, problem.names, tuple(tasks), tuple(buffers)), Schedule(tuple(starts), tuple(modes))
    )


def sharing(problem: Problem, steady: SteadyState, single: Schedule, offsets: Sequence[int]) -> bool:
    """Say whether two slices, of one period or of two that follow each other, meet at an address of staging.

    Args:
        problem: one round.
        steady: rounds that repeat.
        single: a schedule of one round, for a steady state that has none.
        offsets: address of every buffer of the round.
    """
    schedule, carried = steady.schedule or single, set(steady.carried)
    held = []
    for buffer, offset in zip(problem.buffers, offsets, strict=True):
        early = steady.period if buffer.first in carried else 0
        span = schedule.starts[buffer.first] - early, schedule.end(problem, buffer.last)
        if span[1] > span[0]:
            held += [(span[0] + k, span[1] + k, offset, offset + buffer.amount) for k in (0, steady.period)]
    alive: list[tuple[int, int, int, int]] = []
    for entry in sorted(held):
        alive = [other for other in alive if other[1] > entry[0]]
        if any(other[2] < entry[3] and entry[2] < other[3] for other in alive):
            return True
        alive.append(entry)
    return False
