"""Plain CP-SAT against every schedule there is, and conflicting deadlines."""

import random
from itertools import chain, combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.round import Buffer, Mode, Schedule, Task
from moe_passes.solve.rcpsp.bound import lower_bound
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.exact import search
from moe_passes.solve.rcpsp.model import horizon
from moe_passes.solve.rcpsp.problem import Budget, Problem
from moe_passes.solve.rcpsp.solver import solve

from tests.passes.solve.rcpsp.shops import best_list_schedule, random_shop

MODES = st.lists(
    st.builds(
        Mode,
        st.integers(0, 2),
        st.sets(st.integers(0, 1), max_size=2).map(lambda s: tuple((r, 1 + r) for r in sorted(s))),
    ),
    min_size=1,
    max_size=2,
).map(tuple)


@st.composite
def problems(draw):
    count = draw(st.integers(1, 3))
    tasks = tuple(
        Task(
            draw(MODES),
            tuple(sorted(draw(st.sets(st.integers(0, n - 1), max_size=2)))) if n else (),
            draw(st.integers(0, 1)),
            draw(st.sampled_from([None, None, 1, 2, 4])),
        )
        for n in range(count)
    )
    ends = st.integers(0, count - 1)
    buffers = tuple(
        Buffer(1, draw(st.integers(1, 2)), first, draw(st.integers(first, count - 1)))
        for first in draw(st.lists(ends, max_size=2))
    )
    return Problem((1, 2), ("machine", "pool"), tasks, buffers)


def every_schedule(problem):
    starts = range(horizon(problem) + 1)
    for modes in product(*(range(len(task.modes)) for task in problem.tasks)):
        for chosen in product(starts, repeat=len(problem.tasks)):
            schedule = Schedule(chosen, modes)
            if not violations(problem, schedule):
                yield schedule


def without(problem, kept):
    """Keep some deadlines only."""
    tasks = tuple(
        task if n in kept else Task(task.modes, task.after, task.release) for n, task in enumerate(problem.tasks)
    )
    return Problem(problem.capacities, problem.names, tasks, problem.buffers)


@given(problems())
@settings(max_examples=120, deadline=None)
def test_answers_are_optimal_and_conflicts_are_the_smallest(problem):
    answer = solve(problem, Budget(30.0), "exact")
    best = min((s.makespan(problem) for s in every_schedule(problem)), default=None)
    if best is not None:
        assert answer.status == "optimal"
        assert violations(problem, answer.schedule) == []
        assert answer.schedule.makespan(problem) == answer.lower_bound == best
        return
    assert answer.status == "infeasible"
    assert answer.is_smallest
    due = [n for n, task in enumerate(problem.tasks) if task.deadline is not None]
    sets = chain.from_iterable(combinations(due, size) for size in range(len(due) + 1))
    smallest = next(kept for kept in sets if not any(True for _ in every_schedule(without(problem, kept))))
    assert len(answer.conflict) == len(smallest)
    assert not any(True for _ in every_schedule(without(problem, answer.conflict)))


def test_limits_give_a_feasible_answer_with_a_bound():
    """Ten jobs on six machines: nothing is found in no time, something shorter in a little, and nothing is proved."""
    problem = random_shop(random.Random(2), 10, 6)
    bound = lower_bound(problem)
    nothing = solve(problem, Budget(1e-4), "exact")
    assert nothing.status == "feasible"
    assert bound <= nothing.lower_bound < nothing.schedule.makespan(problem) == nothing.greedy
    some = solve(problem, Budget(0.03), "exact")
    assert some.status == "feasible"
    assert violations(problem, some.schedule) == []
    assert bound <= some.lower_bound < some.schedule.makespan(problem) < some.greedy


def test_the_same_seed_gives_the_same_schedule():
    """A search of plain CP-SAT that ends before it has proved anything."""
    problem = random_shop(random.Random(5), 10, 6)
    start = best_list_schedule(problem)
    one, two = (search(problem, start, 0, Budget(0.02, 1)) for _ in range(2))
    assert one == two
    assert one[0] == "feasible"
    assert one[1].makespan(problem) < start.makespan(problem)


@pytest.mark.parametrize("duration", [0, 3])
def test_no_tasks_or_one(duration):
    assert solve(Problem((), (), ()), Budget(1.0)).lower_bound == 0
    assert solve(Problem((), (), (Task((Mode(duration, ()),)),)), Budget(1.0)).lower_bound == duration
