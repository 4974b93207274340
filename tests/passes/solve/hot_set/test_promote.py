"""Promotion into the next hot set, by hand and against what it promises."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.solve.hot_set.promote import promoted


def masks(resident, needed, experts=6):
    return np.isin(np.arange(experts), resident), np.isin(np.arange(experts), needed)


def test_the_hottest_newcomer_replaces_the_coldest_resident_and_so_on():
    """Newcomers 3, 4 and 5 have 50, 90 and 20; residents 0, 1 and 2 have 40, 10 and 60: 90 for 10, 50 for 40."""
    assert promoted(*masks([0, 1, 2], [3, 4, 5]), np.array([40, 10, 60, 50, 90, 20])) == ((4, 1), (3, 0))


def test_a_newcomer_that_is_as_hot_is_not_promoted():
    assert promoted(*masks([0], [1]), np.array([7, 7, 0, 0, 0, 0])) == ()
    assert promoted(*masks([0], [1]), np.array([6, 7, 0, 0, 0, 0])) == ((1, 0),)


def test_only_what_verify_loads_is_promoted():
    hotness = np.array([1, 2, 99, 98, 0, 0])
    assert promoted(*masks([0, 1], [1, 3]), hotness) == ((3, 0),), "2 is hotter but not needed, 1 is there already"
    assert promoted(*masks([0, 1], [0, 1]), hotness) == ()
    assert promoted(*masks([], [2]), hotness) == (), "there is no place to take"


def test_of_equals_the_first_comes_first():
    assert promoted(*masks([0, 1], [2, 3]), np.array([1, 1, 5, 5, 0, 0])) == ((2, 0), (3, 1))


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), min_size=1, max_size=10))
@settings(max_examples=200, deadline=None)
def test_the_next_hot_set_is_the_hottest_that_can_be_had(experts):
    resident, needed, hotness = (np.array(column) for column in zip(*experts, strict=True))
    pairs = promoted(resident, needed, hotness)
    new, old = {n for n, _ in pairs}, {o for _, o in pairs}
    assert len(new) == len(old) == len(pairs)
    assert all(needed[n] and not resident[n] and resident[o] and hotness[n] > hotness[o] for n, o in pairs)
    after = [e for e in np.flatnonzero(resident) if e not in old] + sorted(new)
    possible = sorted((int(hotness[e]) for e in np.flatnonzero(resident | needed)), reverse=True)
    assert sum(int(hotness[e]) for e in after) == sum(possible[: int(resident.sum())])
