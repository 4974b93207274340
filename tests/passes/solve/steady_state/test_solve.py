"""Rounds that repeat, on examples small enough to follow by hand."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.round import Buffer, Mode, Task
from moe_passes.solve.rcpsp.bound import lower_bound
from moe_passes.solve.rcpsp.greedy import list_schedule
from moe_passes.solve.rcpsp.problem import Problem
from moe_passes.solve.steady_state.check import repeated_violations
from moe_passes.solve.steady_state.solver import steady_state

EXTERNAL, BANKS, STAGING = 0, 1, 2
ROUTER = 1


def one_round(draft, loads, head, slots):
    """A draft step, verify's router, an expert for each sure load, and the head."""
    tasks = [Task((Mode(draft, ((BANKS, 1),)),)), Task((Mode(1, ((BANKS, 1),)),), (0,))]
    buffers, experts, ahead = [], [], []
    for seconds in loads:
        ahead.append(len(tasks))
        tasks.append(Task((Mode(seconds, ((EXTERNAL, 1),)),)))
        experts.append(len(tasks))
        tasks.append(Task((Mode(1, ((BANKS, 1),)),), (ROUTER, ahead[-1])))
        buffers.append(Buffer(STAGING, 1, ahead[-1], experts[-1]))
    tasks.append(Task((Mode(head, ((BANKS, 1),)),), (ROUTER, *experts)))
    return Problem((1, 1, slots), ("external", "banks", "staging"), tuple(tasks), tuple(buffers)), ahead


def steady(problem, ahead):
    single = list_schedule(problem, "program")
    return single, steady_state(problem, ahead, ROUTER, single, lower_bound(problem))


def test_loads_of_the_next_round_run_in_the_idle_tail():
    # One round: loads until 6, the second expert until 7, the head until 13. In a period the loads run beside the head
    # of the round before, and what is left is the banks' work: 2 + 1 + 1 + 1 + 6 = 11.
    problem, ahead = one_round(draft=2, loads=[3, 3], head=6, slots=4)
    single, found = steady(problem, ahead)
    assert single.makespan(problem) == 13
    assert (found.period, found.lower_bound, found.carried) == (11, 11, tuple(ahead))
    assert all(found.schedule.starts[load] >= 3 for load in ahead), "after the router of the round before"


def test_a_shorter_period_does_not_repeat():
    problem, ahead = one_round(draft=2, loads=[3, 3], head=6, slots=4)
    single, found = steady(problem, ahead)
    assert repeated_violations(problem, found, single, ROUTER) == []
    assert repeated_violations(problem, replace(found, period=10), single, ROUTER)
    late = list(found.schedule.starts)
    late[ahead[0]] = 9
    assert repeated_violations(
        problem, replace(found, schedule=replace(found.schedule, starts=tuple(late))), single, ROUTER
    )


def test_without_room_beside_the_largest_nothing_crosses():
    problem, ahead = one_round(draft=2, loads=[3, 3], head=6, slots=1)
    single, found = steady(problem, ahead)
    assert (found.period, found.carried) == (single.makespan(problem), ())


def test_the_bound_is_a_round_less_what_can_be_held_at_the_border():
    """One round: four loads of 3, the last expert, the head of 10: 23. Two slots hold 6 of that at a border: 17.

    The banks work for 1 + 1 + 4 + 10 = 16, which is the bound where all 12 of the loads can be held.
    """
    problem, ahead = one_round(draft=1, loads=[3, 3, 3, 3], head=10, slots=2)
    assert lower_bound(problem) == 23
    _, found = steady(problem, ahead)
    assert found.lower_bound == 17 <= found.period
    problem, ahead = one_round(draft=1, loads=[3, 3, 3, 3], head=10, slots=9)
    _, found = steady(problem, ahead)
    assert (found.lower_bound, found.period, len(found.carried)) == (16, 16, 4)


@given(
    draft=st.integers(0, 5),
    loads=st.lists(st.integers(1, 6), max_size=6),
    head=st.integers(0, 9),
    slots=st.integers(1, 5),
)
@settings(max_examples=200, deadline=None)
def test_the_period_repeats_is_bounded_and_never_longer_than_a_round(draft, loads, head, slots):
    problem, ahead = one_round(draft, loads, head, slots)
    single, found = steady(problem, ahead)
    assert repeated_violations(problem, found, single, ROUTER) == []
    assert found.lower_bound <= found.period <= single.makespan(problem)
