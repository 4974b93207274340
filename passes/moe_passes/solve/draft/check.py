"""Independent check of a select-draft solution: it was offered, it fits, and what is expected of it is recomputed.

The hot set is followed with sets and lists, one round, layer and expert after another; what candidates took when they
were dispatched is checked where they are dispatched.
"""

import math
from collections import Counter

import numpy as np

from moe_passes.plan.decisions import ALL, MSB, NONE
from moe_passes.solve.draft.problem import Candidate, Choice, Problem, Setting, Solution

NEAR = 1e-9


def violations(problem: Problem, solution: Solution) -> list[str]:
    """Return everything that is wrong with a solution; empty if it is valid."""
    best = solution.best
    wrong = _offered(problem, best.choice)
    if wrong:
        return wrong
    coverage, seconds = recomputed(problem, best.choice)
    setting = best.choice.setting
    accepted = problem.acceptance.accepted(setting.length, setting.draft(best.choice.share, coverage))
    expected = {
        "coverage": (best.coverage, coverage),
        "accepted tokens": (best.accepted, accepted),
        "tokens": (best.tokens, problem.batch * (1 + accepted)),
        "estimate": (best.estimate_seconds, seconds),
    }
    for what, (told, found) in expected.items():
        if not math.isclose(told, found, rel_tol=NEAR, abs_tol=NEAR * NEAR):
            wrong.append(f"{what}: {told}, recomputed {found}")
    if all(candidate is not best for candidate in solution.candidates):
        wrong.append("the best is none of the candidates")
    if any(_is_better(problem, c, best) for c in solution.candidates):
        wrong.append("a candidate is better than the best")
    if not solution.lower_bound / (1 + NEAR) <= best.seconds_per_token <= solution.greedy * (1 + NEAR):
        wrong.append("bound ≤ objective ≤ greedy does not hold")
    return wrong


def _is_better(problem: Problem, candidate: Candidate, best: Candidate) -> bool:
    is_offered = candidate.choice.setting.length in problem.lengths
    return is_offered and candidate.seconds_per_token < best.seconds_per_token * (1 - NEAR)


def _offered(problem: Problem, choice: Choice) -> list[str]:
    setting, wrong = choice.setting, []
    for what, value, offered in (
        ("slice", setting.slice, problem.slices),
        ("dense bits", setting.dense_bits, problem.dense_bits),
        ("banks of a cache", setting.kv_banks, tuple(problem.copies_bytes)),
        ("staging", setting.staging_bytes, problem.staging_choices),
        ("draft length", setting.length, problem.lengths),
        ("rule", setting.rule, problem.rules),
        ("far tokens", setting.far_tokens, problem.far_tokens),
    ):
        if value not in offered:
            wrong.append(f"{what} {value} was not offered")
    if choice.levels.shape != problem.popularity.shape:
        return [*wrong, f"residents have shape {choice.levels.shape}"]
    sizes = {NONE: 0, MSB: setting.slice.resident_bytes, ALL: problem.whole_bytes}
    levels = choice.levels.ravel().tolist()
    if not set(levels) <= ({NONE, MSB, ALL} if setting.slice.residual_bytes else {NONE, ALL}):
        return [*wrong, f"residents are kept as {sorted(set(levels))}"]
    taken = sum(sizes[level] for level in levels) + setting.staging_bytes
    taken += problem.copies_bytes.get(setting.kv_banks, 0)
    if taken > problem.capacity_bytes:
        wrong.append(f"{taken} bytes taken of {problem.capacity_bytes}")
    return wrong


def recomputed(problem: Problem, choice: Choice) -> tuple[float, float]:
    """Return coverage and mean seconds of a round (model: docstring of bound.py)."""
    width = choice.setting.length + 1
    runs = len(problem.chosen) // width // problem.batch
    rounds = [
        [range(width * (number + runs * row), width * (number + runs * row) + width) for row in range(problem.batch)]
        for number in range(min(runs, problem.most_rounds))
    ]
    layers = [_Layer(problem, choice, row) for row in range(problem.layers)]
    sampled = set(np.linspace(0, len(rounds) - 1, min(len(rounds), problem.sampled_steps)).round().astype(int).tolist())
    for number, round_ in enumerate(rounds):
        for layer in layers:
            layer.run(round_, number in sampled and choice.setting.length > 0)
    asks = sum(layer.asks for layer in layers)
    covered = sum(layer.covered for layer in layers)
    drafted = sum(layer.drafted for layer in layers) / max(1, len(sampled))
    step = _draft_step_seconds(problem, choice, drafted)
    times = [_round_seconds(problem, choice, step, [layer.found[n] for layer in layers]) for n in range(len(rounds))]
    # Where experts are computed far, all rounds load ahead, or none does.
    verify = min(sum(one for _, (one, _) in times), sum(other for _, (_, other) in times))
    return (covered / asks if asks else 1.0), (sum(outside for outside, _ in times) + verify) / len(rounds)


