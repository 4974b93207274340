"""The dispatcher against every choice there is."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.solve.replica.dispatcher import Dispatcher

BANKS = 4
ONE_BANK = st.lists(st.integers(0, BANKS - 1).map(lambda b: (b,)), min_size=1, max_size=3, unique=True)
SOME_BANKS = st.lists(
    st.sets(st.integers(0, BANKS - 1), min_size=1, max_size=BANKS).map(lambda s: tuple(sorted(s))),
    min_size=1,
    max_size=3,
    unique=True,
)


def optimum(dispatcher, experts):
    choices = product(*(range(max(1, len(dispatcher.copies[e]))) for e in experts))
    return min(dispatcher.busiest(experts, choice) for choice in choices)


@given(st.lists(ONE_BANK, min_size=1, max_size=7))
@settings(max_examples=300, deadline=None)
def test_whole_experts_are_dispatched_optimally(replicas):
    dispatcher = Dispatcher(BANKS, replicas, [10.0] * len(replicas))
    experts = list(range(len(replicas)))
    assert dispatcher.is_exact
    assert dispatcher.busiest(experts, dispatcher.choose(experts)) == pytest.approx(optimum(dispatcher, experts))


@given(st.lists(ONE_BANK, min_size=1, max_size=5), st.lists(SOME_BANKS.map(lambda c: c[:1]), max_size=3))
@settings(max_examples=200, deadline=None)
def test_sharded_experts_without_a_choice_keep_it_optimal(replicas, fixed):
    everything = [*replicas, *fixed]
    dispatcher = Dispatcher(BANKS, everything, [10.0] * len(replicas) + [7.0] * len(fixed))
    experts = list(range(len(everything)))
    assert dispatcher.is_exact, "those with a choice are whole, and of one size"
    assert dispatcher.busiest(experts, dispatcher.choose(experts)) == pytest.approx(optimum(dispatcher, experts))


PAIRS = st.lists(st.sampled_from([(0, 1), (2, 3)]), min_size=1, max_size=2, unique=True)


@given(st.lists(PAIRS, min_size=1, max_size=6), st.lists(SOME_BANKS.map(lambda c: c[:1]), max_size=3))
@settings(max_examples=200, deadline=None)
def test_replicas_on_disjoint_groups_of_banks_are_dispatched_optimally(replicas, fixed):
    everything = [*replicas, *fixed]
    dispatcher = Dispatcher(BANKS, everything, [10.0] * len(replicas) + [7.0] * len(fixed))
    experts = list(range(len(everything)))
    assert dispatcher.is_exact
    assert dispatcher.busiest(experts, dispatcher.choose(experts)) == pytest.approx(optimum(dispatcher, experts))


@given(st.lists(st.tuples(SOME_BANKS, st.integers(1, 50)), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_sharded_choices_are_valid_bounded_and_close(layer):
    dispatcher = sized(layer)
    experts = list(range(len(layer)))
    chosen = dispatcher.choose(experts)
    best, found = optimum(dispatcher, experts), dispatcher.busiest(experts, chosen)
    assert all(0 <= replica < len(dispatcher.copies[e]) for e, replica in zip(experts, chosen, strict=True))
    assert dispatcher.lower_bound(experts) <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= found <= 2 * best
    if dispatcher.is_exact:
        assert found == pytest.approx(best)
    else:
        assert not better_by_one_move(dispatcher, experts, chosen)


def better_by_one_move(dispatcher, experts, chosen):
    """Return the choices that another replica of one expert makes better."""
    found = dispatcher.busiest(experts, chosen)
    others = (
        [*chosen[:place], replica, *chosen[place + 1 :]]
        for place, expert in enumerate(experts)
        for replica in range(len(dispatcher.copies[expert]))
    )
    return [other for other in others if dispatcher.busiest(experts, other) < found * (1 - 1e-9)]


SIZED = st.lists(st.tuples(SOME_BANKS, st.integers(1, 50)), min_size=2, max_size=6)


@given(SIZED.filter(lambda layer: not sized(layer).is_exact))
@settings(max_examples=300, deadline=None)
def test_where_choices_are_not_exact_no_single_move_lowers_the_busiest_bank(layer):
    dispatcher = sized(layer)
    experts = list(range(len(layer)))
    chosen = dispatcher.choose(experts)
    assert not better_by_one_move(dispatcher, experts, chosen)
    found = dispatcher.busiest(experts, chosen)
    assert dispatcher.lower_bound(experts) * (1 - 1e-9) <= optimum(dispatcher, experts) <= found * (1 + 1e-9)


def sized(layer):
    return Dispatcher(BANKS, [copies for copies, _ in layer], [float(size) for _, size in layer])


def test_a_single_move_frees_the_busiest_bank():
    """Banks 2 and 1 are equal for expert 0: it comes to 2, beside half of expert 1: 6. Moved to 1, it leaves 4."""
    dispatcher = Dispatcher(3, [[(2,), (1,)], [(0, 2), (2,)]], [4.0, 4.0])
    assert not dispatcher.is_exact
    assert dispatcher.busiest([0, 1], [0, 0]) == 6.0
    assert dispatcher.choose([0, 1]) == [1, 0]
    assert dispatcher.busiest([0, 1], [1, 0]) == 4.0 == dispatcher.lower_bound([0, 1])


def test_a_path_of_two_moves_is_found():
    """Greedy puts 0 and 1 so that 2 and 3 collide; only moving two experts along a path frees the bank."""
    replicas = [[(0,), (1,)], [(1,), (2,)], [(0,)], [(1,), (0,)]]
    dispatcher = Dispatcher(3, replicas, [1.0] * 4)
    assert dispatcher.busiest([0, 1, 2, 3], dispatcher.choose([0, 1, 2, 3])) == 2.0
    assert dispatcher.busiest([0, 1, 2], dispatcher.choose([0, 1, 2])) == 1.0


def test_experts_that_are_not_resident_are_passed_over():
    dispatcher = Dispatcher(2, [[], [(0,), (1,)]], [0.0, 4.0])
    assert dispatcher.choose([0, 1]) == [0, 0]
    assert dispatcher.busiest([0, 1], [0, 0]) == 4.0


@given(st.lists(SOME_BANKS, min_size=1, max_size=8), st.permutations(range(BANKS)))
@settings(max_examples=200, deadline=None)
def test_choices_do_not_depend_on_how_banks_are_numbered(replicas, number):
    renumbered = [[tuple(sorted(number[b] for b in copy)) for copy in copies] for copies in replicas]
    experts, sizes = list(range(len(replicas))), [12.0] * len(replicas)
    chosen = Dispatcher(BANKS, replicas, sizes).choose(experts)
    assert chosen == Dispatcher(BANKS, renumbered, sizes).choose(experts)
