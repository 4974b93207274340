"""Likelihoods: classes by what is known of an expert, and counts in training rounds by hand."""

import numpy as np
import pytest
from moe_passes.routing.likelihood import (
    ASK_BORDERS,
    PRIOR,
    RECENT_BORDERS,
    SHARE_BORDERS,
    likelihoods,
    look_up,
    share_needed,
    table,
)
from moe_passes.routing.rounds import RoundRouting

SHAPE = (len(SHARE_BORDERS) + 1, len(RECENT_BORDERS) + 1, len(ASK_BORDERS) + 1)
NUMBERED = table(np.arange(np.prod(SHAPE)))
"""Every class has another value: its number."""


def cell(share, recent, asks):
    """Return the class [share, recent, asks] that one expert falls into."""
    (number,) = look_up(NUMBERED, np.array([share]), np.array([recent]), np.array([asks]))
    return tuple(int(n) for n in np.unravel_index(int(number), SHAPE))


def test_a_class_begins_at_its_border():
    assert cell(0, 0, 0) == (0, 0, 0)
    assert cell(49, 0, 0) == (0, 0, 0)
    assert cell(50, 0, 0) == (1, 0, 0)
    assert cell(1000, 8, 17) == (10, 4, 6)


@pytest.mark.parametrize(("quantity", "borders"), [(0, SHARE_BORDERS), (1, RECENT_BORDERS), (2, ASK_BORDERS)])
def test_each_quantity_counts_on_its_own(quantity, borders):
    for number, border in enumerate(borders):
        for value, expected in ((border - 1, number), (border, number + 1)):
            known = [0, 0, 0]
            known[quantity] = value
            found = cell(*known)
            assert found[quantity] == expected
            assert sum(found) == expected, "the other two stay in their first class"


def routing(verify, asked, recent):
    """One layer, one token: what verify needs, what each draft step asks for, tokens of the last round by expert."""
    mask = np.array([[np.isin(np.arange(len(recent)), verify)]])
    asks = np.array([[[np.isin(np.arange(len(recent)), step)]] for step in asked])
    return RoundRouting(mask, asks, asks, np.array([recent]), ((),))


def test_shares_are_rounds_of_a_thousand():
    rounds = [routing([0, 1], [[0]], [0, 0, 0]), routing([0], [[0]], [0, 0, 0]), routing([0], [[0]], [0, 0, 0])]
    assert share_needed(rounds).tolist() == [[1000, 333, 0]]


def test_experts_of_the_last_round_are_told_apart_from_others():
    """Two experts with one share, asked for by nobody; the one with a token in the last round is needed, always.

    Each round gives two cases an expert, before and after its draft step. In all: 4 of 8 cases, (4 + ½) / (8 + 1) = ½.
    """
    rounds = [routing([0], [[2]], [1, 0, 0]), routing([1], [[2]], [0, 1, 0])]
    shares = share_needed(rounds)
    assert shares.tolist() == [[500, 500, 0]]
    counted = likelihoods(rounds, shares)
    # Expert 2, without asks, adds 2 cases in which it was not needed: 4 of 10, (4 + ½) / (10 + 1).
    overall = 4.5 / 11
    recent, other = look_up(counted, np.array([500, 500]), np.array([1, 0]), np.array([0, 0]))
    assert recent == round(1000 * (4 + PRIOR * overall) / (4 + PRIOR))
    assert other == round(1000 * (0 + PRIOR * overall) / (4 + PRIOR))


def test_asks_count_from_the_step_in_which_they_were_made():
    """Expert 0 is asked for in both steps and needed: a case each without an ask, with one, and with two."""
    rounds = [routing([0], [[0], [0]], [0, 0])]
    counted = likelihoods(rounds, share_needed(rounds))
    one, two = look_up(counted, np.array([1000, 1000]), np.array([0, 0]), np.array([1, 2]))
    # With an ask (or two), 1 of 1 cases: (1 + ½) / (1 + 1) = ¾ overall; (1 + 4 · ¾) / 5.
    assert one == two == 800
    none = look_up(counted, np.array([1000]), np.array([0]), np.array([0]))
    # Without: 1 of 4 cases (expert 1 three times): (1 + ½) / 5 overall; (1 + 4 · 0.3) / 5.
    assert none.tolist() == [440]


def test_a_class_that_was_never_seen_is_as_likely_as_all_with_as_many_asks():
    rounds = [routing([0], [[0], [0]], [0, 0])]
    counted = likelihoods(rounds, share_needed(rounds))
    assert look_up(counted, np.array([500]), np.array([4]), np.array([1])).tolist() == [750]
    assert look_up(counted, np.array([500]), np.array([4]), np.array([9])).tolist() == [500], "no case at all: even"
