"""The dispatcher's plan: thresholds, order and engine are all varied, and the fastest on training rounds is taken."""

from itertools import product

import pytest
from moe_passes.plan.decisions import ENGINES, ORDERS, DispatchPlan
from moe_passes.plan.round import Mode, Task
from moe_passes.routing.likelihood import table
from moe_passes.solve.dispatch.problem import Unknown
from moe_passes.solve.dispatch.solver import (
    LEAST_PERMILLE,
    NEVER,
    SURE_PERMILLE,
    mean_makespan,
    nothing_ahead,
    solve,
)
from moe_passes.solve.rcpsp.problem import Problem

from tests.passes.solve.dispatch.test_online import one_layer


def lasting(seconds):
    """A round of one task."""
    return Unknown(Problem((1,), ("banks",), (Task((Mode(seconds, ((0, 1),)),)),)), ())


def always(*rounds):
    return lambda plan: rounds


@pytest.mark.parametrize(("sure", "least"), list(product(SURE_PERMILLE, LEAST_PERMILLE)))
def test_the_thresholds_of_the_fastest_rounds_are_found(sure, least):
    """A round takes 10, and 2 or 1 more for each threshold that is not the right one."""

    def rounds(plan):
        return [lasting(10 + 2 * (plan.sure_permille != sure) + (plan.least_permille != least))]

    chosen = solve(table(), rounds)
    assert (chosen.sure_permille, chosen.least_permille) == (sure, least)


def test_it_is_the_mean_over_rounds_that_counts():
    """At 800, rounds take 4 and 9; at any other threshold 6 and 6; at 0, which comes first, 13 and 1."""
    taken = {0: (13, 1), 800: (4, 9), 950: (6, 6), NEVER: (6, 6)}
    assert solve(table(), lambda plan: [lasting(s) for s in taken[plan.least_permille]]).least_permille == 950
    assert mean_makespan([lasting(4), lasting(9)], nothing_ahead(table())) == 6.5


def test_an_engine_that_waits_is_chosen_where_the_free_one_is_slow():
    """The first mode waits until 1 and takes 2; the other one could start at 0, and takes 9."""
    tasks = (Task((Mode(1, ((0, 1),)),)), Task((Mode(2, ((0, 1),)), Mode(9, ((1, 1),)))))
    slow = Unknown(Problem((1, 1), ("banks", "link"), tasks), ())
    assert solve(table(), always(slow)).engine == "first"
    quick = Unknown(Problem((1, 1), ("banks", "link"), (tasks[0], Task((*tasks[1].modes[:1], Mode(2, ((1, 1),)))))), ())
    assert solve(table(), always(quick)).engine == "free", "at 2, where the first mode ends at 3"


@pytest.mark.parametrize(
    ("loads", "order", "makespans"),
    [
        # The likely load is needed, the unlikely one not: it is dropped when the router has run, at 5, if it has not
        # started. In program order it comes first, and the needed one ends at 4 + 4, its expert at 9, the join at 10;
        # by likelihood the needed one ends at 4, its expert at 6, the join at 7, and the wrong load, which starts at 4,
        # in vain at 8.
        ([(4, False, 100), (4, True, 900)], "likelihood", {"program": 10, "likelihood": 8}),
        # The likely load is not needed: by likelihood, it delays the one that is.
        ([(4, True, 100), (4, False, 900)], "program", {"program": 8, "likelihood": 10}),
    ],
)
def test_the_order_that_suits_the_likelihoods_is_chosen(loads, order, makespans):
    problem, guesses = one_layer(3, loads, slots=4)
    round_ = Unknown(problem, tuple(guesses))
    plans = {name: DispatchPlan(1000, 0, table(), name, "free") for name in makespans}
    assert {name: mean_makespan([round_], plan) for name, plan in plans.items()} == makespans
    assert solve(table(), always(round_)).order == order


def test_what_is_chosen_is_the_best_of_all_plans_on_a_round():
    problem, guesses = one_layer(3, [(4, True, 300), (2, False, 700), (3, True, 500), (1, False, 900)], slots=4)
    round_ = Unknown(problem, tuple(guesses))
    chosen = solve(table(), always(round_))
    every = (DispatchPlan(1000, 0, table(), order, engine) for order, engine in product(ORDERS, ENGINES))
    assert mean_makespan([round_], chosen) == min(mean_makespan([round_], plan) for plan in every)


def test_with_nothing_ahead_no_likelihood_is_enough():
    plan = nothing_ahead(table())
    assert min(plan.sure_permille, plan.least_permille) > 1000
