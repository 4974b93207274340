"""What a round costs in select-draft's closed form, and a lower bound over all settings.

Closed form of a round with draft length γ: γ draft steps of D seconds each use HB only. Verify reads V seconds from HB
and for E seconds from external memory; what the draft asked for (E_asked of E) may be loaded while the draft runs, as
far as staging has room; W seconds go into writing the next hot set. So the round takes
γ·D + max(V + E_late, E − overlap) + W with E_late = E − E_asked and overlap = min(E_asked, γ·D, staging bytes at the
external rate). It knows no loads in vain and hides every load that could be hidden: it ranks settings of one γ well,
flatters longer drafts, and only says which settings are worth dispatching.

Where what is not near is computed in the far memory, F seconds of that run beside the R seconds of reading experts
near: verify takes dense work and max(R, F), and the loads of what the draft asked for, if it loads anything, end in it.

Bound: a round takes at least γ·D₀ + V and at least E, where D₀ leaves out all reading of experts in the draft; so the
mean round takes at least the larger of the two means. For E: a byte in HB saves one of the distinct experts of a round,
at most; the rest crosses the link, or is read by the far engine, at the faster of both rates. Both are of the rounds
that the best was dispatched on. What is computed far need not be read near: then V is dense work, with as much of
reading near as takes as long as the far engine's share. Accepted tokens are at most those of the coverage that the
best n residents of every round would have, n as many slices as fit. The bound is the least of this over all formats and
γ, with the smallest staging.
"""

from typing import NamedTuple

import numpy as np

from moe_passes.plan.acceptance import Draft
from moe_passes.solve.draft.history import History, Rounds, best_coverage, counts, dispatched, round_tokens
from moe_passes.solve.draft.problem import Problem, Setting


def round_seconds(problem: Problem, setting: Setting, history: History) -> float:
    """Mean seconds of a round by the closed form."""
    rates, length = problem.rates, setting.length
    total = _load_seconds(problem, setting, history.cold, history.hot)
    early = _load_seconds(problem, setting, history.asked_cold, history.asked_hot)
    gathers = problem.layers * problem.batch * (length + 1)
    verify = rates.verify_dense_seconds[length, setting.kv_banks] + gathers * rates.gather_seconds_per_token
    draft = length * draft_step_seconds(problem, setting, history)
    room = setting.staging_bytes * rates.external_seconds_per_byte
    overlap = np.minimum(early, min(draft, room))
    written = history.swaps * setting.slice.resident_bytes + history.whole_swaps * problem.whole_bytes
    outside = draft + written * 2 * rates.hb_seconds_per_byte
    if setting.far_tokens:
        return float((outside + _far_verify(problem, setting, history, verify, early, overlap)).mean())
    reads = verify + history.distinct * problem.whole_bytes * rates.hb_seconds_per_byte
    return float((outside + np.maximum(reads + total - early, total - overlap)).mean())


def _far_verify(
    problem: Problem, setting: Setting, history: History, verify: float, early: np.ndarray, overlap: np.ndarray
) -> np.ndarray:
    """Seconds of verify where what is not near is computed far: as it is best, with or without what the draft loads."""
    rates, whole = problem.rates, problem.whole_bytes
    missing, asked = history.cold + history.hot, history.asked_cold + history.asked_hot
    # What takes a resident's place is loaded for it.
    swapped = (history.swaps + history.whole_swaps) * _whole_load(problem)

    def seconds(far: np.ndarray) -> np.ndarray:
        near = (history.distinct - far) * whole * rates.hb_seconds_per_byte
        computed = far * (whole * rates.far_seconds_per_byte + rates.far_expert_seconds)
        sent = np.minimum(problem.layers, far) * rates.far_layer_seconds[setting.length]
        return np.asarray(verify + sent + np.maximum(near, computed) + swapped)

    nothing_ahead, ahead = seconds(missing), np.maximum(seconds(missing - asked), early - overlap)
    return nothing_ahead if nothing_ahead.mean() <= ahead.mean() else ahead


