"""Rounds taken out of a trace by hand, and the one that represents them."""

from dataclasses import replace

import numpy as np
from moe_passes.routing.rounds import RoundRouting
from moe_passes.routing.traces import RoutingTrace
from moe_passes.tasks.rounds import external_bytes, representative, take_rounds

from tests.passes.tasks.test_tasks import MSB, RESIDUAL, hand_made

WHOLE = MSB + RESIDUAL


def needing(*experts):
    """A round of one layer whose tokens need these of four experts."""
    verify = np.zeros((1, len(experts), 4), dtype=bool)
    verify[0, range(len(experts)), experts] = True
    nothing = np.zeros((0, 1, 1, 4), dtype=bool)
    return RoundRouting(verify, nothing, nothing, np.zeros((1, 4), dtype=np.int64), ((),))


def test_external_bytes_by_hand():
    """Experts 0 and 1 are resident as slices; an expert is loaded once, however many tokens need it."""
    plan, _ = hand_made()
    assert external_bytes(plan, needing(0, 2)) == RESIDUAL + WHOLE
    assert external_bytes(plan, needing(2, 2, 2)) == WHOLE
    assert external_bytes(plan, needing(0, 1, 2, 3)) == 2 * RESIDUAL + 2 * WHOLE


def test_the_median_round_represents():
    plan, _ = hand_made()
    rounds = [needing(0, 1, 2, 3), needing(0), needing(2, 3), needing(0, 1), needing(2)]
    # 3584, 576, 2432, 1152 and 1216 bytes.
    assert representative(rounds, plan) is rounds[4]
    assert representative(rounds[:4], plan) is rounds[3], "of two in the middle, the smaller one"
    assert representative(rounds[:1], plan) is rounds[0]


def test_a_round_is_read_off_the_trace():
    """Eight tokens train, two sequences of γ + 1 = 2: rounds of tokens (0, 1 | 4, 5) and (2, 3 | 6, 7).

    Top-1 of four experts. Tokens choose 0 0 1 1 2 2 3 0, and three times 0 that is not trained on; the draft chooses
    3 everywhere. Counts 3, 2, 2, 1: residents 0 and 1, and where a draft token asks for 3, it gets 0.
    """
    plan, _ = hand_made()
    plan = replace(plan, batch=2)
    verify = np.array([0, 0, 1, 1, 2, 2, 3, 0, 0, 0, 0])[:, None, None]
    trace = RoutingTrace(verify, np.full_like(verify, 3), 4)
    assert trace.tokens * 3 // 4 == 8
    first, second = take_rounds(trace, plan, "train", 9)
    assert np.argwhere(first.verify[0]).tolist() == [[0, 0], [1, 0], [2, 2], [3, 2]]
    assert np.argwhere(second.verify[0]).tolist() == [[0, 1], [1, 1], [2, 3], [3, 0]]
    assert first.asked.shape == (1, 1, 2, 4)
    assert np.flatnonzero(first.asked[0, 0, 1]).tolist() == [3]
    assert np.flatnonzero(first.drafted[0, 0, 1]).tolist() == [0]
    # Two tokens before each: none and 2, 3 (which chose 1); then 0, 1 (which chose 0) and 4, 5 (which chose 2).
    assert first.recent.tolist() == [[0, 2, 0, 0]]
    assert second.recent.tolist() == [[2, 0, 2, 0]]
    # Hotness 3, 2, 2, 1 and two asks for 3, which makes it 3: only hotter than 1. 2 is needed, but not hotter.
    assert first.promoted == ((),)
    assert second.promoted == (((3, 1),),)


def test_at_most_so_many_rounds_are_taken():
    plan, _ = hand_made()
    verify = np.arange(80)[:, None, None] % 4
    trace = RoutingTrace(verify, verify, 4)
    assert len(take_rounds(trace, plan, "train", 5)) == 5
    assert len(take_rounds(trace, plan, "held-out", 99)) == 10
