"""select-draft: descend through the settings by the closed form, dispatch the best few, take the best of these.

All experts of a model have one size, so the knapsack "most popular experts that fit" is solved exactly by taking them
in the order of their training counts, over all layers together. From a plain and a drafting setting of every format,
one thing at a time is varied, the others as they are best so far, until nothing gets better.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from moe_passes.plan.decisions import FROZEN, SolverRecord
from moe_passes.plan.model import WHOLE_BITS
from moe_passes.routing.traces import BoolArray, IntArray, by_popularity
from moe_passes.solve.draft.bound import lower_bound, round_seconds, tokens
from moe_passes.solve.draft.history import Rounds, cut_rounds, replay
from moe_passes.solve.draft.problem import Candidate, Choice, Problem, Setting, Slice, Solution

SWEEPS = 3
"""Times that everything is varied."""
USUAL_LENGTH = 4
"""γ that the descent of drafts starts from."""
DISPATCHED = 6
"""Candidates that are dispatched, besides the greedy baseline."""

Judge = Callable[[Choice], float]
"""Dispatches a choice on a few rounds of what judges; returns their mean seconds."""


def solve(problem: Problem, judge: Judge) -> Solution:
    """Return the candidate with the least seconds per token; deterministic, never worse than the greedy baseline.

    The greedy baseline keeps equally many experts in every layer, never changes them, has the smallest staging, and is
    the best of all formats and lengths by the closed form.
    """
    search = Search(problem)
    greedy = search.greedy()
    chosen = [*search.shortlist(), greedy]
    judged = [replace(c, seconds=judge(c.choice)) for c in chosen]
    allowed = [c for c in judged if c.choice.setting.length in problem.lengths]
    best = min(allowed, key=lambda c: (c.seconds_per_token, c.choice.setting.length))
    bound = lower_bound(problem, {length: search.rounds(length) for length in problem.lengths})
    return Solution(
        best=best,
        candidates=tuple(judged),
        greedy=judged[-1].seconds_per_token,
        lower_bound=min(bound, best.seconds_per_token),
        break_even_acceptance=break_even(best, judged),
    )


def fill_exactly(popularity: IntArray, room: int) -> BoolArray:
    """Keep the `room` most popular experts of all layers: [layer, expert]."""
    flat = popularity.ravel()
    resident = np.zeros(flat.size, dtype=np.bool_)
    resident[np.argsort(-flat, kind="stable")[:room]] = True
    return resident.reshape(popularity.shape)


def fill_evenly(popularity: IntArray, room: int) -> BoolArray:
    """Keep equally many of the most popular experts in every layer: [layer, expert]."""
    resident = np.zeros(popularity.shape, dtype=np.bool_)
    np.put_along_axis(resident, by_popularity(popularity)[:, : room // len(popularity)], True, axis=1)
    return resident


def refill(choice: Choice, popularity: IntArray) -> BoolArray:
    """Return the residents of a choice by other counts: as many, chosen in the same way."""
    return (fill_evenly if choice.is_even else fill_exactly)(popularity, int(choice.resident.sum()))


def room_for(problem: Problem, setting: Setting) -> int:
    """Return how many experts fit beside staging; negative where staging alone does not."""
    taken = setting.staging_bytes + problem.copies_bytes[setting.kv_banks]
    return (problem.capacity_bytes - taken) // setting.slice.resident_bytes


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

    def rounds(self, length: int) -> Rounds:
        """Return the rounds of a draft length."""
        if length not in self._rounds:
            self._rounds[length] = cut_rounds(self.problem, self.problem.batch, length)
        return self._rounds[length]

    def estimate(self, setting: Setting) -> Candidate:
        """Estimate a setting with the most popular experts that fit."""
        if setting not in self._found:
            resident = fill_exactly(self.problem.popularity, room_for(self.problem, setting))
            self._found[setting] = self.estimate_choice(Choice(setting, resident))
        return self._found[setting]

    def estimate_choice(self, choice: Choice) -> Candidate:
        """Estimate a choice."""
        setting = choice.setting
        history = replay(self.problem, self.rounds(setting.length), choice.resident, setting.rule)
        draft = setting.draft(choice.share, history.coverage)
        accepted = self.problem.acceptance.accepted(setting.length, draft)
        seconds = round_seconds(self.problem, setting, history)
        return Candidate(choice, history.coverage, accepted, tokens(self.problem, accepted), seconds)

    @cached_property
    def striped(self) -> int:
        """Banks of a cache that is striped over all: nothing is there twice."""
        return max(self.problem.copies_bytes)

    def greedy(self) -> Candidate:
        """Return the greedy baseline."""
        least = min(self.problem.staging_choices)
        settings = [
            Setting(form, WHOLE_BITS, least, length, FROZEN, self.striped)
            for form in self.problem.slices
            for length in self.problem.lengths
        ]
        filled = [Choice(s, fill_evenly(self.problem.popularity, room_for(self.problem, s)), True) for s in settings]
        return min((self.estimate_choice(choice) for choice in filled), key=lambda c: c.estimate)

    def shortlist(self) -> list[Candidate]:
        """Return the candidates that are worth dispatching, plain decoding always among them."""
        plain = [self.descend(form, (0,)) for form in self.problem.slices]
        drafts = tuple(length for length in self.problem.lengths if length)
        drafted = [self.descend(form, drafts) for form in self.problem.slices if drafts]
        best_plain = min(plain, key=lambda c: c.estimate)
        chosen = [best_plain, *drafted]
        for candidate in sorted(self._found.values(), key=lambda c: c.estimate):
            if len(chosen) < DISPATCHED and drafts and _differs(candidate, chosen):
                chosen.append(candidate)
        return chosen

    def descend(self, form: Slice, lengths: tuple[int, ...]) -> Candidate:
        """Vary one thing at a time from a usual setting of a format, among these γ."""
        problem = self.problem
        staging = [size for size in problem.staging_choices if size <= problem.capacity_bytes]
        length = min(lengths, key=lambda n: abs(n - USUAL_LENGTH))
        middle = staging[len(staging) // 2] if length else staging[0]
        best = self.estimate(Setting(form, WHOLE_BITS, middle, length, problem.rules[-1], self.striped))
        for _ in range(SWEEPS):
            before = best
            for vary in (_kv_banks, _rules, _dense_bits, _lengths(lengths), _stagings(staging)):
                varied = vary(problem, best.choice.setting)
                found = [self.estimate(setting) for setting in varied if room_for(problem, setting) >= 0]
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


def _lengths(lengths: tuple[int, ...]) -> Callable[[Problem, Setting], Iterator[Setting]]:
    return lambda problem, setting: (replace(setting, length=length) for length in lengths)


def _stagings(sizes: list[int]) -> Callable[[Problem, Setting], Iterator[Setting]]:
    return lambda problem, setting: (replace(setting, staging_bytes=size) for size in sizes)


def _differs(candidate: Candidate, chosen: list[Candidate]) -> bool:
    """Tell whether a candidate's γ and format are not among the chosen: one that differs by less is as good."""
    mine = candidate.choice.setting
    return all((c.choice.setting.length, c.choice.setting.slice) != (mine.length, mine.slice) for c in chosen)


def record(solution: Solution, seed: int) -> SolverRecord:
    """Say what is known of a solution."""
    objective = solution.best.seconds_per_token
    return SolverRecord(
        pass_name="select-draft",
        instance="seconds per token of training rounds that did not choose the residents, dispatched",
        status="optimal" if solution.lower_bound >= objective else "feasible",
        objective=objective,
        lower_bound=solution.lower_bound,
        greedy=solution.greedy,
        seed=seed,
        unit="s",
    )
