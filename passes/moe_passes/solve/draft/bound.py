"""What a round costs in select-draft's closed form, and a lower bound over all settings.

Closed form of a round with draft length γ: γ draft steps of D seconds each use HB only. Verify reads V seconds from HB
and for E seconds from external memory; what the draft asked for (E_asked of E) may be loaded while the draft runs, as
far as staging has room; W seconds go into writing the next hot set. So the round takes
γ·D + max(V + E_late, E − overlap) + W with E_late = E − E_asked and overlap = min(E_asked, γ·D, staging bytes at the
external rate). It knows no loads in vain and hides every load that could be hidden: it ranks settings of one γ well,
flatters longer drafts, and only says which settings are worth dispatching.

Bound: a round takes at least γ·D₀ + V and at least E, where D₀ leaves out all reading of experts in the draft; so the
mean round takes at least the larger of the two means. For E: with n residents, at most n of the distinct experts of a
round are there, each of which saves `whole − residual` bytes. Both are of the rounds that are dispatched. Accepted
tokens are at most those of the coverage that the best n residents of every round would have. The bound is the least of
this over all formats and γ, with the smallest staging.
"""

import numpy as np

from moe_passes.plan.acceptance import Draft
from moe_passes.solve.draft.history import History, Rounds, best_coverage, dispatched
from moe_passes.solve.draft.problem import Problem, Setting


def round_seconds(problem: Problem, setting: Setting, history: History) -> float:
    """Mean seconds of a round by the closed form."""
    rates, length, form = problem.rates, setting.length, setting.slice
    total = _load_seconds(problem, setting, history.cold, history.hot)
    early = _load_seconds(problem, setting, history.asked_cold, history.asked_hot)
    gathers = problem.layers * problem.batch * (length + 1)
    verify = rates.verify_dense_seconds[length, setting.kv_banks] + gathers * rates.gather_seconds_per_token
    reads = verify + history.distinct * problem.whole_bytes * rates.hb_seconds_per_byte
    draft = length * draft_step_seconds(problem, setting, history)
    room = setting.staging_bytes * rates.external_seconds_per_byte
    overlap = np.minimum(early, min(draft, room))
    writes = history.swaps * 2 * form.resident_bytes * rates.hb_seconds_per_byte
    return float((draft + np.maximum(reads + total - early, total - overlap) + writes).mean())


def draft_step_seconds(problem: Problem, setting: Setting, history: History) -> float:
    """Mean seconds of one draft step: dense parts, and the restricted experts of every layer."""
    rates = problem.rates
    seconds = rates.draft_dense_seconds[setting.dense_bits, setting.kv_banks]
    seconds += history.drafted * setting.slice.resident_bytes * rates.hb_seconds_per_byte
    return seconds + history.active_layers * problem.batch * rates.gather_seconds_per_token


def _load_seconds(problem: Problem, setting: Setting, cold: np.ndarray, hot: np.ndarray) -> np.ndarray:
    rates, residual = problem.rates, setting.slice.residual_bytes
    seconds = cold * (problem.whole_bytes * rates.external_seconds_per_byte + rates.load_latency_seconds)
    if residual:
        seconds = seconds + hot * (residual * rates.external_seconds_per_byte + rates.load_latency_seconds)
    return np.asarray(seconds, dtype=float)


def tokens(problem: Problem, accepted: float) -> float:
    """Expected tokens of a round, whole batch."""
    return problem.batch * (1 + accepted)


def lower_bound(problem: Problem, rounds: dict[int, Rounds]) -> float:
    """Return a lower bound on the seconds per token of every setting; proof in the module's docstring.

    Args:
        problem: the problem.
        rounds: by draft length, those that settings are compared on.
    """
    return min(_bound(problem, rounds[length], length) for length in problem.lengths)


def _bound(problem: Problem, rounds: Rounds, length: int) -> float:
    rates = problem.rates
    distinct = (rounds.chosen[dispatched(problem, len(rounds.chosen), length)] > 0).sum(axis=(1, 2))
    local = length * min(rates.draft_dense_seconds.values())
    local += min(seconds for (of, _), seconds in rates.verify_dense_seconds.items() if of == length)
    local += float(distinct.mean()) * problem.whole_bytes * rates.hb_seconds_per_byte
    best = float("inf")
    for form in problem.slices:
        room = problem.capacity_bytes - min(problem.staging_choices) - min(problem.copies_bytes.values())
        residents = min(problem.experts, room // form.resident_bytes)
        saved = np.minimum(distinct, residents) * (problem.whole_bytes - form.residual_bytes)
        external = float((distinct * problem.whole_bytes - saved).mean()) * rates.external_seconds_per_byte
        coverage = best_coverage(rounds, residents)
        best_draft = Draft(False, form.residual_bytes > 0, residents / problem.experts, coverage)
        accepted = problem.acceptance.most_accepted(length, best_draft)
        best = min(best, max(local, external) / tokens(problem, accepted))
    return best
