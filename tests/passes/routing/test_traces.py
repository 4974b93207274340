"""Traces: the restricted choice, rounds, splits and popularity by hand; what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.errors import InputError
from moe_passes.routing.traces import (
    RoutingTrace,
    by_popularity,
    cut_rounds,
    evenly,
    membership,
    popularity,
    relabelled,
    restrict,
    split_of,
    validate,
)


def mask(*experts, count=6):
    return np.isin(np.arange(count), experts)


def chosen(asked, resident, order, top_k):
    return np.flatnonzero(restrict(mask(*asked), mask(*resident), np.array(order), top_k)).tolist()


BY_NUMBER, BACKWARDS = range(6), range(5, -1, -1)


def test_what_is_asked_for_and_resident_is_kept_and_the_most_popular_residents_fill_the_rest():
    assert chosen([1, 4], [0, 1, 2, 3], BY_NUMBER, 2) == [0, 1], (
        "4 is not resident: 0, the most popular, takes its place"
    )
    assert chosen([1, 4], [0, 1, 2, 3], BACKWARDS, 2) == [1, 3]
    assert chosen([4, 5], [0, 1, 2, 3], BACKWARDS, 2) == [2, 3]
    assert chosen([0, 3], [0, 1, 2, 3], BACKWARDS, 2) == [0, 3], "all that was asked for is there"


def test_with_fewer_residents_than_places_all_of_them_are_chosen():
    assert chosen([4, 5, 1], [0, 1], BY_NUMBER, 3) == [0, 1]
    assert chosen([4, 5, 1], [], BY_NUMBER, 3) == []


@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([(6,), (3, 1, 6), (3, 2, 6)]))
@settings(max_examples=200, deadline=None)
def test_the_restricted_choice_is_the_top_k_of_residents_when_those_asked_for_rank_first(seed, top_k, shape):
    """Of one set of residents, or of one for each round."""
    random = np.random.default_rng(seed)
    asked = random.random((3, 2, 6)).argsort(axis=2) < top_k
    resident, order = random.random(shape) < 0.5, random.permutation(6)
    found = restrict(asked, resident, order, top_k)
    rank = np.argsort(order)
    for which in np.ndindex(3, 2):
        there = np.broadcast_to(resident, asked.shape)[which]
        ranked = sorted(np.flatnonzero(there), key=lambda e, row=asked[which]: (not row[e], rank[e]))
        assert np.flatnonzero(found[which]).tolist() == sorted(int(e) for e in ranked[:top_k])


def test_popularity_counts_training_tokens_of_each_layer():
    """Three of four tokens train."""
    experts = np.array([[[0, 1], [2, 3]], [[0, 2], [2, 1]], [[0, 1], [3, 2]], [[3, 2], [0, 1]]])
    counts = popularity(RoutingTrace(experts, experts, 4))
    assert counts.tolist() == [[3, 2, 1, 0], [0, 1, 3, 2]]
    assert by_popularity(counts).tolist() == [[0, 1, 2, 3], [2, 3, 1, 0]]
    assert by_popularity(np.array([[5, 7, 7, 5]])).tolist() == [[1, 2, 0, 3]], "of equals the first comes first"


def test_membership_marks_what_is_chosen():
    assert membership(np.array([[2, 0], [1, 2]]), 3).tolist() == [[True, False, True], [False, True, True]]


def test_sequences_of_a_round_come_from_different_parts_of_the_split():
    """24 tokens: 18 train, 6 runs of 3 tokens; batch 2: 3 rounds, of runs 0 and 3, 1 and 4, 2 and 5."""
    assert split_of(24, "train") == (0, 18)
    assert split_of(24, "held-out") == (18, 6)
    rounds = cut_rounds(24, 2, 3, "train", 99).tokens
    assert rounds.tolist() == [
        [[0, 1, 2], [9, 10, 11]],
        [[3, 4, 5], [12, 13, 14]],
        [[6, 7, 8], [15, 16, 17]],
    ]
    assert cut_rounds(24, 2, 3, "held-out", 99).tokens.tolist() == [[[18, 19, 20], [21, 22, 23]]]
    assert cut_rounds(24, 2, 3, "train", 2).tokens[:, 0, 0].tolist() == [0, 6], "evenly spread, the ends among them"
    assert len(cut_rounds(24, 2, 3, "train", 1)) == 1


def test_a_split_that_is_too_short_for_a_round_says_how_long_a_trace_is_needed():
    with pytest.raises(InputError, match=r"too few for one held-out round.*at least 24 tokens"):
        cut_rounds(20, 2, 3, "held-out", 9)
    assert len(cut_rounds(24, 2, 3, "held-out", 9)) == 1


@pytest.mark.parametrize(
    ("experts", "says"),
    [
        (np.zeros((4, 2, 2)), "must be integers"),
        (np.zeros((4, 2), dtype=int), r"valid: \[token, layer, k\]"),
        (np.zeros((0, 2, 2), dtype=int), "no tokens"),
        (np.zeros((4, 3, 2), dtype=int), "of another model"),
        (np.tile([0, 4], (4, 2, 1)), r"expert id 4 at \[token 0, layer 0, k 1\]"),
        (np.tile([-1, 0], (4, 2, 1)), "expert id -1"),
        (np.array([[[0, 1], [0, 1]], [[0, 1], [3, 3]]]), "token 1 chooses one expert twice in layer 1"),
    ],
)
def test_traces_of_another_shape_are_refused(experts, says):
    with pytest.raises(InputError, match=says):
        validate(experts, "p", 2, 2, 4)


def test_a_trace_of_the_right_shape_is_taken():
    experts = np.tile(np.array([3, 0], dtype=np.uint8), (4, 2, 1))
    assert validate(experts, "p", 2, 2, 4).dtype == np.int64


def test_the_digest_tells_content_and_shape_apart():
    one = np.arange(8).reshape(4, 2, 1)
    digests = {
        RoutingTrace(one, one, 8).sha256(),
        RoutingTrace(one, one[::-1], 8).sha256(),
        RoutingTrace(one.reshape(2, 4, 1), one, 8).sha256(),
        RoutingTrace(one.astype(np.int64), one.copy(), 8).sha256(),
    }
    assert len(digests) == 3


def test_experts_get_the_ids_of_those_that_are_as_popular_by_hand():
    """Of four tokens that train three chose 2 and one chose 0; by the other counts 1 leads, then 0, then 2."""
    chosen = np.array([2, 2, 0, 2, 1])[:, None, None]
    made = relabelled(RoutingTrace(chosen, chosen[::-1], 3), np.array([[5, 9, 1]]))
    assert made.experts.ravel().tolist() == [1, 1, 0, 1, 2]
    assert made.draft_experts.ravel().tolist() == [2, 1, 0, 1, 1]


def test_so_many_numbers_are_evenly_spread():
    assert evenly(9, 3).tolist() == [0, 4, 8]
    assert evenly(2, 5).tolist() == [0, 1]
    assert evenly(7, 0).tolist() == [0], "one where there are any"
    assert evenly(0, 3).tolist() == []
