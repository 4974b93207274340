"""select-draft: descend through the settings by the closed form, dispatch the best few, take the best of these.

What HB keeps of each expert in a setting is a knapsack over all layers together (`solve/residency`): a slice saves
verify that much of a load, as often as verify needs the expert, and lets the draft use it; the whole saves all of the
load. From a plain and a drafting setting of every format one thing at a time is varied, the others as they are best so
far, until nothing gets better; then once more with other weights of what the draft finds. The best of each kind are
dispatched, and what is then likely to be better than they; the best of plain decoding and of drafts that are about as
good are settled on more rounds.
"""

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import linear_regression

import numpy as np

from moe_passes.plan.accounts import CHOSEN, DISPATCHED, ESTIMATED, GREEDY, Criterion, Weighed
from moe_passes.plan.decisions import ALL, FROZEN, MSB, NONE, HotSetRule, SolverRecord
from moe_passes.plan.model import WHOLE_BITS
from moe_passes.routing.traces import BoolArray, IntArray, by_popularity
from moe_passes.solve.draft.bound import lower_bound, round_seconds, tokens
from moe_passes.solve.draft.history import LONGER_TIMES, History, Rounds, cut_rounds, replay
from moe_passes.solve.draft.problem import (
    COVERAGE_WEIGHTS,
    SLICES_FIRST,
    Candidate,
    Choice,
    Problem,
    Setting,
    Slice,
    Solution,
)
from moe_passes.solve.residency.fixed import near_experts
from moe_passes.solve.residency.problem import Problem as Knapsack
from moe_passes.solve.residency.solver import solve as solve_knapsack

SWEEPS = 3
"""Times that everything is varied."""
USUAL_LENGTH = 4
"""γ that the descent of drafts starts from."""
NEAR = 0.03
"""What is within this of the best may be better than it: so much a few rounds may be wrong by."""

Kind = tuple[Slice, float, bool]
"""Format, weight of coverage, and whether anything is drafted."""
Vary = Callable[[Problem, Setting], Iterator[Setting]]
"""What a setting is varied to."""
Judge = Callable[[Choice], float]
"""Dispatches a choice on rounds of what judges; returns their mean seconds."""


def solve(problem: Problem, judge: Judge, longer: Judge | None = None) -> Solution:
    """Return the candidate with the least seconds per token; deterministic, never worse than the greedy baseline.

    The greedy baseline keeps equally many experts in every layer, never changes them, has the smallest staging, and is
    the best of all formats and lengths by the closed form.

    Args:
        problem: the problem.
        judge: of every candidate.
        longer: the same on `LONGER_TIMES` times as many rounds, for the best plain plan and the best draft where
            several are about as good.
    """
    search, judge = Search(problem), _once(judge)
    judged = [replace(c, seconds=judge(c.choice)) for c in [search.greedy(), *search.shortlist()]]
    for error_of in FURTHER:
        further = search.promising(judged[1:], error_of)
        if further is not None:
            judged.append(replace(further, seconds=judge(further.choice)))
    times = LONGER_TIMES if longer and settle(judged, problem.lengths, longer) else 1
    best = min((c for c in judged if c.choice.setting.length in problem.lengths), key=_seconds_and_length)
    bound = lower_bound(problem, {length: search.rounds(length) for length in problem.lengths}, times)
    return Solution(
        best=best,
        candidates=tuple(judged),
        greedy=judged[0].seconds_per_token,
        lower_bound=bound.seconds,
        limit=bound.words,
        break_even_acceptance=break_even(best, judged),
        others=search.best_of_lengths({c.choice.setting.length for c in judged[1:]}),
    )


def _once(judge: Judge) -> Judge:
    """Dispatch choices that differ in nothing but the weight of coverage they were made by once."""
    found: dict[tuple[Setting, bytes], float] = {}

    def seconds(choice: Choice) -> float:
        same = replace(choice.setting, coverage_weight=SLICES_FIRST), choice.levels.tobytes()
        if same not in found:
            found[same] = judge(choice)
        return found[same]

    return seconds


