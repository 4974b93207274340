"""Iterated justification keeps what it finds, and finds what list rules miss."""

import random

from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.justification import improve, turn_seconds
from moe_passes.solve.rcpsp.problem import Budget

from tests.passes.solve.rcpsp.shops import best_list_schedule, random_shop


def test_job_shops_get_shorter_and_stay_valid():
    choose = random.Random(1)
    for _ in range(5):
        problem = random_shop(choose, 10, 6)
        first = best_list_schedule(problem)
        found = improve(problem, first, 0, Budget(0.1))
        assert violations(problem, found) == []
        assert found.makespan(problem) < first.makespan(problem)
        assert found == improve(problem, first, 0, Budget(0.1)), "the same seed, the same schedule"


def test_a_turn_that_gains_is_kept_when_the_budget_ends_with_it():
    choose, gained = random.Random(2), 0
    for _ in range(10):
        problem = random_shop(choose, 8, 5)
        first = best_list_schedule(problem)
        gained += improve(problem, first, 0, Budget(1.5 * turn_seconds(problem))).makespan(problem) < first.makespan(
            problem
        )
    assert gained > 0
