"""select-draft on small instances: brute force over every resident set, bound, and a checker that can refuse."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.errors import InputError
from moe_passes.solve.draft.bound import lower_bound
from moe_passes.solve.draft.check import seconds_per_token, violations
from moe_passes.solve.draft.problem import Choice, Problem, Rates, Slice
from moe_passes.solve.draft.solve import solve

LAYERS, EXPERTS, TOP_K = 2, 4, 2


def random_problem(seed: int, capacity: int = 500, batch: int = 2, lengths=(0, 1, 2)) -> Problem:
    random = np.random.default_rng(seed)

    def routed(*shape):
        return random.random((*shape, LAYERS, EXPERTS)).argsort(axis=-1) < TOP_K

    rounds = 3
    used = routed(rounds, max(lengths) + 1)
    return Problem(
        batch=batch,
        top_k=TOP_K,
        capacity_bytes=capacity,
        slices=(Slice(4, 50, 50), Slice(8, 100, 0)),
        staging_choices=(100, 200),
        lengths=tuple(lengths),
        allowed=tuple(lengths),
        whole_bytes=100,
        popularity=used.sum(axis=(0, 1)).astype(np.int64),
        used=used,
        asked=routed(rounds, max(lengths) + 1),
        token_asked=random.random((2, batch, LAYERS, EXPERTS)).argsort(axis=-1) < TOP_K,
        acceptance=tuple(((0.0, 1.0), (0.0, 0.9)) for _ in lengths),
        rates=Rates(1.0, tuple(1.0 + 0.1 * n for n in lengths), 0.001, float(random.uniform(0.002, 0.1)), 0.01, 0.02),
    )


def every_choice(problem: Problem):
    cells = [(layer, expert) for layer in range(LAYERS) for expert in range(EXPERTS)]
    for form in problem.slices:
        for staging in problem.staging_choices:
            for count in range((problem.capacity_bytes - staging) // form.resident_bytes + 1):
                for chosen in combinations(cells, min(count, len(cells))):
                    resident = np.zeros((LAYERS, EXPERTS), dtype=bool)
                    for cell in chosen:
                        resident[cell] = True
                    for length in problem.allowed:
                        yield Choice(form, staging, length, resident)


@pytest.mark.parametrize("seed", range(3))
def test_bound_holds_for_every_choice_and_the_answer_is_among_them(seed):
    problem = random_problem(seed)
    best = min(seconds_per_token(problem, c, problem.acceptance_rate(c.length, c.share)) for c in every_choice(problem))
    solution = solve(problem)
    assert lower_bound(problem) <= best * (1 + 1e-12)
    assert best <= solution.seconds_per_token * (1 + 1e-12)
    assert violations(problem, solution) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(100, 1200), st.integers(1, 3))
def test_answers_are_valid_and_never_worse_than_greedy(seed, capacity, batch):
    problem = random_problem(seed, capacity, batch)
    solution = solve(problem)
    assert violations(problem, solution) == []
    assert solution.lower_bound <= solution.seconds_per_token <= solution.greedy


def test_break_even_acceptance_is_where_drafting_equals_plain_decoding():
    """With one γ ≥ 1 allowed: T(γ) / (1 + α*·γ) = T(0), so at α* both cost the same per token."""
    problem = replace(random_problem(1), allowed=(2,))
    solution = solve(problem)
    choice = solution.choice
    drafted = seconds_per_token(problem, choice, solution.break_even_acceptance)
    plain = seconds_per_token(problem, replace(choice, length=0), 0.0)
    assert solution.break_even_acceptance > 0
    assert drafted == pytest.approx(plain)


def test_the_checker_refuses():
    problem = random_problem(2)
    solution = solve(problem)
    everything = replace(solution.choice, slice=problem.slices[1], resident=np.ones((LAYERS, EXPERTS), dtype=bool))
    assert any("taken" in text for text in violations(problem, replace(solution, choice=everything)))
    wrong = replace(solution, seconds_per_token=solution.seconds_per_token * 0.99)
    assert any("recomputed" in text for text in violations(problem, wrong))
    assert violations(problem, replace(solution, choice=replace(solution.choice, length=7)))
    assert violations(problem, replace(solution, choice=replace(solution.choice, staging_bytes=1)))


def test_no_room_for_staging_is_refused():
    with pytest.raises(InputError, match="no staging size"):
        random_problem(0, capacity=50)
