"""The hot set as rounds go by, by hand and against what it promises."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.decisions import FROZEN, HotSetRule
from moe_passes.solve.hot_set.follow import HotSet, hottest_for_coldest

ALL = 99


def promoted(resident, needed, hotness, most=ALL, experts=6):
    masks = [np.isin(np.arange(experts), members)[None] for members in (resident, needed)]
    return hottest_for_coldest(*masks, np.array([hotness], dtype=float), most).by_layer(1)[0]


def test_the_hottest_newcomer_replaces_the_coldest_resident_and_so_on():
    """Newcomers 3, 4 and 5 have 50, 90 and 20; residents 0, 1 and 2 have 40, 10 and 60: 90 for 10, 50 for 40."""
    heat = [40, 10, 60, 50, 90, 20]
    assert promoted([0, 1, 2], [3, 4, 5], heat) == ((4, 1), (3, 0))
    assert promoted([0, 1, 2], [3, 4, 5], heat, most=1) == ((4, 1),)


def test_a_newcomer_that_is_as_hot_is_not_promoted():
    assert promoted([0], [1], [7, 7, 0, 0, 0, 0]) == ()
    assert promoted([0], [1], [6, 7, 0, 0, 0, 0]) == ((1, 0),)


def test_only_what_verify_loads_is_promoted():
    hotness = [1, 2, 99, 98, 0, 0]
    assert promoted([0, 1], [1, 3], hotness) == ((3, 0),), "2 is hotter but not needed, 1 is there already"
    assert promoted([0, 1], [0, 1], hotness) == ()
    assert promoted([], [2], hotness) == (), "there is no place to take"


def test_of_equals_the_first_comes_first():
    assert promoted([0, 1], [2, 3], [1, 1, 5, 5, 0, 0]) == ((2, 0), (3, 1))


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), min_size=1, max_size=10))
@settings(max_examples=200, deadline=None)
def test_the_next_hot_set_is_the_hottest_that_can_be_had(experts):
    resident, needed, hotness = (np.array(column) for column in zip(*experts, strict=True))
    (pairs,) = hottest_for_coldest(resident[None], needed[None], hotness[None].astype(float), ALL).by_layer(1)
    new, old = {n for n, _ in pairs}, {o for _, o in pairs}
    assert len(new) == len(old) == len(pairs)
    assert all(needed[n] and not resident[n] and resident[o] and hotness[n] > hotness[o] for n, o in pairs)
    after = [e for e in np.flatnonzero(resident) if e not in old] + sorted(new)
    possible = sorted((int(hotness[e]) for e in np.flatnonzero(resident | needed)), reverse=True)
    assert sum(int(hotness[e]) for e in after) == sum(possible[: int(resident.sum())])


def hot_set(rule):
    """One layer of four experts, 0 and 1 resident, chosen 4, 3, 2 and 1 times in training."""
    return HotSet(rule, np.array([[True, True, False, False]]), np.array([[4, 3, 2, 1]]))


def round_of(*experts):
    return np.bincount(experts, minlength=4)[None]


def test_hotness_begins_as_in_training_fades_and_counts_tokens_by_hand():
    """Of 10 tokens .4, .3, .2 and .1: 4, 3, 2, 1. Two tokens choose 2 and 3 (top-2): a half of a token each, twice."""
    found = hot_set(HotSetRule(10, 8, 1))
    assert found.hotness.tolist() == [[4, 3, 2, 1]]
    swaps = found.follow(round_of(2, 3, 2, 3), tokens=2, top_k=2).by_layer(1)
    fade = math.exp(-0.2)
    assert found.hotness[0] == pytest.approx([4 * fade, 3 * fade, 2 * fade + 1, fade + 1])
    assert swaps == (((2, 1),),), "2.64 is hotter than 2.46, 1.82 is not hotter than 3.27"
    assert found.resident.tolist() == [[True, False, True, False]]
    assert found.place.tolist() == [[0, -1, 1, -1]], "2 lies where 1 lay"


def test_a_place_is_handed_on():
    found = hot_set(HotSetRule(1, 1, 1))
    for expert in (2, 3, 1):
        found.follow(round_of(expert), tokens=5, top_k=1)
    assert found.resident.sum() == 2
    assert sorted(found.place[found.place >= 0].tolist()) == [0, 1]


def test_a_rule_says_how_many_change_and_how_often_and_whether_at_all():
    def changes(rule):
        found = hot_set(rule)
        return [len(found.follow(round_of(2, 3), 1, 2).layer) for _ in range(4)]

    assert changes(HotSetRule(1, 8, 1)) == [2, 0, 0, 0]
    assert changes(HotSetRule(1, 1, 1)) == [1, 1, 0, 0]
    assert changes(HotSetRule(1, 8, 3)) == [0, 0, 2, 0]
    assert changes(FROZEN) == [0, 0, 0, 0]
