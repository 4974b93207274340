"""Every stage of the search gains something where list scheduling is not the best there is, and each method asks it."""

import random

import pytest
from moe_passes.plan.round import Buffer, Mode, Task
from moe_passes.solve.rcpsp import exact, greedy, justification, neighbourhoods, windows
from moe_passes.solve.rcpsp.bound import lower_bound
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.greedy import RULES, list_schedule
from moe_passes.solve.rcpsp.problem import Budget, Problem
from moe_passes.solve.rcpsp.solver import solve

from tests.passes.solve.rcpsp.shops import SMALL, best_list_schedule, random_shop, shop

SECOND = Budget(1.0)


def test_no_list_rule_and_no_justification_finds_the_shortest_small_shop():
    problem = shop(SMALL)
    assert {list_schedule(problem, rule).makespan(problem) for rule in RULES} == {27}
    assert lower_bound(problem) == 24, "derived with the shop"
    start = best_list_schedule(problem)
    assert justification.improve(problem, start, 24, Budget(0.2)).makespan(problem) == 27


@pytest.mark.parametrize("stage", [windows.improve, neighbourhoods.improve])
@pytest.mark.parametrize("bound", [0, 24])
def test_a_stage_finds_the_shortest_small_shop(stage, bound):
    problem = shop(SMALL)
    found = stage(problem, best_list_schedule(problem), bound, SECOND)
    assert violations(problem, found) == []
    assert found.makespan(problem) == 24
    assert stage(problem, found, bound, SECOND).makespan(problem) == 24, "what is shortest stays"


def test_plain_cp_sat_finds_the_shortest_small_shop_and_proves_it():
    problem = shop(SMALL)
    for start in (None, best_list_schedule(problem)):
        status, found, bound = exact.search(problem, start, 0, SECOND)
        assert (status, found.makespan(problem), bound) == ("optimal", 24, 24)
        assert violations(problem, found) == []


def test_justification_shortens_what_lists_leave():
    """Ten jobs on six machines: the best list schedule takes 667, the bound is 599."""
    problem = random_shop(random.Random(3), 10, 6)
    start = best_list_schedule(problem)
    found = justification.improve(problem, start, 0, Budget(0.1))
    assert violations(problem, found) == []
    assert found.makespan(problem) < start.makespan(problem) == 667


def test_list_stays_with_the_best_list_schedule():
    problem = shop(SMALL)
    answer = solve(problem, SECOND, "list")
    assert (answer.schedule.makespan(problem), answer.lower_bound, answer.status) == (27, 24, "feasible")


def test_windows_go_on_from_what_justification_found():
    """From the best list schedule, windows alone get less far, with more time."""
    problem = random_shop(random.Random(26), 10, 6)
    start = best_list_schedule(problem)
    alone = windows.improve(problem, start, lower_bound(problem), Budget(0.2))
    answer = solve(problem, Budget(0.1), "windows")
    assert violations(problem, answer.schedule) == []
    assert answer.schedule.makespan(problem) < alone.makespan(problem) <= start.makespan(problem)


def test_neighbourhoods_finish_what_plain_cp_sat_cannot():
    """A fifth of 0.1 s is too short for plain CP-SAT to get to 599, which is the bound."""
    problem = random_shop(random.Random(3), 10, 6)
    assert lower_bound(problem) == 599
    start = best_list_schedule(problem)
    assert exact.search(problem, start, 599, Budget(0.2 * 0.1))[1].makespan(problem) > 599
    answer = solve(problem, Budget(0.1), "mixed")
    assert violations(problem, answer.schedule) == []
    assert (answer.greedy, answer.schedule.makespan(problem), answer.status) == (667, 599, "optimal")


def test_after_a_glance_plain_cp_sat_has_the_rest_of_the_budget():
    """A glance of a twentieth of 0.2 s is too short for 599."""
    problem = random_shop(random.Random(3), 10, 6)
    start = best_list_schedule(problem)
    assert exact.search(problem, start, 599, Budget(0.05 * 0.2))[1].makespan(problem) > 599
    answer = solve(problem, Budget(0.2), "exact")
    assert (answer.schedule.makespan(problem), answer.status) == (599, "optimal")


def test_windows_keep_to_deadlines():
    """Only with the second job last on machine 2 does the small shop take 24; it then ends at 24, too late for 20."""
    due = shop(SMALL, (None, 20))
    assert violations(due, solve(due, SECOND, "windows").schedule) == []
    assert solve(due, SECOND, "windows").schedule.makespan(due) == 27
    loose = shop(SMALL, (None, 24))
    assert solve(loose, SECOND, "windows").schedule.makespan(loose) == 24


def test_a_round_that_is_close_enough_is_not_searched():
    problem = shop(SMALL)
    close = Budget(1.0, close_enough=(27 - 24) / 24)
    for stage in (windows.improve, neighbourhoods.improve, justification.improve):
        start = best_list_schedule(problem)
        assert stage(problem, start, 24, close) == start
    assert solve(problem, close, "mixed").schedule.makespan(problem) == 27


@pytest.mark.parametrize("stage", [windows.improve, neighbourhoods.improve, justification.improve])
def test_without_a_budget_nothing_is_searched(stage):
    problem = random_shop(random.Random(3), 10, 6)
    start = best_list_schedule(problem)
    assert stage(problem, start, 0, Budget(0.0)) == start