def settle(judged: list[Candidate], lengths: tuple[int, ...], longer: Judge) -> bool:
    """Dispatch the best plain plan and the best draft on more rounds, as far as they are near the best, until both are.

    Returns:
        Whether anything was: not where nothing is near the best.
    """
    offered = [n for n, candidate in enumerate(judged) if candidate.choice.setting.length in lengths]
    settled: set[int] = set()
    while True:
        least = min(judged[n].seconds_per_token for n in offered)
        near = [n for n in offered if judged[n].seconds_per_token <= least * (1 + NEAR)]
        if len(near) == 1 and not settled:
            return False
        modes = [[n for n in near if (judged[n].choice.setting.length > 0) is is_draft] for is_draft in (False, True)]
        rivals = {min(mode, key=lambda n: _seconds_and_length(judged[n])) for mode in modes if mode}
        if rivals <= settled:
            return True
        for n in sorted(rivals - settled):
            judged[n] = replace(judged[n], seconds=longer(judged[n].choice))
            settled.add(n)


def _seconds_and_length(candidate: Candidate) -> tuple[float, int]:
    return candidate.seconds_per_token, candidate.choice.setting.length


def weighed(solution: Solution) -> tuple[Weighed, ...]:
    """Return what was weighed, for people: the chosen setting, the greedy baseline, others by their seconds."""
    greedy, best = solution.candidates[0], solution.best
    rest = sorted((c for c in solution.candidates if c is not best), key=lambda c: c.seconds_per_token)
    return (
        _weighed(best, CHOSEN),
        *(_weighed(c, GREEDY if c is greedy else DISPATCHED) for c in rest),
        *(_weighed(c, ESTIMATED) for c in solution.others),
    )


def _weighed(candidate: Candidate, role: str) -> Weighed:
    setting = candidate.choice.setting
    return Weighed(
        role=role,
        length=setting.length,
        bits=setting.slice.bits,
        dense_bits=setting.dense_bits,
        staging_bytes=setting.staging_bytes,
        kv_banks=setting.kv_banks,
        window_tokens=setting.rule.window_tokens,
        most_swaps=setting.rule.most,
        coverage_weight=setting.coverage_weight,
        most_far_tokens=setting.far_tokens,
        expert_fraction=candidate.choice.share,
        coverage=candidate.coverage,
        acceptance_rate=candidate.acceptance_rate,
        round_tokens=candidate.tokens,
        estimate_seconds=candidate.estimate,
        seconds=0.0 if role == ESTIMATED else candidate.seconds_per_token,
    )


def level_of(form: Slice) -> int:
    """Return the least that HB keeps of a resident."""
    return MSB if form.residual_bytes else ALL


def fill(problem: Problem, setting: Setting, popularity: IntArray) -> IntArray:
    """Keep what is worth most of all experts of all layers: [layer, expert] levels."""
    if problem.place is not None:
        return np.where(near_experts(problem.place, popularity, problem.seed), ALL, NONE)
    solution = solve_knapsack(knapsack(problem, setting, popularity))
    return solution.levels.reshape(popularity.shape)


def deep_of(problem: Problem, choice: Choice, levels: IntArray, popularity: IntArray) -> BoolArray:
    """Return which experts the far memory does not hold: [layer, expert].

    First those that HB keeps whole, if they stay there; then the least popular of which it keeps nothing.
    """
    stays = (levels == ALL) & (choice.setting.rule == FROZEN)
    order = np.lexsort((popularity.ravel(), (levels > NONE).ravel(), ~stays.ravel()))
    deep = np.zeros(popularity.size, dtype=np.bool_)
    deep[order[: problem.deep_experts]] = True
    return deep.reshape(popularity.shape)


def knapsack(problem: Problem, setting: Setting, popularity: IntArray) -> Knapsack:
    """Return what the bytes of HB are worth to a setting, in seconds a round (`Criterion.worth`)."""
    criterion, count = criterion_of(problem, setting), popularity.size
    sliced, every = criterion.worth(popularity)
    sizes = np.full(count, criterion.slice_bytes), np.full(count, criterion.whole_bytes)
    return Knapsack(*sizes, sliced.ravel(), every.ravel(), criterion.room_bytes)


