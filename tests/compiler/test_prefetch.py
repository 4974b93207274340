"""The dispatcher's plan in the running program: what is prefetched, and what becomes resident."""

from dataclasses import replace

import pytest

from moe_compiler.runtime.hot_set import HotSet, HotSetRule
from moe_compiler.runtime.prefetch import Likelihoods, Prefetcher

TABLE = [[[100, 600], [300, 900]], [[500, 700], [990, 995]]]
"""[share below or from 500][recently used: no, yes][asks: none, some]."""


def prefetcher():
    return Prefetcher({3: [950, 200, 600]}, Likelihoods(TABLE, ([500], [1], [1])))


def test_sure_experts_are_loaded_at_once_and_likely_ones_when_asked_for():
    found = prefetcher()
    assert found.sure(900, "likelihood") == [(3, 0, 1001 - 500)]
    # Expert 1 is asked for: 600 is below 650. Expert 2: 700.
    assert found.asked(3, [1, 2, 2], 650, "likelihood") == [(3, 2, 1001 - 700)]


def test_what_the_round_before_used_is_likelier():
    found = prefetcher()
    found.begin()
    found.used(3, [1])
    assert found.asked(3, [1], 650, "likelihood") == [], "it counts from the next round on"
    found.begin()
    assert found.asked(3, [1], 650, "likelihood") == [(3, 1, 1001 - 900)]
    found.begin()
    assert found.asked(3, [1], 650, "likelihood") == [], "and for one round"


@pytest.mark.parametrize(("order", "priorities"), [("program", [4, 4]), ("ready", [1, 2])])
def test_other_orders(order, priorities):
    assert [priority for _, _, priority in prefetcher().asked(3, [1, 2], 0, order)] == priorities


RULE = HotSetRule(window_tokens=100, most=8, every_rounds=1)


def test_the_hottest_newcomer_replaces_the_coldest_resident():
    """Shares .72, .08, .16, .04 of 100 tokens: 72, 8, 16 and 4; after a round of one token they have faded by 1 %."""
    hot = HotSet({3: [0, 1]}, {3: [900, 100, 200, 50]})
    assert hot.follow(3, [2, 3], 1, RULE) == {2: 1}, "16 is hotter than 8, 4 is not hotter than 72"
    assert hot.resident == {3: {0, 2}}
    assert hot.follow(3, [3] * 20, 20, RULE) == {3: 2}, "24 · e^−0.2 against 16 · e^−0.2"
    assert hot.resident == {3: {0, 3}}


def test_a_rule_says_how_many_change_and_how_often_and_whether_at_all():
    def updates(rule):
        hot = HotSet({3: [0, 1]}, {3: [400, 300, 200, 100]})
        found = []
        for _ in range(3):
            found.append(len(hot.follow(3, [2, 3] * 50, 50, rule)))
        return found

    assert updates(RULE) == [2, 0, 0]
    assert updates(replace(RULE, most=1)) == [1, 1, 0]
    assert updates(replace(RULE, every_rounds=2)) == [0, 2, 0]
    assert updates(HotSetRule()) == [0, 0, 0]


def test_a_rule_that_cannot_be_is_refused():
    for name in ("window_tokens", "most", "every_rounds"):
        with pytest.raises(ValueError, match=f"{name} is -1; valid: [01] or more"):
            replace(RULE, **{name: -1})
