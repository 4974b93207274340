"""The lower bound: by hand, against brute force, and against every schedule found in 10,000 random instances."""

import random

import pytest
from moe_passes.plan.round import Buffer, Mode, Task
from moe_passes.solve.rcpsp.bound import _preemptive, active_bound, lower_bound
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.greedy import RULES, list_schedule
from moe_passes.solve.rcpsp.problem import Budget, Problem
from moe_passes.solve.rcpsp.solver import solve

INSTANCES = 10_000
EXACT_EVERY = 25
"""Every so many instances are solved to optimality, too."""


def arbitrary(choose: random.Random) -> Problem:
    """Tasks with alternatives on an exclusive machine, a pool of four, and a buffer."""
    count, room = choose.randint(1, 9), choose.randint(3, 9)
    tasks, buffers = [], []
    for n in range(count):
        modes = tuple(
            Mode(
                choose.randint(0, 6),
                tuple((r, choose.randint(1, c)) for r, c in ((0, 1), (1, 4)) if choose.random() < 0.6),
            )
            for _ in range(choose.choice([1, 1, 2]))
        )
        after = tuple(sorted(choose.sample(range(n), min(n, choose.choice([0, 1, 1, 2])))))
        tasks.append(Task(modes, after, choose.choice([0, 0, 0, 5])))
        if after and choose.random() < 0.5:
            buffers.append(Buffer(2, choose.randint(1, 3), after[0], n))
    return Problem((1, 4, room), ("machine", "pool", "buffer"), tuple(tasks), tuple(buffers))


def layered(choose: random.Random) -> Problem:
    """A chain of layers, as a round has them: a router, loads that wait for it or for an earlier one, and a join.

    Some experts stream past instead: they wait for their router, and take what loads and what computes.
    """
    tasks, buffers, routers, last = [], [], [], ()
    for _ in range(choose.randint(1, 4)):
        routers.append(len(tasks))
        tasks.append(Task((Mode(choose.randint(0, 4), ((1, 1),)),), last))
        experts = []
        for _ in range(choose.randint(0, 4)):
            load = len(tasks)
            after = choose.choice([(), (choose.choice(routers),), (routers[-1],)])
            tasks.append(Task((Mode(choose.randint(1, 6), ((0, 1),)),), after))
            tasks.append(Task((Mode(choose.randint(0, 2), ((1, 1),)),), (routers[-1], load)))
            experts.append(load + 1)
            buffers += [Buffer(2, 1, load, load + 1)] * choose.randint(1, 2)
        for _ in range(choose.choice([0, 0, 1, 2])):
            experts.append(len(tasks))
            tasks.append(Task((Mode(choose.randint(1, 6), ((0, 1), (1, 1))),), (routers[-1],)))
        tasks.append(Task((Mode(choose.randint(0, 2), ()),), (routers[-1], *experts)))
        last = (len(tasks) - 1,)
    room = choose.choice([2, 3, 4, 8])
    return Problem((1, 1, room), ("external", "banks", "staging"), tuple(tasks), tuple(buffers))


