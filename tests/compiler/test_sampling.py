"""Drawing tokens: the target's own distribution, whatever the draft drew from."""

import numpy as np
import pytest
import torch

from moe_compiler.runtime.sampling import Chooser, Sampling

TARGET = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
DRAFT = torch.tensor([0.0, 2.0, -2.0, 1.0, -1.0])
DRAWS = 20_000
"""Draws that the share of each token is counted over: its standard error is below 0.004."""


def counted(choose):
    found = np.zeros(len(TARGET))
    for number in range(DRAWS):
        found[choose(number)] += 1
    return found / DRAWS


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.5}, {"top_p": 0.8}, {"temperature": 2.0, "top_p": 0.9}])
def test_a_drafted_token_leaves_the_distribution_of_the_first_as_it_is(sampling):
    chooser = Chooser(Sampling(seed=1, **sampling), 0)

    def first(_):
        token = chooser.draft(DRAFT)
        return chooser.verify([token], torch.stack([TARGET, TARGET]))[0]

    expected = Sampling(**sampling).probabilities(TARGET).numpy()
    assert np.abs(counted(first) - expected).max() < 0.016
    drafted = Sampling(**sampling).probabilities(DRAFT).numpy()
    assert np.abs(drafted - expected).max() > 0.1, "so the draft's own would be noticed"


def test_what_follows_an_accepted_token_is_drawn_from_its_own_row():
    chooser, seen = Chooser(Sampling(seed=3), 0), np.zeros(len(TARGET))
    for _ in range(DRAWS):
        token = chooser.draft(TARGET)
        new = chooser.verify([token], torch.stack([TARGET, DRAFT]))
        assert len(new) == 2, "the draft is the target: all stands"
        seen[new[1]] += 1
    assert np.abs(seen / DRAWS - Sampling().probabilities(DRAFT).numpy()).max() < 0.016


def test_the_likeliest_tokens_that_have_so_much_together():
    """Shares .6, .25, .1, .05: the first two have less than .9 before the third, which reaches it."""
    logits = torch.log(torch.tensor([0.1, 0.6, 0.05, 0.25]))
    found = Sampling(top_p=0.9).probabilities(logits)
    assert found.tolist() == pytest.approx([0.1 / 0.95, 0.6 / 0.95, 0.0, 0.25 / 0.95])
    assert Sampling(top_p=0.1).probabilities(logits).tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_seed_gives_the_same_draws_and_sequences_their_own():
    def draws(seed, sequence):
        chooser = Chooser(Sampling(seed=seed), sequence)
        return [chooser.verify([], TARGET[None])[0] for _ in range(40)]

    assert draws(1, 0) == draws(1, 0)
    assert draws(1, 0) != draws(1, 1)
    assert draws(1, 0) != draws(2, 0)


def test_without_drawing_drafted_tokens_stand_while_they_are_the_likeliest():
    chooser = Chooser(None, 0)
    assert chooser.draft(DRAFT) == 1
    rows = torch.stack([DRAFT, TARGET, DRAFT])
    assert chooser.verify([1, 0], rows) == [1, 0, 1]
    assert chooser.verify([1, 3], rows) == [1, 0]
    assert chooser.verify([2, 0], rows) == [1]