def task(duration, resource, *after):
    return Task((Mode(duration, ((resource, 1),)),), after)


A, B, ROOM = 0, 1, 2
TWO_SLOTS = (1, 1, 2), ("a", "b", "room")
LONG_TAIL = Problem(
    *TWO_SLOTS,
    (task(4, A), task(2, A), task(3, B, 1), task(4, A, 0, 2)),
    (Buffer(ROOM, 1, 1, 2), Buffer(ROOM, 1, 0, 3)),
)
FIRST_COME = Problem((1, 1), ("a", "b"), (task(3, B), task(3, B, 0), task(1, B), task(2, A, 2)))
TWO_AHEAD = Problem(
    *TWO_SLOTS,
    (task(1, B), task(2, A, 0), task(4, B), task(4, B), task(4, A, 3)),
    (Buffer(ROOM, 1, 0, 1), Buffer(ROOM, 1, 3, 4)),
)


@pytest.mark.parametrize(
    ("rule", "problem", "makespans"),
    [
        # Task 1 and all that follows it takes 9: first, it ends at 2, 0 at 6, 3 at 10. In program order 3 waits for 9.
        # A double rule keeps room for two more beside task 1, which there is not.
        ("tail", LONG_TAIL, (13, 10, 13, 13, 13)),
        # Task 2 is there from the start, 1 comes at 3: 2 until 4, then 1 until 7, beside it 3 until 6. The other rules
        # take 1 first: 2 ends at 7, 3 at 9.
        ("ready", FIRST_COME, (9, 9, 7, 9, 9)),
        # Task 3 has the longest tail, but room for 0 and one more is kept from it, so 0 goes first, until 1; 3 until 5,
        # 2 and 4 until 9. With room for one kept, 3 goes first, and 1 waits for 4 on the same machine until 9.
        ("tail-double", TWO_AHEAD, (13, 11, 13, 13, 9)),
    ],
)
def test_each_rule_is_the_best_somewhere(rule, problem, makespans):
    assert tuple(list_schedule(problem, name).makespan(problem) for name in RULES) == makespans
    answer = solve(problem, SECOND, "list")
    assert (answer.rule, answer.greedy) == (rule, min(makespans))
    assert violations(problem, answer.schedule) == []


@pytest.mark.parametrize("rule", ["program", "tail", "ready"])
def test_many_kinds_of_tasks_are_scheduled_as_few_are(monkeypatch, rule):
    """Tasks of several hundred kinds are looked at all at once, which changes nothing but the time."""
    choose = random.Random(4)
    tasks = []
    for number in range(300):
        modes = tuple(
            Mode(choose.randint(0, 9), ((0, choose.randint(1, 40)), (1, choose.randint(0, 30))))
            for _ in range(choose.randint(1, 2))
        )
        after = tuple(choose.sample(range(number), min(number, choose.randint(0, 2))))
        tasks.append(Task(modes, after, choose.choice((0, 0, 25))))
    problem = Problem((50, 30), ("a", "b"), tuple(tasks))
    monkeypatch.setattr(greedy, "MANY_QUEUES", 1)
    many = list_schedule(problem, rule)
    monkeypatch.setattr(greedy, "MANY_QUEUES", 10**9)
    assert many == list_schedule(problem, rule)
    assert violations(problem, many) == []


def test_room_is_kept_for_what_comes_first_in_program_order():
    """One slot: were the second load to take it at 0, its expert would wait for the first one, whose load has no room.

    Router until 5, load until 8, expert until 9; then the other load until 11 and its expert until 12.
    """
    tasks = (task(5, B), task(3, A, 0), task(1, B, 1), task(2, A), task(1, B, 2, 3))
    problem = Problem((1, 1, 1), ("a", "b", "room"), tasks, (Buffer(ROOM, 1, 1, 2), Buffer(ROOM, 1, 3, 4)))
    for rule in RULES:
        schedule = list_schedule(problem, rule)
        assert schedule is not None
        assert schedule.starts == (0, 5, 8, 9, 11)


def test_a_double_rule_keeps_room_for_two():
    """Two slots: a load that may start at 0 leaves room for one other beside it, but not for two.

    So under a double rule it waits until 2, when the load before it in program order takes its slot.
    """
    tasks = (task(2, B), task(3, B, 0), task(4, A))
    problem = Problem((1, 1, 2), ("a", "b", "room"), tasks, (Buffer(ROOM, 1, 1, 1), Buffer(ROOM, 1, 2, 2)))
    assert list_schedule(problem, "program").starts == (0, 2, 0)
    assert list_schedule(problem, "program-double").starts == (0, 2, 2)


def test_conflicting_deadlines_of_a_shop_are_named():
    """Two jobs come to machine 2 at 2, for 8 each; then they take 8 and 1 elsewhere.

    Whichever is first ends at 18 or 11, the other one at 19 or 26.
    """
    problem = shop(SMALL[:2], (18, 11))
    answer = solve(problem, SECOND, "exact")
    assert (answer.status, answer.conflict, answer.is_smallest) == ("infeasible", (2, 5), True)
    assert solve(shop(SMALL[:2], (18, 19)), SECOND, "exact").status == "optimal"
    assert solve(shop(SMALL[:2], (26, 11)), SECOND, "exact").status == "optimal"
