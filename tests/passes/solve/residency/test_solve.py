"""The knapsack of what is kept near: brute force over every choice, the bound, and a checker that can refuse."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.decisions import ALL, MSB, NONE
from moe_passes.plan.errors import InputError
from moe_passes.solve.residency.check import least_bound, violations
from moe_passes.solve.residency.problem import Problem
from moe_passes.solve.residency.solver import solve, value_of


def made(sizes, values, room):
    """A problem from (slice, whole) bytes and values."""
    columns = [np.array(column) for column in zip(*sizes, strict=True)]
    worth = [np.array(column, dtype=float) for column in zip(*values, strict=True)]
    return Problem(columns[0], columns[1], worth[0], worth[1], room)


def random_problem(seed: int, count: int, room: int) -> Problem:
    random = np.random.default_rng(seed)
    slices = random.integers(1, 6, count)
    wholes = slices + random.integers(0, 6, count)
    values = random.integers(0, 20, count).astype(float)
    gains = np.where(wholes > slices, random.integers(0, 20, count), 0).astype(float)
    return Problem(slices, wholes, values, values + gains, room)


def best_value(problem: Problem) -> float:
    """Try every choice."""
    found = 0.0
    for levels in product((NONE, MSB, ALL), repeat=len(problem.whole_bytes)):
        chosen = np.array(levels)
        size = np.where(chosen == ALL, problem.whole_bytes, np.where(chosen == MSB, problem.slice_bytes, 0)).sum()
        if size <= problem.room_bytes:
            found = max(found, value_of(problem, chosen))
    return found


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(0, 50))
def test_against_every_choice(seed, count, room):
    problem = random_problem(seed, count, room)
    solution, best = solve(problem), best_value(problem)
    assert violations(problem, solution) == []
    assert solution.value <= best <= solution.upper_bound * (1 + 1e-12)
    assert solution.upper_bound - solution.value <= problem.whole_value.max() + 1e-9, "at most one expert short"


def test_of_equal_sizes_the_answer_is_the_best():
    """Slices and rests of one size: rounding leaves nothing over."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        gains = np.sort(random.integers(0, 30, (6, 2)), axis=1)[:, ::-1].astype(float)
        problem = Problem(np.full(6, 4), np.full(6, 8), gains[:, 0], gains.sum(axis=1), 20)
        assert solve(problem).value == best_value(problem)


def test_what_is_worth_more_whole_is_kept_whole():
    """A byte of the first expert's rest is worth more than one of its slice: both, or neither."""
    problem = made([(4, 8), (4, 8)], [(1, 9), (6, 7)], 8)
    assert solve(problem).levels.tolist() == [ALL, NONE]
    assert solve(replace(problem, room_bytes=12)).levels.tolist() == [ALL, MSB]


def test_what_is_left_takes_a_slice_alone():
    """Three bytes do not hold the expert that is worth more whole; they hold its slice."""
    problem = made([(3, 8)], [(1, 9)], 5)
    solution = solve(problem)
    assert solution.levels.tolist() == [MSB]
    assert solution.upper_bound == pytest.approx(9 * 5 / 8)


def test_slices_beat_whole_experts_where_greedy_keeps_those():
    problem = made([(4, 8), (4, 8)], [(6, 7), (6, 7)], 8)
    solution = solve(problem)
    assert solution.levels.tolist() == [MSB, MSB]
    assert (solution.value, solution.greedy) == (12, 7)


def test_without_room_nothing_is_kept():
    assert solve(made([(1, 2)], [(1, 2)], -5)).levels.tolist() == [NONE]


def test_the_checker_refuses():
    problem = random_problem(1, 6, 18)
    solution = solve(problem)
    assert violations(problem, solution) == []
    for changes, said in (
        ({"levels": np.full(6, ALL)}, "bytes are kept in"),
        ({"levels": np.full(6, 7)}, "levels of"),
        ({"value": solution.value + 1}, "recomputed"),
        ({"upper_bound": solution.value - 1}, "does not hold"),
        ({"upper_bound": solution.upper_bound * 2}, "the relaxation says"),
        ({"greedy": solution.value + 1}, "does not hold"),
    ):
        assert said in " ".join(violations(problem, replace(solution, **changes)))
    whole = made([(4, 4)], [(1, 1)], 4)
    found = violations(whole, replace(solve(whole), levels=np.array([MSB])))
    assert "has none" in " ".join(found)


def test_the_dual_is_the_relaxation():
    problem = made([(4, 8), (4, 8)], [(6, 7), (5, 9)], 10)
    assert least_bound(problem) == pytest.approx(6 + 5 + 4 * 2 / 4)


def test_what_is_no_problem_is_refused():
    for wrong in (
        lambda: made([(0, 2)], [(1, 2)], 1),
        lambda: made([(3, 2)], [(1, 2)], 1),
        lambda: made([(1, 2)], [(2, 1)], 1),
        lambda: made([(1, 2)], [(1, float("inf"))], 1),
        lambda: Problem(np.ones(2, int), np.ones(1, int), np.ones(1), np.ones(1), 1),
    ):
        with pytest.raises(InputError, match="valid"):
            wrong()
