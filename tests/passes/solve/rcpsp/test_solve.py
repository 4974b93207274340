import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from moe_passes.plan.errors import InputError
from moe_passes.plan.round import Buffer, Mode, Schedule, Task
from moe_passes.solve.rcpsp.bound import lower_bound
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.greedy import list_schedule
from moe_passes.solve.rcpsp.problem import Budget, Problem
from moe_passes.solve.rcpsp.solver import METHODS, solve

from tests.passes.solve.rcpsp.shops import SMALL, random_shop, shop


@st.composite
def problems(draw, most_tasks=7):
    count = draw(st.integers(1, most_tasks))
    tasks = []
    for n in range(count):
        modes = []
        for _ in range(draw(st.integers(1, 2))):
            used = draw(st.sets(st.integers(0, 1), min_size=1, max_size=2))
            modes.append(Mode(draw(st.integers(0, 4)), tuple((r, 1) for r in sorted(used))))
        after = draw(st.sets(st.integers(0, n - 1), max_size=2)) if n else set()
        tasks.append(Task(tuple(modes), tuple(sorted(after)), draw(st.sampled_from([0, 0, 2]))))
    buffers = [
        Buffer(2, draw(st.integers(1, 3)), task.after[0], n)
        for n, task in enumerate(tasks)
        if task.after and draw(st.booleans())
    ]
    room = draw(st.integers(3, 6 * max(1, len(buffers))))
    problem = Problem((1, 1, room), ("a", "b", "staging"), tuple(tasks), tuple(buffers))
    assume(list_schedule(problem, "program") is not None)
    return problem


def optimum(problem: Problem) -> int:
    """Try every start time and mode up to the best list schedule."""
    best = list_schedule(problem, "program").makespan(problem)
    horizon = best

    def extend(starts, modes):
        nonlocal best
        n = len(starts)
        if n == len(problem.tasks):
            schedule = Schedule(tuple(starts), tuple(modes))
            if not violations(problem, schedule):
                best = min(best, schedule.makespan(problem))
            return
        task = problem.tasks[n]
        for m, mode in enumerate(task.modes):
            earliest = max([task.release] + [starts[b] + problem.tasks[b].modes[modes[b]].duration for b in task.after])
            for start in range(earliest, horizon - mode.duration + 1):
                extend([*starts, start], [*modes, m])

    extend([], [])
    return best


@given(problems(most_tasks=4))
@settings(max_examples=60, deadline=None)
def test_bound_never_exceeds_brute_force_optimum_and_solution_is_close(problem):
    best = optimum(problem)
    for method in METHODS:
        answer = solve(problem, Budget(0.5), method)
        assert lower_bound(problem) <= answer.lower_bound <= best <= answer.schedule.makespan(problem)


@given(problems())
@settings(max_examples=150, deadline=None)
def test_every_answer_is_valid_bounded_and_never_worse_than_greedy(problem):
    for method in METHODS:
        answer = solve(problem, Budget(0.2, seed=1), method)
        assert violations(problem, answer.schedule) == []
        assert answer.lower_bound <= answer.schedule.makespan(problem) <= answer.greedy
        assert (answer.status == "optimal") == (answer.lower_bound == answer.schedule.makespan(problem))


@pytest.mark.parametrize("method", ["windows", "mixed", "exact"])
def test_same_seed_same_schedule(method):
    """Ten jobs on six machines: the budget ends before anything is proved, so the searches decide."""
    problem = random_shop(random.Random(5), 10, 6)
    one, two = (solve(problem, Budget(0.05, 3), method) for _ in range(2))
    assert one == two
    assert one.lower_bound < one.schedule.makespan(problem) < one.greedy


def layers(count: int, loads: int) -> Problem:
    """A chain of layers, each a router, `loads` loads on one channel, and a join: what a decoding round looks like."""
    tasks, last = [], ()
    for _ in range(count):
        router = len(tasks)
        tasks.append(Task((Mode(2, ((0, 1),)),), last))
        names = []
        for _ in range(loads):
            tasks.append(Task((Mode(5, ((1, 1),)),), (router,)))
            names.append(len(tasks) - 1)
        tasks.append(Task((Mode(1, ((0, 1),)),), tuple(names)))
        last = (len(tasks) - 1,)
    return Problem((1, 1), ("elements", "external"), tuple(tasks))


def test_bound_adds_layers_up():
    # By hand: each layer is a router (2), its loads one after another (5 each), and a join (1); nothing overlaps.
    assert lower_bound(layers(4, 3)) == 4 * (2 + 3 * 5 + 1)
    assert solve(layers(4, 3), Budget(1.0)).status == "optimal"


@pytest.mark.parametrize("method", ["windows", "mixed", "exact", "auto"])
def test_search_improves_a_bad_list_order(method):
    """Every list rule takes 27 for the small shop; 24 is derived beside it."""
    problem = shop(SMALL)
    answer = solve(problem, Budget(1.0), method)
    assert violations(problem, answer.schedule) == []
    assert (answer.greedy, answer.schedule.makespan(problem), answer.status) == (27, 24, "optimal")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": (Task((Mode(-1, ()),)),)}, "negative"),
        ({"tasks": (Task((Mode(1, ((0, 2),)),)),)}, "capacity is 1"),
        ({"tasks": (Task((Mode(1, ((7, 1),)),)),)}, "does not exist"),
        ({"tasks": (Task((Mode(1, ()),), (0,)),)}, "cycle"),
        ({"tasks": (Task((Mode(1, ()),), (4,)),)}, "does not exist"),
        ({"tasks": (Task(()),)}, "no mode"),
        ({"buffers": (Buffer(1, 9, 0, 0),)}, "needs 9 bytes of 'staging'"),
    ],
)
def test_malformed_problems_are_refused(change, message):
    base = {"capacities": (1, 4), "names": ("a", "staging"), "tasks": (Task((Mode(1, ((0, 1),)),)),), "buffers": ()}
    with pytest.raises(InputError, match=message):
        Problem(**{**base, **change})


def test_checker_sees_every_kind_of_error():
    tasks = (Task((Mode(3, ((0, 1),)),)), Task((Mode(2, ((0, 1),)),), (), 4), Task((Mode(1, ()),), (0,)))
    problem = Problem((1, 2), ("a", "staging"), tasks, (Buffer(1, 2, 0, 2), Buffer(1, 1, 1, 1)))
    good = Schedule((0, 4, 3), (0, 0, 0))
    assert violations(problem, good) == []
    for bad in ((0, 4, 2), (0, 3, 3), (2, 4, 5), (0, 4, 5)):
        assert violations(problem, Schedule(bad, (0, 0, 0)))
    assert violations(problem, Schedule((0, 4, 3), (0, 0, 1)))
    assert violations(problem, Schedule((0, 4), (0, 0)))
