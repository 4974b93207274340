"""Problems of all features: two formulations agree, and brute force with them; every method keeps the rules."""

from dataclasses import replace
from itertools import product

import pytest
from moe_passes.plan.round import Schedule
from moe_passes.solve.rcpsp import exact, pairwise
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.model import horizon
from moe_passes.solve.rcpsp.problem import Budget
from moe_passes.solve.rcpsp.solver import METHODS, solve

from moe_compiler.formats.schedule_file import read
from tests.conftest import public_data
from tests.passes.solve.rcpsp.rich import LARGE_UNIT, rich_problem

BUDGET = Budget(30.0)
FAULTS = {
    "wrong-optimal.json": 33,
    "wrong-optimal-2.json": 33,
    "wrong-in-another-model.json": 21_000_063,
    "windows-illegal.json": 35,
}


def shortest(problem) -> int | None:
    """Try every start and mode, task by task; None where there is no schedule."""
    last = horizon(problem)
    best = None
    for modes in product(*(range(len(task.modes)) for task in problem.tasks)):
        durations = [task.modes[m].duration for task, m in zip(problem.tasks, modes, strict=True)]
        for starts in product(*(range(task.release, last + 1) for task in problem.tasks)):
            makespan = max(s + d for s, d in zip(starts, durations, strict=True))
            if (best is None or makespan < best) and not violations(problem, Schedule(starts, modes)):
                best = makespan
    return best


@pytest.mark.parametrize("first", range(0, 500, 50))
def test_two_formulations_agree(first):
    for seed in range(first, first + 50):
        problem = rich_problem(seed)
        answer = solve(problem, BUDGET, "exact")
        assert answer.status in ("optimal", "infeasible"), seed
        assert answer.proof in ("bound", "two models"), seed
        if answer.schedule is not None:
            in_units = problem.in_units(problem.unit), _in_units(problem, answer.schedule)
            assert pairwise.search(*in_units, BUDGET) == ("none", None), seed


def _in_units(problem, schedule) -> Schedule:
    return Schedule(tuple(start // problem.unit for start in schedule.starts), schedule.modes)


def test_brute_force_agrees_with_both():
    seen = {"optimal": 0, "infeasible": 0}
    for seed in range(150):
        problem = rich_problem(seed, most_tasks=3, longest=3)
        problem = problem.in_units(problem.unit)
        if horizon(problem) > 14:
            continue
        best = shortest(problem)
        status, schedule, _ = exact.search(problem, None, 0, BUDGET)
        second, found = pairwise.search(problem, None, BUDGET)
        seen[status] += 1
        assert status == ("infeasible" if best is None else "optimal"), seed
        assert second == ("none" if best is None else "optimal"), seed
        if best is not None:
            assert schedule.makespan(problem) == found.makespan(problem) == best, seed
            assert violations(problem, found) == []
    assert min(seen.values()) >= 5, seen


@pytest.mark.parametrize("method", METHODS)
def test_every_method_hands_out_legal_schedules_only(method):
    """`solve` refuses to hand out others, so this fails by an assertion of its own."""
    found = 0
    for seed in range(120):
        problem = rich_problem(seed, most_tasks=16)
        answer = solve(problem, Budget(0.2), method)
        found += answer.schedule is not None
        if answer.schedule is not None:
            assert violations(problem, answer.schedule) == [], seed
    assert found > 50


def test_a_unit_of_time_changes_nothing():
    for seed in range(60):
        problem = rich_problem(seed)
        one = problem.in_units(problem.unit)
        answer = solve(one, BUDGET)
        assert solve(_times(one, LARGE_UNIT), BUDGET) == answer.times(LARGE_UNIT)


def _times(problem, unit):
    """Multiply all times; deadlines are a little later, which lets nothing else end by them."""
    tasks = tuple(
        replace(
            task,
            modes=tuple(replace(mode, duration=mode.duration * unit) for mode in task.modes),
            release=task.release * unit,
            deadline=None if task.deadline is None else task.deadline * unit + unit - 1,
        )
        for task in problem.tasks
    )
    return replace(problem, tasks=tasks)


@pytest.mark.parametrize(("name", "makespan"), FAULTS.items())
def test_what_was_wrong_is_right(name, makespan):
    problem = read(public_data(f"faults/{name}")).problem
    answer = solve(problem, BUDGET)
    assert (answer.status, answer.schedule.makespan(problem), answer.lower_bound) == ("optimal", makespan, makespan)
    for method in METHODS:
        other = solve(problem, Budget(1.0), method)
        assert other.lower_bound <= makespan
        assert other.schedule is None or other.schedule.makespan(problem) >= makespan
