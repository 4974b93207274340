"""Held-out rounds follow each other, and what is said of them are means over them."""

from dataclasses import replace

import numpy as np
import pytest
from moe_passes.plan.decisions import FROZEN, HotSetRule
from moe_passes.routing.traces import RoutingTrace

from moe_compiler.evaluate import held_out
from moe_compiler.evaluate.held_out import evaluate, mean_seconds
from tests.passes.tasks.test_tasks import MSB, RESIDUAL, hand_made
from tests.plans import cost

SLOW = cost("memories.external.bandwidth_gb_s=1e-3", "memories.external.latency_ns=0", "memories.external.efficiency=1")
"""Loading takes 1 µs a byte, and everything else nothing beside it."""


@pytest.fixture(autouse=True)
def _eight_rounds(monkeypatch):
    monkeypatch.setattr(held_out, "ROUNDS", 8)


def plain(rule, *last):
    """Plain decoding, with experts 0 and 1 resident as slices; in training all tokens chose 0 or 1."""
    plan, _ = hand_made()
    tokens = [0, 1] * (3 * len(last) // 2) + list(last)
    chosen = np.array(tokens)[:, None, None]
    assert len(tokens) == 4 * len(last)
    return replace(plan, length=0, hot_set=rule), RoutingTrace(chosen, chosen, 4)


def test_a_set_that_follows_finds_what_the_last_round_left():
    """Eight rounds of one token that all need expert 2: it is loaded whole; where it takes a place, once only."""
    frozen = evaluate(SLOW, *plain(FROZEN, *[2] * 8), seed=0)
    assert frozen.mean_seconds == pytest.approx((MSB + RESIDUAL) * 1e-6, rel=0.03)
    assert frozen.swaps == 0
    follows = evaluate(SLOW, *plain(HotSetRule(1, 1, 1), *[2] * 8), seed=0)
    assert follows.seconds[0] == pytest.approx((MSB + RESIDUAL) * 1e-6, rel=0.03)
    assert follows.seconds[1:] == pytest.approx([RESIDUAL * 1e-6] * 7, rel=0.03)
    assert follows.swaps == pytest.approx(1 / 8)


def test_means_and_their_confidence():
    """Rounds that need 0 load its rest, rounds that need 2 all of it."""
    found = evaluate(SLOW, *plain(FROZEN, 0, 0, 2, 2, 0, 2, 0, 2), seed=0)
    assert len(found.seconds) == len(found.executed) == len(found.solvers) == 8
    assert found.mean_seconds == pytest.approx((RESIDUAL + MSB / 2) * 1e-6, rel=0.03)
    low, high = found.confidence()
    assert min(found.seconds) < low < found.mean_seconds < high < max(found.seconds)
    assert all(r.lower_bound <= s for r, s in zip(found.solvers, found.seconds, strict=True))
    same = evaluate(SLOW, *plain(FROZEN, *[0] * 8), seed=0)
    assert same.confidence() == pytest.approx((same.mean_seconds, same.mean_seconds))


def test_dispatching_alone_gives_the_same_mean():
    plan, trace = plain(HotSetRule(2, 1, 1), 0, 2, 2, 3, 3, 3, 0, 2)
    assert mean_seconds(SLOW, plan, trace) == pytest.approx(evaluate(SLOW, plan, trace, seed=0).mean_seconds)