@pytest.mark.parametrize("kind", [arbitrary, layered])
def test_bound_is_never_above_a_schedule(kind):
    choose = random.Random(5)
    for instance in range(INSTANCES // 2):
        problem = kind(choose)
        bound = lower_bound(problem)
        for rule in RULES:
            schedule = list_schedule(problem, rule)
            if schedule is not None and not violations(problem, schedule):
                assert bound <= schedule.makespan(problem), problem
        if instance % EXACT_EVERY == 0:
            answer = solve(problem, Budget(5.0), "exact")
            if answer.status == "optimal":
                assert bound <= answer.schedule.makespan(problem), problem


def test_preemption_by_hand():
    """Two jobs from 0, of 4 with tail 7 and of 5 with tail 0, one of 1 from 2 with tail 20: 3 + 20 counts."""
    from numpy import array

    assert _preemptive(array([0, 0, 2]), array([4, 5, 1]), array([7, 0, 20])) == 23
    assert _preemptive(array([0, 0]), array([4, 5]), array([7, 0])) == 11
    assert _preemptive(array([0, 3]), array([4, 1]), array([0, 9])) == 13


def test_long_tails_first_on_one_machine_by_hand():
    """Tasks of 4, 1 and 5 on one machine, then 7, 0 and 3 elsewhere: the two with tails give 4 + 5 + 3.

    All three together give no more than 10 + 0, nor does the longest path, 4 + 7.
    """
    machine = [Task((Mode(seconds, ((0, 1),)),)) for seconds in (4, 1, 5)]
    tails = [Task((Mode(7, ((1, 1),)),), (0,)), Task((Mode(3, ((2, 1),)),), (2,))]
    problem = Problem((1, 1, 1), ("a", "b", "c"), (*machine, *tails))
    assert lower_bound(problem) == 12
    assert list_schedule(problem, "tail").makespan(problem) == 12


def test_energy_of_a_shared_resource_by_hand():
    """Five tasks of 3 that take half each of two units: 15 unit-seconds over 2, rounded up."""
    tasks = tuple(Task((Mode(3, ((0, 1),)),)) for _ in range(5))
    assert lower_bound(Problem((2,), ("pool",), tasks)) == 8


def test_energy_of_a_pool_by_hand():
    """Three tasks of 4, each on one of two banks or as long on both: 12 over 2; none needs a certain bank."""
    modes = tuple(Mode(4, uses) for uses in (((0, 1),), ((1, 1),), ((0, 1), (1, 1))))
    assert lower_bound(Problem((1, 1, 1), ("bank0", "bank1", "link"), (Task(modes),) * 3)) == 6
    # A slower mode elsewhere takes nothing of the pool.
    assert (
        lower_bound(
            Problem(
                (1, 1, 1),
                ("bank0", "bank1", "link"),
                (
                    Task(
                        (*modes, Mode(5, ())),
                    ),
                )
                * 3,
            )
        )
        == 4
    )


def test_a_full_buffer_delays_loads_by_hand():
    """Two slots, six loads of 5 from the start, a router that ends at 40: at most two loads run before it."""
    router = Task((Mode(40, ((1, 1),)),))
    tasks, buffers = [router], []
    for _ in range(6):
        load = len(tasks)
        tasks += [Task((Mode(5, ((0, 1),)),)), Task((Mode(1, ((1, 1),)),), (0, load))]
        buffers.append(Buffer(2, 1, load, load + 1))
    problem = Problem((1, 1, 2), ("external", "banks", "staging"), tuple(tasks), tuple(buffers))
    # No slot is free before the first expert ends, at 41: four loads of 5 start then or later, then the last expert.
    assert lower_bound(problem) == 41 + 4 * 5 + 1
    assert solve(problem, Budget(5.0)).schedule.makespan(problem) == 62


def test_what_streams_past_after_the_router_counts_beside_loads_that_wait_for_a_buffer_by_hand():
    """The same with slots that stay full until 50, and three experts of 7 that stream past from 40 on.

    Two loads at most run before 40, so that four loads of 5 and all that streams, 3 · 7, follow.
    """
    router, last = Task((Mode(40, ((1, 1),)),)), Task((Mode(10, ()),), (0,))
    tasks, buffers = [router, last], []
    for _ in range(6):
        load = len(tasks)
        tasks += [Task((Mode(5, ((0, 1),)),)), Task((Mode(0, ()),), (1, load))]
        buffers.append(Buffer(2, 1, load, load + 1))
    tasks += [Task((Mode(7, ((0, 1), (1, 1))),), (0,))] * 3
    problem = Problem((1, 1, 2), ("external", "banks", "staging"), tuple(tasks), tuple(buffers))
    assert lower_bound(problem) == 40 + 4 * 5 + 3 * 7
    assert solve(problem, Budget(5.0)).schedule.makespan(problem) == 81


def on(resource, duration, after=(), amount=1):
    return Task((Mode(duration, ((resource, amount),)),), after)


@pytest.mark.parametrize(
    ("problem", "value", "words"),
    [
        # A chain of three, each on a resource of its own.
        (Problem((1, 1, 1), ("a", "b", "c"), (on(0, 3), on(1, 4, (0,)), on(2, 5, (1,)))), 12, "critical path"),
        # Three tasks that nothing parts but the machine.
        (Problem((1,), ("machine",), (on(0, 3), on(0, 4), on(0, 5))), 12, "one at a time: machine"),
        # Six of a third of a pool: no two exclude each other, but there is work for two turns.
        (Problem((3,), ("pool",), tuple(on(0, 5) for _ in range(6))), 10, "work: pool"),
        # Two layers, each of two loads that wait for its router: a longest path sees one load of each.
        (
            Problem(
                (1, 1), ("external", "banks"),
                (
                    on(1, 1), on(0, 4, (0,)), on(0, 4, (0,)), on(1, 1, (1, 2)),
                    on(0, 4, (3,)), on(0, 4, (3,)), on(1, 1, (4, 5)),
                ),
            ),
            19,
            "layer by layer: external",
        ),
        # What A takes is less than what B takes: it is B that the last task waits for.
        (
            Problem(
                (1, 1, 1), ("A", "B", "C"),
                (*(on(0, 10) for _ in range(4)), *(on(1, 21) for _ in range(2)), on(2, 5, tuple(range(6)))),
            ),
            47,
            "layer by layer: B",
        ),
        # The same where the longer wait is looked at first.
        (
            Problem(
                (1, 1, 1), ("A", "B", "C"),
                (*(on(0, 21) for _ in range(2)), *(on(1, 10) for _ in range(4)), on(2, 5, tuple(range(6)))),
            ),
            47,
            "layer by layer: A",
        ),
        # A join off the longest path is no part of what that rests on.
        (
            Problem(
                (1, 1, 1), ("A", "B", "C"),
                (on(0, 10), on(0, 10), on(0, 1, (0, 1)), on(1, 9), on(1, 9), on(1, 9, (3, 4)), on(2, 20, (3, 4))),
            ),
            38,
            "layer by layer: B",
        ),
        # Three loads, each filling staging until it is used, after 20: two of them begin when the first is used.
        (
            Problem(
                (1, 1, 1), ("external", "banks", "staging"),
                (on(1, 20), *(on(0, 5) for _ in range(3)), *(on(1, 1, (0, n)) for n in (1, 2, 3))),
                tuple(Buffer(2, 1, n, n + 3) for n in (1, 2, 3)),
            ),
            32,
            "buffer: staging",
        ),
    ],
)  # fmt: skip
def test_what_a_bound_rests_on_is_said(problem, value, words):
    found = active_bound(problem)
    assert found.value == value == lower_bound(problem)
    assert found.words(problem) == words
    answer = solve(problem, Budget(1.0, 0))
    assert answer.limit in (words, "search: nothing shorter exists")
