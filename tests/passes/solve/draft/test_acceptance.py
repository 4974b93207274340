"""How many drafted tokens are accepted, by hand."""

from dataclasses import replace

import pytest
from moe_passes.plan.acceptance import Acceptance, Curve, Draft, expected_accepted
from moe_passes.plan.request import MeasuredAcceptance
from moe_passes.solve.draft.acceptance import FOUR_BIT_COPY, PUBLISHED, curve, models_of

BOTH = Draft(is_dense_sliced=True, are_experts_sliced=True, share=0.5, coverage=1.0)
NEITHER = replace(BOTH, is_dense_sliced=False, are_experts_sliced=False)


def test_tokens_that_are_accepted_by_hand():
    """a + b = 3: with a mean of ⅓, p is uniformly spread with density 2 (1 − p): E[p^i] = 2 / ((i + 1)(i + 2)).

    ⅓, ⅙ and ⅒: of three drafted tokens 0.6 are accepted, of two 0.5, of one ⅓.
    """
    assert expected_accepted(0.2, 3, 3) == pytest.approx(0.6)
    assert expected_accepted(0.2, 3, 2) == pytest.approx(0.5)
    assert expected_accepted(0.2, 3, 1) == pytest.approx(1 / 3)
    assert expected_accepted(0.2, 3, 0) == 0.0
    assert expected_accepted(1.0, 6, 4) == pytest.approx(4.0)
    assert expected_accepted(0.0, 6, 4) == pytest.approx(0.0)


def test_beyond_what_is_known_one_probability_decides_by_hand():
    """Of one token ½: the second follows with ½ again, not with the ⅝ of rounds that go well."""
    assert expected_accepted(0.5, 1, 2) == pytest.approx(0.5 + 0.25)
    assert expected_accepted(0.5, 1, 4) == pytest.approx(0.5 + 0.25 + 0.125 + 0.0625)


def test_short_drafts_gain_less_than_one_probability_for_all_rounds_says():
    """α = 63/64/6 of six tokens is what p = ½ gives: one token would be accepted with ½."""
    assert 0.3 < expected_accepted(63 / 64 / 6, 6, 1) < 0.49


def test_a_curve_is_made_of_points_at_their_coverage_and_never_falls():
    """gpt-oss: α 0.44 and 0.50 at two shares, and of the 4-bit copy 0.50."""
    assert [point.rate for point in PUBLISHED["gpt-oss-20b"]] == [0.44, 0.50]
    assert curve("gpt-oss-20b", (0.4, 0.8)) == Curve((0.0, 0.4, 0.8, 1.0), (0.0, 0.44, 0.50, 0.50))
    assert curve("gpt-oss-20b", (0.8, 0.4)).rates == (0.0, 0.50, 0.50, 0.50)
    assert curve("gpt-oss-20b", (0.4, 0.8)).rate(0.2) == pytest.approx(0.22)


def test_published_points_are_of_batches_16_to_1_of_both_sizes():
    assert [point.batch for point in PUBLISHED["qwen3-30b-a3b"]] == [16, 8, 4, 1] * 2
    assert all(points[3].rate > points[0].rate for points in PUBLISHED.values() if len(points) > 2)
    assert all(FOUR_BIT_COPY[model] >= max(p.rate for p in points) for model, points in PUBLISHED.items())


def test_a_model_has_its_own_curve_and_another_all():
    assert models_of("gpt-oss-20b") == ("gpt-oss-20b",)
    assert models_of("of no paper") == tuple(PUBLISHED)
    two = Acceptance((Curve((0.0, 1.0), (0.0, 0.4)), Curve((0.0, 1.0), (0.0, 0.8))), 1, 0.5, "")
    assert two.accepted(1, BOTH) == pytest.approx(0.6)
    assert two.accepted(1, replace(BOTH, coverage=0.5)) == pytest.approx(0.3)


def test_what_is_not_sliced_wins_back_half_of_its_share_of_what_slicing_costs():
    """A 4-bit copy loses 0.2; of the active weights a quarter is dense: 0.025 and 0.075 of it come back, or 0.1."""
    made = Acceptance((Curve((0.0, 1.0), (0.0, 0.8)),), 1, 0.25, "")
    assert made.accepted(1, BOTH) == pytest.approx(0.8)
    assert made.accepted(1, replace(BOTH, is_dense_sliced=False)) == pytest.approx(0.825)
    assert made.accepted(1, replace(BOTH, are_experts_sliced=False)) == pytest.approx(0.875)
    assert made.accepted(1, NEITHER) == pytest.approx(0.9)
    assert made.accepted(1, replace(NEITHER, coverage=0.5)) == pytest.approx(0.45), (
        "what is not covered is lost all the same"
    )


def measured(expert_bits, dense_bits, share, *survival_ppm, rate=0.0):
    return MeasuredAcceptance(expert_bits, dense_bits, share, rate, len(survival_ppm) or 1, survival_ppm, "measured")


def test_what_was_measured_counts_whatever_is_covered():
    """Of the rounds, 0.8 accept one token, 0.5 two."""
    made = Acceptance((), 0, 0.5, "measured", (measured(0, 0, 0.0, 800_000, 500_000),))
    assert made.longest == 2
    assert [made.accepted(n, replace(BOTH, coverage=0.0)) for n in (0, 1, 2)] == pytest.approx([0, 0.8, 1.3])
    given = Acceptance((), 0, 0.5, "given", (measured(0, 0, 0.0, rate=0.5),))
    assert given.longest is None
    assert given.accepted(2, BOTH) == pytest.approx(0.75)


def test_between_drafts_that_were_measured_the_share_of_experts_decides():
    """Those that slice the same count; without any expert nothing is accepted; one draft alone says it for all."""
    drafts = (measured(4, 4, 0.9, 100_000), measured(4, 8, 0.4, 200_000), measured(4, 8, 0.8, 300_000))
    made = Acceptance((), 0, 0.5, "measured", drafts)
    assert made.accepted(1, replace(BOTH, share=0.1)) == pytest.approx(0.1)
    partly = replace(BOTH, is_dense_sliced=False)
    found = [made.accepted(1, replace(partly, share=share)) for share in (0.2, 0.4, 0.5, 0.8, 1.0)]
    assert found == pytest.approx([0.1, 0.2, 0.225, 0.3, 0.3])
    assert made.most_accepted(1, replace(BOTH, share=0.1)) == pytest.approx(0.3)


def test_of_drafts_that_differ_as_much_the_one_that_promises_less_counts():
    """`moec profile` slices all or nothing; a draft that slices experts alone is taken for one that slices all."""
    sliced = (measured(4, 4, 0.25, 200_000), measured(4, 4, 0.5, 550_000))
    whole = (measured(8, 8, 0.25, 200_000), measured(8, 8, 0.5, 990_000))
    made = Acceptance((), 0, 0.5, "measured", (*sliced, *whole))
    for mixed in (replace(BOTH, is_dense_sliced=False), replace(BOTH, are_experts_sliced=False)):
        assert made.accepted(1, replace(mixed, share=0.5)) == pytest.approx(0.55)
    assert made.accepted(1, replace(NEITHER, share=0.5)) == pytest.approx(0.99)
