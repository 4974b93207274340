"""Formats, staging sizes, lengths and residents are all weighed; acceptance, break-even and bound by hand."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from moe_passes.solve.draft.acceptance import CURVES, at_length, curve
from moe_passes.solve.draft.bound import lower_bound
from moe_passes.solve.draft.check import seconds_per_token, violations
from moe_passes.solve.draft.problem import Choice, Problem, Rates, Slice
from moe_passes.solve.draft.solve import fill_evenly, fill_exactly, solve

from tests.passes.solve.draft.test_solve import random_problem


def every_choice(problem, fill):
    """Every format, staging size and length, with the residents that a rule keeps."""
    for form, staging, length in product(problem.slices, problem.staging_choices, problem.allowed):
        room = (problem.capacity_bytes - staging) // form.resident_bytes
        yield Choice(form, staging, length, fill(problem, room))


def seconds(problem, choice):
    return seconds_per_token(problem, choice, problem.acceptance_rate(choice.length, choice.share))


@pytest.mark.parametrize(
    ("seed", "capacity", "bits", "staging", "length"),
    [
        (50, 700, 4, 200, 2),
        (3, 900, 8, 100, 0),
        (62, 700, 8, 100, 2),
        (26, 700, 8, 100, 1),
        (4, 350, 4, 100, 1),
        (92, 350, 4, 100, 0),
    ],
)
def test_the_answer_is_the_best_of_all_formats_sizes_and_lengths(seed, capacity, bits, staging, length):
    problem = random_problem(seed, capacity)
    solution = solve(problem)
    assert violations(problem, solution) == []
    choice = solution.choice
    assert (choice.slice.bits, choice.staging_bytes, choice.length) == (bits, staging, length)
    scores = {
        (other.slice.bits, other.staging_bytes, other.length): seconds(problem, other)
        for other in every_choice(problem, fill_exactly)
    }
    best = scores.pop((bits, staging, length))
    assert solution.seconds_per_token == pytest.approx(best)
    assert best < min(scores.values()), "nothing else is as good"
    assert solution.acceptance_rate == pytest.approx(0.9 * choice.share)


def test_the_most_popular_experts_of_all_layers_are_kept_and_beat_equally_many_of_each():
    """Layer 0 always uses the experts 0 and 1, layer 1 uses all of its own in turn."""
    problem = random_problem(0)
    popularity = np.array([[9, 8, 7, 1], [2, 1, 3, 0]])
    used = np.zeros_like(problem.used)
    used[:, :, 0, :2] = True
    for position in range(3):
        used[:, position, 1, [position % 4, (position + 1) % 4]] = True
    problem = replace(
        problem,
        popularity=popularity,
        used=used,
        asked=used,
        slices=problem.slices[1:],
        capacity_bytes=400,
        allowed=(0,),
    )
    assert fill_exactly(problem, 3).tolist() == [[True, True, True, False], [False] * 4]
    assert fill_evenly(problem, 3).tolist() == [[True, False, False, False], [False, False, True, False]]
    solution = solve(problem)
    assert solution.choice.resident.tolist() == fill_exactly(problem, 3).tolist()
    greedy = min(
        seconds(problem, c)
        for c in every_choice(problem, fill_evenly)
        if c.staging_bytes == min(problem.staging_choices)
    )
    assert solution.greedy == pytest.approx(greedy)
    assert solution.seconds_per_token < solution.greedy


def test_acceptance_is_read_off_the_curve_of_its_length():
    problem = replace(
        random_problem(0), acceptance=(((0.0, 1.0), (0.0, 0.0)), ((0.0, 1.0), (0.0, 0.8)), ((0.0, 0.5), (0.1, 0.3)))
    )
    assert problem.acceptance_rate(1, 0.25) == pytest.approx(0.2)
    assert problem.acceptance_rate(2, 0.25) == pytest.approx(0.2)
    assert problem.acceptance_rate(2, 0.9) == pytest.approx(0.3)
    assert problem.acceptance_rate(1, 1.0) == pytest.approx(0.8)


def test_acceptance_at_another_length_by_hand():
    """A token is accepted with ½: of six drafted, ½ + ¼ + … + 1/64 = 63/64 are; of two, ¾; of one, ½."""
    at_six = 63 / 64 / 6
    assert at_length(at_six, 6) == pytest.approx(at_six)
    assert at_length(at_six, 2) == pytest.approx(0.375)
    assert at_length(at_six, 1) == pytest.approx(0.5)
    assert at_length(at_six, 0) == 0.0
    assert at_length(1.0, 9) == pytest.approx(1.0)


def test_a_model_has_its_own_curve_and_another_the_mean_of_all():
    """At full share the four curves end at 0.95, 0.83, 0.84 and 0.50; half way gpt-oss has 0.44 + 0.06 · 24 / 39."""
    shares, rates = curve("gpt-oss-20b")
    assert (shares, rates) == ((0.0, 0.260, 0.650, 1.0), (0.0, 0.44, 0.50, 0.50))
    assert np.interp(0.5, shares, rates) == pytest.approx(0.44 + 0.06 * 24 / 39)
    shares, rates = curve("of no paper")
    assert (shares[0], rates[0], shares[-1]) == (0.0, 0.0, 1.0)
    assert rates[-1] == pytest.approx((0.95 + 0.83 + 0.84 + 0.50) / 4)
    assert list(rates) == sorted(rates)
    assert {curve(model)[1][-1] for model in CURVES} == {0.95, 0.83, 0.84, 0.50}


@pytest.mark.parametrize("seed", [0, 1, 50, 3])
def test_at_break_even_drafting_costs_what_plain_decoding_costs(seed):
    problem = random_problem(seed, (350, 500, 700, 900)[seed % 4])
    solution = solve(problem)
    choice = solution.choice
    assert solution.break_even_acceptance > 0
    plain = seconds_per_token(problem, replace(choice, length=0), 0.0)
    drafted = [
        seconds_per_token(problem, replace(choice, length=n), solution.break_even_acceptance)
        for n in ([choice.length] if choice.length else (1, 2))
    ]
    assert min(drafted) == pytest.approx(plain), "where nothing is drafted, of the length for which it is least"


def by_hand(length=0):
    """Two experts in one layer, top-1, one sequence; each is used in one round of two; one fits as a slice of 50 B."""
    used = np.zeros((2, 2, 1, 2), dtype=bool)
    used[0, :, 0, 0] = used[1, :, 0, 1] = True
    return Problem(
        batch=1,
        top_k=1,
        capacity_bytes=160,
        slices=(Slice(4, 50, 50),),
        staging_choices=(100,),
        lengths=(0, 1),
        allowed=(length,),
        whole_bytes=100,
        popularity=np.array([[2, 1]]),
        used=used,
        asked=used,
        token_asked=used[:, :1],
        acceptance=(((0.0, 1.0), (0.0, 0.0)), ((0.0, 1.0), (0.0, 0.8))),
        rates=Rates(1.0, (2.0, 2.5), 0.001, 0.05, 0.25, 0.125),
    )


def test_bound_by_hand():
    """Each round needs one expert of 100 B, and half of the rounds find 50 B of it resident: 75 B a round, 3.75 s.

    Locally, verify takes 2.0 s and 0.1 s of reading. With γ = 1: a draft of 1.0 s, verify 2.5 s, 0.1 s: 3.6 s, so
    loading still decides; half of the experts are resident, α = 0.4, and a round is 1.4 tokens.
    """
    assert lower_bound(by_hand()) == pytest.approx(3.75)
    assert lower_bound(by_hand(1)) == pytest.approx(3.75 / 1.4)
    local = replace(by_hand(1), rates=replace(by_hand().rates, external_seconds_per_byte=0.01))
    assert lower_bound(local) == pytest.approx(3.6 / 1.4)
    assert lower_bound(replace(by_hand(), allowed=(0, 1))) == pytest.approx(3.75 / 1.4), "the least of both"


def test_rounds_by_hand():
    """Plain: the round that finds a slice loads 50 B in 2.5 + 0.25 s, the other 100 B in 5.25 s.

    Nothing is asked for ahead, so they wait for verify, which takes 2.0 + 0.1 + 0.125 s: 4.975 and 7.475 s.
    With γ = 1, the draft takes 1.0 s, 50 B · 0.001 and one gather: 1.175 s. All is asked for; it hides 1.175 s of the
    loads: max(2.5 + 0.1 + 0.25, load − 1.175) = 2.85 and 4.075 s, to which the draft adds 1.175 s.
    """
    plain = solve(by_hand())
    assert plain.choice.resident.tolist() == [[True, False]]
    assert plain.seconds_per_token == pytest.approx((4.975 + 7.475) / 2)
    drafted = solve(by_hand(1))
    assert drafted.seconds_per_token == pytest.approx(((2.85 + 4.075) / 2 + 1.175) / 1.4)
    assert drafted.break_even_acceptance == pytest.approx(max(0.0, (4.6375 / 6.225 - 1)))
    assert violations(by_hand(1), drafted) == []