def criterion_of(problem: Problem, setting: Setting, price: float = 0.0) -> Criterion:
    """Return by what a setting chooses its experts; `price` is that of a byte."""
    return Criterion(
        top_k=problem.top_k,
        tokens=problem.batch * (setting.length + 1),
        slice_bytes=setting.slice.resident_bytes if setting.slice.residual_bytes else problem.whole_bytes,
        whole_bytes=problem.whole_bytes,
        coverage_weight=setting.coverage_weight,
        load_seconds_per_byte=problem.rates.external_seconds_per_byte,
        load_latency_seconds=problem.rates.load_latency_seconds,
        computes_far=setting.far_tokens > 0,
        room_bytes=room_bytes(problem, setting),
        price_seconds_per_byte=price,
    )


def fill_evenly(popularity: IntArray, room: int, level: int) -> IntArray:
    """Keep equally many of the most popular experts in every layer, all of them at a level: [layer, expert]."""
    levels = np.full(popularity.shape, NONE, dtype=np.int64)
    np.put_along_axis(levels, by_popularity(popularity)[:, : room // len(popularity)], level, axis=1)
    return levels


def refill(problem: Problem, choice: Choice, popularity: IntArray) -> IntArray:
    """Return what HB keeps of experts by other counts, chosen in the same way."""
    if choice.is_even and problem.place is None:
        return fill_evenly(popularity, int(choice.resident.sum()), level_of(choice.setting.slice))
    return fill(problem, choice.setting, popularity)


def room_bytes(problem: Problem, setting: Setting) -> int:
    """Return the bytes of HB that are left for experts; negative where staging and cache alone do not fit."""
    return problem.capacity_bytes - setting.staging_bytes - problem.copies_bytes[setting.kv_banks]


def break_even(best: Candidate, judged: list[Candidate]) -> float:
    """Return the α at which T(γ) / (1 + α·γ) equals the best plain plan's T, each with its own residents and staging.

    Of the plan, or, where it is plain decoding, the least of all drafts; infinite where nothing is drafted.
    """
    plain = min(c.seconds for c in judged if not c.choice.setting.length)
    drafts = [best] if best.choice.setting.length else [c for c in judged if c.choice.setting.length]
    return min((max(0.0, c.seconds / plain - 1) / c.choice.setting.length for c in drafts), default=float("inf"))


class Search:
    """Estimates settings, each once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._rounds: dict[int, Rounds] = {}
        self._found: dict[Setting, Candidate] = {}
        self._kept: dict[Setting, IntArray] = {}
        self._replayed: dict[tuple[int, HotSetRule, bytes], History] = {}

    def rounds(self, length: int) -> Rounds:
        """Return the rounds of a draft length."""
        if length not in self._rounds:
            self._rounds[length] = cut_rounds(self.problem, self.problem.batch, length)
        return self._rounds[length]

    def estimate(self, setting: Setting) -> Candidate:
        """Estimate a setting with what is worth most of experts."""
        if setting not in self._found:
            self._found[setting] = self.estimate_choice(Choice(setting, self._levels(setting)))
        return self._found[setting]

    def _levels(self, setting: Setting) -> IntArray:
        """Return what HB keeps; settings that differ in nothing that matters for it share it."""
        same = replace(setting, dense_bits=WHOLE_BITS, rule=FROZEN)
        if same not in self._kept:
            self._kept[same] = fill(self.problem, same, self.problem.popularity)
        return self._kept[same]

    def estimate_choice(self, choice: Choice) -> Candidate:
        """Estimate a choice."""
        setting = choice.setting
        history = self._history(setting, choice.levels)
        draft = setting.draft(choice.share, history.coverage)
        accepted = self.problem.acceptance.accepted(setting.length, draft)
        seconds = round_seconds(self.problem, setting, history)
        return Candidate(choice, history.coverage, accepted, tokens(self.problem, accepted), seconds)

    def _history(self, setting: Setting, levels: IntArray) -> History:
        """Replay the rounds; settings that differ in nothing that matters for it share it."""
        same = (setting.length, setting.rule, levels.tobytes())
        if same not in self._replayed:
            self._replayed[same] = replay(self.problem, self.rounds(setting.length), levels, setting.rule)
        return self._replayed[same]

    @cached_property
    def striped(self) -> int:
        """Banks of a cache that is striped over all: nothing is there twice."""
        return max(self.problem.copies_bytes)

    def greedy(self) -> Candidate:
        """Return the greedy baseline."""
        least = min(self.problem.staging_choices)
        rule = FROZEN if FROZEN in self.problem.rules else self.problem.rules[0]
        settings = [
            Setting(form, WHOLE_BITS, least, length, rule, self.striped, far_tokens=min(self.problem.far_tokens))
            for form in self.problem.slices
            for length in self.problem.lengths
        ]
        filled = [Choice(setting, self._even(setting), True) for setting in settings]
        return min((self.estimate_choice(choice) for choice in filled), key=lambda c: c.estimate)

    def _even(self, setting: Setting) -> IntArray:
        if self.problem.place is not None:
            return fill(self.problem, setting, self.problem.popularity)
        room, form = room_bytes(self.problem, setting), setting.slice
        return fill_evenly(self.problem.popularity, room // form.resident_bytes, level_of(form))

    def shortlist(self) -> list[Candidate]:
        """Return the best of every kind by the closed form, plain decoding always among them."""
        drafts = tuple(length for length in self.problem.lengths if length)
        plain = [found for form in self.problem.slices for found in self.descend(form, (0,))]
        drafted = [found for form in self.problem.slices if drafts for found in self.descend(form, drafts)]
        best_plain = min(plain, key=lambda c: c.estimate)
        return list({c.choice.setting: c for c in [best_plain, *drafted]}.values())

    def promising(self, judged: list[Candidate], error_of: "ErrorOf") -> Candidate | None:
        """Return what is likely to be the fastest of what was not dispatched yet; None where nothing is."""
        kinds: dict[Kind, list[Candidate]] = {}
        for c in judged:
            kinds.setdefault(_kind(c.choice.setting), []).append(c)
        error = {kind: error_of(found, judged) for kind, found in kinds.items()}
        known = {(_kind(c.choice.setting), c.choice.setting.length) for c in judged}
        open_ = [
            (c, error[kind])
            for c in self._found.values()
            if (kind := _kind(c.choice.setting)) in error and (kind, c.choice.setting.length) not in known
        ]
        if not open_:
            return None
        likely, _ = min(open_, key=lambda of: of[0].estimate * of[1].at(of[0].choice.setting.length))
        return self._vary(likely, _ways((likely.choice.setting.length,)), 1)

    def best_of_lengths(self, known: Set[int]) -> tuple[Candidate, ...]:
        """Return, by γ, the best by the closed form of those that are not known yet."""
        best: dict[int, Candidate] = {}
        for c in self._found.values():
            length = c.choice.setting.length
            if length not in known and (length not in best or c.estimate < best[length].estimate):
                best[length] = c
        return tuple(best[length] for length in sorted(best))

    def descend(self, form: Slice, lengths: tuple[int, ...]) -> list[Candidate]:
        """Vary one thing at a time from a usual setting of a format, among these γ.

        Returns:
            The best that is found of each weight of coverage: all but the first start from the best of that.
        """
        problem = self.problem
        staging = _staging_sizes(problem)
        length = min(lengths, key=lambda n: abs(n - USUAL_LENGTH))
        middle = staging[len(staging) // 2] if length else staging[0]
        far = max(problem.far_tokens)
        usual = Setting(form, WHOLE_BITS, middle, length, problem.rules[-1], self.striped, SLICES_FIRST, far)
        often = _ways(lengths)
        best = self._vary(self.estimate(usual), (_dense_bits, *often), SWEEPS)
        starts = [replace(best.choice.setting, coverage_weight=weight) for weight in _other_weights(problem, form)]
        return [best, *(self._vary(self.estimate(start), often, SWEEPS - 1) for start in starts)]

    def _vary(self, best: Candidate, ways: tuple[Vary, ...], sweeps: int) -> Candidate:
        problem = self.problem
        for _ in range(sweeps):
            before = best
            for vary in ways:
                varied = vary(problem, best.choice.setting)
                fitting = [setting for setting in varied if room_bytes(problem, setting) >= problem.placed_bytes]
                found = [self.estimate(setting) for setting in fitting]
                best = min([best, *found], key=lambda c: (c.estimate, c.choice.setting.length))
            if best is before:
                break
        return best


def _kv_banks(problem: Problem, setting: Setting) -> Iterator[Setting]:
    return (replace(setting, kv_banks=banks) for banks in problem.copies_bytes)


def _rules(problem: Problem, setting: Setting) -> Iterator[Setting]:
    return (replace(setting, rule=rule) for rule in problem.rules)


def _dense_bits(problem: Problem, setting: Setting) -> Iterator[Setting]:
    bits = problem.dense_bits if setting.length else (WHOLE_BITS,)
    return (replace(setting, dense_bits=value) for value in bits)


def _other_weights(problem: Problem, form: Slice) -> tuple[float, ...]:
    # Without slices there is one thing to keep of an expert, so that a weight changes nothing.
    return COVERAGE_WEIGHTS[1:] if form.residual_bytes and problem.place is None else ()


def _far(problem: Problem, setting: Setting) -> Iterator[Setting]:
    return (replace(setting, far_tokens=tokens) for tokens in problem.far_tokens)


def _lengths(lengths: tuple[int, ...]) -> Vary:
    return lambda problem, setting: (replace(setting, length=length) for length in lengths)


def _staging_sizes(problem: Problem) -> list[int]:
    return [size for size in problem.staging_choices if size <= problem.capacity_bytes]


def _stagings(problem: Problem, setting: Setting) -> Iterator[Setting]:
    return (replace(setting, staging_bytes=size) for size in _staging_sizes(problem))


def _ways(lengths: tuple[int, ...]) -> tuple[Vary, ...]:
    """Return what is varied most often, among these γ."""
    return (_kv_banks, _rules, _far, _lengths(lengths), _stagings)


def _kind(setting: Setting) -> Kind:
    return setting.slice, setting.coverage_weight, setting.length > 0


@dataclass(frozen=True)
class _Error:
    """How many times as long candidates of a kind take, dispatched, as the closed form says.

    Attributes:
        known: by γ.
        slope: by which it grows with γ.
    """

    known: dict[int, float]
    slope: float

    @staticmethod
    def alike(kind: list[Candidate], every: list[Candidate]) -> "_Error":
        """Take it for the same at every γ: that of the kind's last that was dispatched."""
        return _Error({kind[-1].choice.setting.length: _error(kind[-1])}, 0.0)

    @staticmethod
    def growing(kind: list[Candidate], every: list[Candidate]) -> "_Error":
        """Read off how it grows what was dispatched of the kind, or of every kind where that is one γ."""
        lengths = {c.choice.setting.length for c in kind}
        points = [(c.choice.setting.length, _error(c)) for c in (kind if len(lengths) > 1 else every)]
        x, y = zip(*points, strict=True)
        slope = linear_regression(x, y).slope if len(set(x)) > 1 else 0.0
        return _Error({c.choice.setting.length: _error(c) for c in kind}, slope)

    def at(self, length: int) -> float:
        """Return it at a γ, from the nearest that is known."""
        nearest = min(self.known, key=lambda known: (abs(known - length), known))
        return self.known[nearest] + self.slope * (length - nearest)


def _error(candidate: Candidate) -> float:
    return candidate.seconds_per_token / candidate.estimate


ErrorOf = Callable[[list[Candidate], list[Candidate]], _Error]
"""The error of a kind, from what was dispatched of it, and of all kinds."""
FURTHER: tuple[ErrorOf, ...] = (_Error.alike,) * 3 + (_Error.growing,) * 2
"""By which candidates are chosen that are dispatched after the best of every kind: the closed form ranks lengths of one
kind well, but some kinds it flatters more the longer the draft is."""


def record(solution: Solution, seed: int) -> SolverRecord:
    """Say what is known of a solution."""
    objective = solution.best.seconds_per_token
    return SolverRecord(
        pass_name="select-draft",
        instance="seconds per token of training rounds that did not choose the residents, dispatched",
        status="optimal" if solution.lower_bound >= objective else "feasible",
        objective=objective,
        lower_bound=min(solution.lower_bound, objective),
        greedy=solution.greedy,
        seed=seed,
        unit="s",
        limit=solution.limit,
    )
