"""What a round costs in select-draft's model, and a lower bound over all plans.

Model of a round with draft length γ: γ draft steps of D seconds each use HB only. Verify reads V seconds from HB and
for E seconds from external memory; what the draft asked for (E_asked of E) may be loaded while the draft runs, as far
as staging has room. So the round takes γ·D + max(V + E_late, E − overlap) with E_late = E − E_asked and
overlap = min(E_asked, γ·D, staging bytes at the external rate).

Bound: as overlap ≤ γ·D, a round takes at least γ·D₀ + V and at least E, where D₀ leaves out all reading of experts
in the draft; so the mean round takes at least the larger of the two means. For the mean of E: with at most n
residents, the bytes saved, summed over rounds, are `whole − residual` times the sum over residents of the rounds that
use them, which is largest for the n experts used in most rounds (all have one size). More resident experts never
lower α, so tokens are at most batch·(1 + α(n)·γ). The bound is the least of this over all formats and γ, with the
smallest staging.
"""

import numpy as np

from moe_passes.routing.traces import by_popularity, restrict
from moe_passes.solve.draft.problem import Choice, Problem


def draft_step_seconds(problem: Problem, choice_slice_bytes: int, resident: np.ndarray) -> float:
    """Mean seconds of one draft step: dense parts, and the restricted experts of every layer."""
    rates, order = problem.rates, by_popularity(problem.popularity)
    seconds = rates.draft_dense_seconds
    for layer in range(resident.shape[0]):
        picks = restrict(problem.token_asked[:, :, layer], resident[layer], order[layer], problem.top_k)
        distinct = picks.any(axis=1).sum(axis=1).mean()
        seconds += float(distinct) * choice_slice_bytes * rates.hb_seconds_per_byte
        seconds += problem.batch * rates.gather_seconds_per_token * bool(resident[layer].any())
    return seconds


def round_seconds(problem: Problem, choice: Choice, draft_seconds: float) -> float:
    """Mean seconds of a training round under a plan."""
    rates, length = problem.rates, choice.length
    used = problem.used[:, : length + 1].any(axis=1)
    asked = used & problem.asked[:, :length].any(axis=1) if length else np.zeros_like(used)
    loads = (used & ~choice.resident).sum(axis=(1, 2)), (used & choice.resident).sum(axis=(1, 2))
    early = (asked & ~choice.resident).sum(axis=(1, 2)), (asked & choice.resident).sum(axis=(1, 2))
    total = _load_seconds(problem, choice, *loads)
    before = _load_seconds(problem, choice, *early)
    hb = used.sum(axis=(1, 2)) * problem.whole_bytes * rates.hb_seconds_per_byte
    layers = problem.popularity.shape[0]
    gather = layers * problem.batch * (length + 1) * rates.gather_seconds_per_token
    verify = rates.verify_dense_seconds[problem.lengths.index(length)] + hb + gather
    draft = length * draft_seconds
    room = choice.staging_bytes * rates.external_seconds_per_byte
    overlap = np.minimum(before, min(draft, room))
    return float((draft + np.maximum(verify + total - before, total - overlap)).mean())


def _load_seconds(problem: Problem, choice: Choice, cold: np.ndarray, hot: np.ndarray) -> np.ndarray:
    rates, residual = problem.rates, choice.slice.residual_bytes
    seconds = cold * (problem.whole_bytes * rates.external_seconds_per_byte + rates.load_latency_seconds)
    if residual:
        seconds = seconds + hot * (residual * rates.external_seconds_per_byte + rates.load_latency_seconds)
    return np.asarray(seconds, dtype=float)


def tokens(problem: Problem, length: int, rate: float) -> float:
    """Expected tokens of a round, whole batch."""
    return problem.batch * (1 + rate * length)


def lower_bound(problem: Problem) -> float:
    """Return a lower bound on the seconds per token of every plan; proof in the module's docstring."""
    rates = problem.rates
    best = float("inf")
    for form in problem.slices:
        room = problem.capacity_bytes - min(problem.staging_choices)
        resident = min(problem.experts, room // form.resident_bytes)
        saved = problem.whole_bytes - form.residual_bytes
        for length in problem.allowed:
            rounds_using = problem.used[:, : length + 1].any(axis=1)
            distinct = float(rounds_using.sum(axis=(1, 2)).mean())
            hits = float(np.sort(rounds_using.mean(axis=0).ravel())[::-1][:resident].sum())
            external = (distinct * problem.whole_bytes - hits * saved) * rates.external_seconds_per_byte
            local = (
                length * rates.draft_dense_seconds
                + rates.verify_dense_seconds[problem.lengths.index(length)]
                + distinct * problem.whole_bytes * rates.hb_seconds_per_byte
            )
            rate = problem.acceptance_rate(length, resident / problem.experts)
            best = min(best, max(local, external) / tokens(problem, length, rate))
    return best
