"""Random problems of all features: modes, zero durations, releases, deadlines, buffers whose order is free."""

import random

from moe_passes.plan.errors import InputError
from moe_passes.plan.round import Buffer, Mode, Task
from moe_passes.solve.rcpsp.problem import Problem

LARGE_UNIT = 1_000_003
"""Times are multiplied by it now and then: a prime, so that nothing rounds well."""


def rich_problem(seed: int, most_tasks: int = 12, longest: int = 8) -> Problem:
    """Return a problem; a third of them have tight deadlines, and some of these no schedule."""
    choose = random.Random(seed)
    unit = choose.choice((1, 1, LARGE_UNIT))
    while True:
        try:
            return _draw(choose, choose.randint(1, most_tasks), longest, unit)
        except InputError:  # A buffer that is closed before it can be opened: another one.
            continue


def _draw(choose: random.Random, count: int, longest: int, unit: int) -> Problem:
    capacities = tuple(choose.choice((1, 1, 2, 4, 7)) for _ in range(choose.randint(1, 3)))
    pool = choose.randint(3, 12)
    share_modes, share_zero = choose.choice((0.0, 0.4, 0.8)), choose.choice((0.0, 0.2, 0.5))
    tight = choose.random() < 1 / 3

    def mode() -> Mode:
        duration = 0 if choose.random() < share_zero else choose.randint(1, longest)
        uses = [(k, choose.randint(1, c)) for k, c in enumerate(capacities) if choose.random() < 0.6]
        if choose.random() < 0.3:
            uses.append((len(capacities), choose.randint(1, 3)))
        return Mode(duration * unit, tuple(uses))

    tasks = []
    for n in range(count):
        modes = tuple(mode() for _ in range(choose.randint(2, 3) if choose.random() < share_modes else 1))
        after = tuple(sorted(choose.sample(range(n), min(n, choose.choice((0, 0, 1, 2))))))
        release = choose.randint(0, 2 * longest) * unit if choose.random() < 0.2 else 0
        deadline = choose.randint(1, longest * (count // 2 + 2)) * unit if tight and choose.random() < 0.3 else None
        tasks.append(Task(modes, after, release, deadline))
    numbers = range(count)
    buffers = tuple(
        Buffer(len(capacities), choose.randint(1, pool), choose.choice(numbers), choose.choice(numbers))
        for _ in range(choose.choice((0, 0, 1, 2, 4)))
    )
    names = (*(f"r{k}" for k in range(len(capacities))), "pool")
    return Problem((*capacities, pool), names, tuple(tasks), buffers)
