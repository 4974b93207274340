import numpy as np
import pytest
from moe_passes.routing.statistics import lru_hits, next_layer, statistics
from moe_passes.routing.traces import membership


def by_hand():
    """Four tokens, one layer, top-2 of 4: {0, 1}, {1, 2}, {1, 2}, {3, 0}."""
    return np.array([[[0, 1]], [[1, 2]], [[1, 2]], [[3, 0]]])


def test_figures_of_four_tokens_by_hand():
    found = statistics(by_hand(), 4)
    # Of six experts after the first token, 1 and then 1 and 2 were there just before.
    assert found.next_token == pytest.approx(3 / 6)
    # Pairs have 3, 2 and 4 distinct experts, the four tokens together 4; in units of 2.
    assert found.distinct == {2: pytest.approx(3 / 2), 4: pytest.approx(4 / 2)}
    # Expert 1 is chosen 3 times of 8, and is a quarter of the experts.
    assert found.popularity == pytest.approx(3 / 8)


@pytest.mark.parametrize(("slots", "hits"), [(1, 2), (2, 3), (3, 4), (4, 4)])
def test_lru_by_hand(slots, hits):
    """With three slots 0 is still there at the end; with one, a token leaves its last expert: 1 and then 2 are hit."""
    assert lru_hits(by_hand(), slots) == pytest.approx(hits / 8)


def test_recent_experts_are_those_of_the_eight_tokens_before():
    chosen = np.arange(20)[:, None, None] % 9
    assert statistics(chosen, 9).recent == 0.0, "each comes back after nine tokens"
    assert statistics(np.arange(20)[:, None, None] % 8, 9).recent == 1.0


def test_a_layer_that_follows_from_the_one_before_is_foretold():
    random = np.random.default_rng(0)
    here = random.integers(0, 8, 400)
    chosen = np.stack([here, (here + 3) % 8], axis=1)[:, :, None]
    learnt, known = next_layer(membership(chosen, 8), 1)
    assert learnt == 1.0
    assert known < 0.3
    alone = np.stack([here, random.integers(0, 8, 400)], axis=1)[:, :, None]
    assert next_layer(membership(alone, 8), 1)[0] < 0.3


def test_uniform_routing_has_the_figures_of_the_formula():
    """N(w) = E·(1 − (1 − k/E)^w) distinct experts (MoESD, arXiv 2505.19645); k/E of them again at the next token."""
    random = np.random.default_rng(0)
    chosen = random.random((2000, 2, 32)).argsort(axis=2)[:, :, :4]
    found = statistics(chosen, 32)
    assert found.next_token == pytest.approx(4 / 32, rel=0.05)
    for window, value in found.distinct.items():
        assert value == pytest.approx(32 * (1 - (1 - 4 / 32) ** window) / 4, rel=0.02)
    assert found.cached[0.25] == pytest.approx(0.25, rel=0.1)
    assert found.next_layer == pytest.approx(4 / 32, rel=0.2)
