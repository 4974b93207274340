"""Job shops: on each machine one task at a time, the tasks of a job one after another."""

import random

from moe_passes.plan.round import Mode, Task
from moe_passes.solve.rcpsp.greedy import RULES, list_schedule
from moe_passes.solve.rcpsp.problem import Problem

SMALL = (
    ((0, 2), (2, 8), (1, 8)),
    ((1, 2), (2, 8), (0, 1)),
    ((1, 8), (2, 5), (0, 4)),
    ((2, 1), (0, 1), (1, 1)),
)
"""Four jobs of (machine, duration). No schedule is shorter than 24: of machine 2, which works for 22, only the fourth
job is there before 2. If it starts, the other 21 run from 2 at the earliest; if it does not, all 22 do; and after the
last of them at least 1 follows. Every list rule takes 27, and justification gains nothing."""


def shop(jobs, deadlines=()) -> Problem:
    """Make a shop of jobs as (machine, duration); deadlines are those of the first jobs."""
    tasks: list[Task] = []
    for number, job in enumerate(jobs):
        for place, (machine, duration) in enumerate(job):
            after = (len(tasks) - 1,) if place else ()
            is_due = number < len(deadlines) and place == len(job) - 1
            tasks.append(Task((Mode(duration, ((machine, 1),)),), after, 0, deadlines[number] if is_due else None))
    machines = 1 + max(machine for job in jobs for machine, _ in job)
    return Problem((1,) * machines, tuple(map(str, range(machines))), tuple(tasks))


def random_shop(choose: random.Random, jobs: int, machines: int) -> Problem:
    """Make a shop in which every job visits every machine."""
    return shop(random_jobs(choose, jobs, machines))


def random_jobs(choose: random.Random, jobs: int, machines: int):
    """Draw jobs as (machine, duration)."""
    return [
        [(machine, choose.randint(1, 99)) for machine in choose.sample(range(machines), machines)] for _ in range(jobs)
    ]


def best_list_schedule(problem: Problem):
    """Return the shortest of all list schedules."""
    return min((list_schedule(problem, rule) for rule in RULES), key=lambda s: s.makespan(problem))