def _whole_load(problem: Problem) -> float:
    return problem.whole_bytes * problem.rates.external_seconds_per_byte + problem.rates.load_latency_seconds


def draft_step_seconds(problem: Problem, setting: Setting, history: History) -> float:
    """Mean seconds of one draft step: dense parts, and the restricted experts of every layer."""
    rates = problem.rates
    seconds = rates.draft_dense_seconds[setting.dense_bits, setting.kv_banks]
    seconds += history.drafted * setting.slice.resident_bytes * rates.hb_seconds_per_byte
    return seconds + history.active_layers * problem.batch * rates.gather_seconds_per_token


def _load_seconds(problem: Problem, setting: Setting, cold: np.ndarray, hot: np.ndarray) -> np.ndarray:
    rates, residual = problem.rates, setting.slice.residual_bytes
    seconds = cold * _whole_load(problem)
    if residual:
        seconds = seconds + hot * (residual * rates.external_seconds_per_byte + rates.load_latency_seconds)
    return np.asarray(seconds, dtype=float)


def tokens(problem: Problem, accepted: float) -> float:
    """Expected tokens of a round, whole batch."""
    return problem.batch * (1 + accepted)


class Bound(NamedTuple):
    """Seconds per token, and what they rest on."""

    seconds: float
    words: str


def lower_bound(problem: Problem, rounds: dict[int, Rounds], times: int = 1) -> Bound:
    """Return a lower bound on the seconds per token of every setting; proof in the module's docstring.

    Args:
        problem: the problem.
        rounds: by draft length, those of the closed form, which say what the draft finds.
        times: how many times as many rounds as usual the best was dispatched on.
    """
    return min(_bound(problem, rounds[length], length, times) for length in problem.lengths)


def _bound(problem: Problem, rounds: Rounds, length: int, times: int) -> Bound:
    rates, tokens_of = problem.rates, round_tokens(problem, problem.batch, length)
    taken = tokens_of[dispatched(problem, len(tokens_of), length, times)]
    distinct = (counts(problem.chosen, taken, problem.popularity.shape[1]) > 0).sum(axis=(1, 2))
    local = length * min(rates.draft_dense_seconds.values())
    local += min(seconds for (of, _), seconds in rates.verify_dense_seconds.items() if of == length)
    local += _reading(problem, float(distinct.mean()), local)
    room = problem.capacity_bytes - min(problem.staging_choices) - min(problem.copies_bytes.values())
    missing = float(np.maximum(distinct * problem.whole_bytes - room, 0).mean())
    external = missing * _missing_seconds_per_byte(problem)
    best = float("inf")
    for form in problem.slices:
        residents = min(problem.experts, room // form.resident_bytes)
        coverage = best_coverage(rounds, residents)
        best_draft = Draft(False, form.residual_bytes > 0, residents / problem.experts, coverage)
        accepted = problem.acceptance.most_accepted(length, best_draft)
        best = min(best, max(local, external) / tokens(problem, accepted))
    return Bound(best, f"γ = {length}, {'loads alone' if external > local else 'work near memory alone'}")


def _missing_seconds_per_byte(problem: Problem) -> float:
    """Seconds of a byte that is loaded or computed far, if both share out the far memory."""
    rates = problem.rates
    if not any(problem.far_tokens):
        return rates.external_seconds_per_byte
    return min(rates.external_seconds_per_byte, rates.far_seconds_per_byte, rates.far_memory_seconds_per_byte)


def _reading(problem: Problem, distinct: float, dense: float) -> float:
    """Seconds of verify that pass at least with reading experts near, after so many of dense work.

    What is computed far takes that engine as long as reading takes near, at best: with x of the bytes near, dense + x·n
    seconds and (1 − x)·f are the same.
    """
    size, rates = distinct * problem.whole_bytes, problem.rates
    near, far = size * rates.hb_seconds_per_byte, size * rates.far_seconds_per_byte
    if not any(problem.far_tokens):
        return near
    return max(0.0, far * (dense + near) / (near + far) - dense) if near + far else 0.0
