"""select-draft: enumerate formats, staging sizes and γ; fill HB exactly for each.

All experts of a model have one size, so the knapsack "most popular experts that fit" is solved exactly by taking
them in the order of their training counts, over all layers together.
"""

from dataclasses import replace

import numpy as np

from moe_passes.plan.decisions import SolverRecord
from moe_passes.routing.traces import by_popularity
from moe_passes.solve.draft.bound import draft_step_seconds, lower_bound, round_seconds, tokens
from moe_passes.solve.draft.problem import Choice, Problem, Slice, Solution


def solve(problem: Problem) -> Solution:
    """Return the plan with the least seconds per token; deterministic, never worse than the greedy baseline.

    The greedy baseline keeps equally many experts in every layer and takes the best of the same formats and lengths
    with the smallest staging.
    """
    scored = []
    for form in problem.slices:
        for staging in problem.staging_choices:
            room = (problem.capacity_bytes - staging) // form.resident_bytes
            if room < 0:
                continue
            fills = [(False, fill_exactly(problem, room))]
            if staging == min(problem.staging_choices):
                fills.append((True, fill_evenly(problem, room)))
            for is_greedy, resident in fills:
                scored += [(is_greedy, *entry) for entry in _score_lengths(problem, form, staging, resident)]
    greedy = min(score for is_greedy, score, _, _ in scored if is_greedy)
    best = min(range(len(scored)), key=lambda n: (round(scored[n][1], 15), scored[n][3].length, n))
    _, score, rate, choice = scored[best]
    return Solution(
        choice=choice,
        seconds_per_token=score,
        lower_bound=min(score, lower_bound(problem)),
        greedy=greedy,
        acceptance_rate=rate,
        break_even_acceptance=_break_even(problem, choice),
    )


def fill_exactly(problem: Problem, room: int) -> np.ndarray:
    """Keep the `room` most popular experts of all layers: [layer, expert]."""
    flat = problem.popularity.ravel()
    resident = np.zeros(flat.size, dtype=np.bool_)
    resident[np.argsort(-flat, kind="stable")[:room]] = True
    return resident.reshape(problem.popularity.shape)


def fill_evenly(problem: Problem, room: int) -> np.ndarray:
    """Keep equally many of the most popular experts in every layer: [layer, expert]."""
    layers = problem.popularity.shape[0]
    resident = np.zeros(problem.popularity.shape, dtype=np.bool_)
    np.put_along_axis(resident, by_popularity(problem.popularity)[:, : room // layers], True, axis=1)
    return resident


def _score_lengths(
    problem: Problem, form: Slice, staging: int, resident: np.ndarray
) -> list[tuple[float, float, Choice]]:
    step = draft_step_seconds(problem, form.resident_bytes, resident)
    result = []
    for length in problem.allowed:
        choice = Choice(form, staging, length, resident)
        rate = problem.acceptance_rate(length, choice.share)
        score = round_seconds(problem, choice, step) / tokens(problem, length, rate)
        result.append((score, rate, choice))
    return result


def _break_even(problem: Problem, choice: Choice) -> float:
    """Return the α at which T(γ) / (1 + α·γ) = T(0), for the plan's γ, or the easiest γ ≥ 1 where that is 0."""
    lengths = [choice.length] if choice.length else [n for n in problem.lengths if n > 0]
    if not lengths:
        return float("inf")
    step = draft_step_seconds(problem, choice.slice.resident_bytes, choice.resident)
    plain = round_seconds(problem, replace(choice, length=0), step)
    rates = [(round_seconds(problem, replace(choice, length=n), step) / plain - 1) / n for n in lengths]
    return max(0.0, min(rates))


def record(solution: Solution, seed: int) -> SolverRecord:
    """Say what is known of a solution."""
    optimal = solution.lower_bound >= solution.seconds_per_token
    return SolverRecord(
        pass_name="select-draft",
        instance="seconds per token of a training round, closed-form model",
        status="optimal" if optimal else "feasible",
        objective=solution.seconds_per_token,
        lower_bound=solution.lower_bound,
        greedy=solution.greedy,
        seed=seed,
        unit="s",
    )
