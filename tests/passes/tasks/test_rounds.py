"""Rounds taken out of a trace by hand, and the one that represents them."""

from dataclasses import replace

import numpy as np
from moe_passes.plan.decisions import FROZEN, HotSetRule
from moe_passes.routing.rounds import RoundRouting
from moe_passes.routing.traces import RoutingTrace
from moe_passes.tasks.rounds import external_bytes, follow_rounds, representative, take_rounds

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
    assert first.promoted == second.promoted == ((),), "the residents stay as they are"


def test_rounds_that_follow_each_other_begin_with_what_the_last_one_left():
    """Of 100 tokens that fade by 2 % a round, in training 38, 25, 25 and 12 chose the experts; 1 stays with 0.

    In the round of tokens (2, 3 | 6, 7), 2 and 3 are chosen once each, 1 twice: nothing is as hot as 1 that is not
    there. Where all of a round choose 2, it is; it takes the place of 1, and what the draft gets changes.
    """
    plan, _ = hand_made()
    plan = replace(plan, batch=2, hot_set=HotSetRule(100, 8, 1))
    verify = np.array([0, 0, 1, 1, 2, 2, 3, 0, 2, 2, 2, 2, 0, 0, 3, 3])[:, None, None]
    trace = RoutingTrace(verify, np.full_like(verify, 2), 4)
    counts = np.array([[3, 2, 2, 1]])
    tokens = np.array([[[2, 3], [6, 7]], [[8, 9], [10, 11]], [[12, 13], [14, 15]]])
    rounds = follow_rounds(trace, plan, counts, tokens, np.arange(3))
    before, later, last = (then.layers[0] for then, _ in rounds)
    assert [routing.promoted for _, routing in rounds] == [((),), (((2, 1),),), ((),)]
    assert before.residency.tolist() == later.residency.tolist() == [1, 1, 0, 0]
    assert last.residency.tolist() == [1, 0, 1, 0]
    assert last.replicas[2] == before.replicas[1]
    assert last.replicas[1] == ()
    assert [np.flatnonzero(routing.drafted[0, 0, 0]).tolist() for _, routing in rounds] == [[0], [0], [2]]
    (alone,) = follow_rounds(trace, plan, counts, tokens, np.array([2]))
    assert alone[0].layers[0].residency.tolist() == last.residency.tolist(), "rounds between are followed too"
    frozen = follow_rounds(trace, replace(plan, hot_set=FROZEN), counts, tokens, np.array([2]))
    assert frozen[0][0].layers[0].residency.tolist() == [1, 1, 0, 0]


def test_at_most_so_many_rounds_are_taken():
    plan, _ = hand_made()
    verify = np.arange(80)[:, None, None] % 4
    trace = RoutingTrace(verify, verify, 4)
    assert len(take_rounds(trace, plan, "train", 5)) == 5
    assert len(take_rounds(trace, plan, "held-out", 99)) == 10
