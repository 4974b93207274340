"""The dispatcher on rounds small enough to follow by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.decisions import ENGINES, ORDERS, DispatchPlan
from moe_passes.plan.round import Buffer, Mode, Task
from moe_passes.routing.likelihood import table
from moe_passes.solve.dispatch.online import dispatch
from moe_passes.solve.dispatch.problem import Guess, Unknown
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.greedy import list_schedule
from moe_passes.solve.rcpsp.problem import Problem

EXTERNAL, BANKS, STAGING = 0, 1, 2


def plan(order="likelihood", engine="free"):
    return DispatchPlan(1000, 0, table(), order, engine)


def one_layer(draft, loads, slots):
    """A draft step, verify's router, per load (seconds, is needed, likelihood) an expert that needs it, and a join."""
    tasks = [Task((Mode(draft, ((BANKS, 1),)),)), Task((Mode(2, ((BANKS, 1),)),), (0,))]
    buffers, guesses, experts = [], [], []
    for seconds, is_needed, likelihood in loads:
        load = len(tasks)
        tasks.append(Task((Mode(seconds, ((EXTERNAL, 1),)),)))
        guesses.append(Guess(load, 1, is_needed, ((-1, likelihood),)))
        last = load
        if is_needed:
            last = len(tasks)
            tasks.append(Task((Mode(1, ((BANKS, 1),)),), (1, load)))
            experts.append(last)
        buffers.append(Buffer(STAGING, 1, load, last))
    tasks.append(Task((Mode(1, ((BANKS, 1),)),), (1, *experts)))
    return Problem((1, 1, slots), ("external", "banks", "staging"), tuple(tasks), tuple(buffers)), guesses


def test_a_wrong_guess_that_has_not_started_is_dropped_and_one_that_has_ends_in_vain():
    # The router ends at 5. By then the likeliest guess (needed) and the next (not) have started; the third is dropped.
    problem, guesses = one_layer(3, [(4, True, 900), (4, False, 800), (4, False, 700)], slots=4)
    done = dispatch(Unknown(problem, tuple(guesses)), plan())
    assert done.dropped == {guesses[2].task}
    assert len(done.wasted) == 1
    assert done.schedule.starts[guesses[1].task] == 4
    executed, schedule = done.executed()
    assert violations(executed, schedule) == []
    assert done.makespan == 8, "the load in vain ends last"


def test_what_is_known_to_be_needed_goes_before_guesses():
    # At 5 the router has run: the unlikely load that is needed goes before the likely one of a later decision.
    problem, guesses = one_layer(3, [(5, True, 900), (3, True, 100), (3, True, 800)], slots=4)
    guesses[2] = Guess(guesses[2].task, len(problem.tasks) - 1, True, guesses[2].moments)
    starts = dispatch(Unknown(problem, tuple(guesses)), plan()).schedule.starts
    assert starts[guesses[0].task] == 0
    assert starts[guesses[1].task] == 5
    assert starts[guesses[2].task] == 8
    in_order = dispatch(Unknown(problem, tuple(guesses)), plan(order="program")).schedule.starts
    assert in_order == starts, "here program order happens to be the same"


def test_a_later_ask_moves_a_load_to_the_front():
    problem, guesses = one_layer(3, [(2, True, 500), (2, True, 400), (2, True, 300)], slots=4)
    asked = Guess(guesses[2].task, 1, True, ((-1, 300), (0, 950)))
    starts = dispatch(Unknown(problem, (*guesses[:2], asked)), plan()).schedule.starts
    assert [starts[g.task] for g in guesses] == [0, 2, 4]
    early = [Guess(g.task, 1, True, g.moments) for g in guesses[:2]]
    longer = one_layer(1, [(2, True, 500), (2, True, 400), (2, True, 300)], slots=4)[0]
    starts = dispatch(Unknown(longer, (*early, asked)), plan()).schedule.starts
    assert [starts[g.task] for g in guesses] == [0, 4, 2]


def test_engine_first_waits_for_the_first_mode():
    slow_first = (Mode(4, ((BANKS, 1),)), Mode(1, ((EXTERNAL, 1),)))
    problem = Problem((1, 1), ("external", "banks"), (Task((Mode(1, ((BANKS, 1),)),)), Task(slow_first)))
    assert dispatch(Unknown(problem, ()), plan(engine="free")).schedule.modes == (0, 1)
    assert dispatch(Unknown(problem, ()), plan(engine="first")).schedule.modes == (0, 0)


@given(
    loads=st.lists(
        st.tuples(st.integers(1, 5), st.booleans(), st.sampled_from([100, 500, 500, 900])), min_size=1, max_size=8
    ),
    draft=st.integers(0, 9),
    slots=st.integers(1, 4),
    order=st.sampled_from(ORDERS),
    engine=st.sampled_from(ENGINES),
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_guessed_the_round_is_valid_and_complete(loads, draft, slots, order, engine):
    problem, guesses = one_layer(draft, loads, slots)
    done = dispatch(Unknown(problem, tuple(guesses)), plan(order, engine))
    executed, schedule = done.executed()
    assert violations(executed, schedule) == []
    assert len(executed.tasks) == len(problem.tasks) - len(done.dropped)
    assert all(not g.is_needed for g in guesses if g.task in done.dropped)
    if all(is_needed for _, is_needed, _ in loads) and order == "program":
        assert done.makespan == list_schedule(problem, "program").makespan(problem)


def test_buffers_that_are_never_closed_are_refused():
    tasks = (Task((Mode(1, ((BANKS, 1),)),), (1,)), Task((Mode(1, ((BANKS, 1),)),)))
    buffers = (Buffer(STAGING, 2, 0, 0), Buffer(STAGING, 2, 1, 0))
    with pytest.raises(ValueError, match="never closed"):
        dispatch(Unknown(Problem((1, 1, 3), ("external", "banks", "staging"), tasks, buffers), ()), plan())