class _Layer:
    """Follows the hot set of one layer."""

    def __init__(self, problem: Problem, choice: Choice, row: int) -> None:
        self.problem, self.rule, self.length, self.row = problem, choice.setting.rule, choice.setting.length, row
        self.levels = {e: level for e, level in enumerate(choice.levels[row].tolist()) if level}
        counts = problem.popularity[row].tolist()
        self.heat = [count / max(1, sum(counts)) * self.rule.window_tokens for count in counts]
        self.ranked = sorted(range(len(counts)), key=lambda e: (-counts[e], e))
        self.found: list[Counter[str]] = []
        self.asks = self.covered = self.drafted = 0

    def run(self, round_: list[range], is_sampled: bool) -> None:
        """Count a round, then let residents follow it."""
        problem, row = self.problem, self.row
        chosen = Counter(problem.chosen[[t for run in round_ for t in run], row].ravel().tolist())
        asked = Counter(problem.asked[[t for run in round_ for t in run[: self.length]], row].ravel().tolist())
        found: Counter[str] = Counter(distinct=len(chosen))
        for expert in chosen:
            level = self.levels.get(expert, NONE)
            if level != ALL:
                kind = "hot" if level == MSB else "cold"
                found[kind] += 1
                found[f"asked {kind}"] += expert in asked
        self.asks += asked.total()
        self.covered += sum(count for expert, count in asked.items() if expert in self.residents)
        if is_sampled:
            self.drafted += len(set().union(*(self._picks(problem.asked[run[0], row].tolist()) for run in round_)))
        found += self._follow(chosen, sum(len(run) for run in round_))
        self.found.append(found)

    def _picks(self, asked: list[int]) -> set[int]:
        kept = self.residents.intersection(asked)
        spare = [expert for expert in self.ranked if expert in self.residents and expert not in kept]
        return kept | set(spare[: max(0, min(self.problem.top_k, len(self.residents)) - len(kept))])

    @property
    def residents(self) -> set[int]:
        """What HB keeps anything of."""
        return set(self.levels)

    def _follow(self, chosen: Counter[int], tokens: int) -> Counter[str]:
        rule, swaps = self.rule, Counter[str]()
        if not rule.window_tokens:
            return swaps
        fade = math.exp(-tokens / rule.window_tokens)
        self.heat = [heat * fade + chosen[expert] / self.problem.top_k for expert, heat in enumerate(self.heat)]
        if (len(self.found) + 1) % rule.every_rounds:
            return swaps
        incoming = sorted(set(chosen) - self.residents, key=lambda e: (-self.heat[e], e))[: rule.most]
        leaving = sorted(self.residents, key=lambda e: (self.heat[e], e))
        pairs = [(new, old) for new, old in zip(incoming, leaving, strict=False) if self.heat[new] > self.heat[old]]
        for new, old in pairs:
            self.levels[new] = self.levels.pop(old)
            swaps["whole swaps" if self.levels[new] == ALL else "swaps"] += 1
        return swaps


def _draft_step_seconds(problem: Problem, choice: Choice, drafted: float) -> float:
    rates, form = problem.rates, choice.setting.slice
    seconds = rates.draft_dense_seconds[choice.setting.dense_bits, choice.setting.kv_banks]
    seconds += drafted * form.resident_bytes * rates.hb_seconds_per_byte
    active = sum(bool(row.any()) for row in choice.levels)
    return seconds + active * problem.batch * rates.gather_seconds_per_token


def _round_seconds(
    problem: Problem, choice: Choice, step: float, found: list[Counter[str]]
) -> tuple[float, tuple[float, float]]:
    """Return the seconds of a round outside of verify, and those of verify in its two ways."""
    rates, setting = problem.rates, choice.setting
    whole, residual = problem.whole_bytes, setting.slice.residual_bytes
    at = sum(found, Counter())

    def load(size: int, count: int) -> float:
        return count * (size * rates.external_seconds_per_byte + rates.load_latency_seconds) if size else 0.0

    total = load(whole, at["cold"]) + load(residual, at["hot"])
    early = load(whole, at["asked cold"]) + load(residual, at["asked hot"])
    verify = rates.verify_dense_seconds[setting.length, setting.kv_banks]
    verify += problem.layers * problem.batch * (setting.length + 1) * rates.gather_seconds_per_token
    draft = setting.length * step
    overlap = min(early, draft, setting.staging_bytes * rates.external_seconds_per_byte)
    written = at["swaps"] * setting.slice.resident_bytes + at["whole swaps"] * whole
    outside = draft + 2 * written * rates.hb_seconds_per_byte
    if setting.far_tokens:
        return outside, _far_seconds(problem, setting, at, verify, early - overlap)
    verify += at["distinct"] * whole * rates.hb_seconds_per_byte
    return outside, (max(verify + total - early, total - overlap),) * 2


def _far_seconds(
    problem: Problem, setting: Setting, at: Counter[str], verify: float, unfinished: float
) -> tuple[float, float]:
    """Return the seconds of a verify that computes far: with nothing loaded ahead, or with what was asked for."""
    rates, whole = problem.rates, problem.whole_bytes
    missing = at["cold"] + at["hot"]
    late = missing - at["asked cold"] - at["asked hot"]
    swapped = at["swaps"] + at["whole swaps"]
    loads = swapped * (whole * rates.external_seconds_per_byte + rates.load_latency_seconds)

    def step(far: int) -> float:
        near = (at["distinct"] - far) * whole * rates.hb_seconds_per_byte
        computed = far * (rates.far_expert_seconds + whole * rates.far_seconds_per_byte)
        return verify + min(far, problem.layers) * rates.far_layer_seconds[setting.length] + max(near, computed) + loads

    return step(missing), max(step(late), unfinished)
