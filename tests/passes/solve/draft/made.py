"""Small select-draft problems, and a judge that needs no dispatcher."""

from dataclasses import replace
from itertools import product

import numpy as np
from moe_passes.plan.acceptance import Acceptance, Curve
from moe_passes.plan.decisions import ALL, FROZEN, MSB, NONE, HotSetRule
from moe_passes.solve.draft.bound import round_seconds
from moe_passes.solve.draft.history import cut_rounds, dispatched, replay
from moe_passes.solve.draft.problem import COVERAGE_WEIGHTS, Choice, Problem, Rates, Setting, Slice
from moe_passes.solve.draft.solver import room_bytes

LAYERS, EXPERTS, TOP_K = 2, 4, 2
RULES = (FROZEN, HotSetRule(4, 1, 1), HotSetRule(8, 2, 2))
LINEAR = Acceptance((Curve((0.0, 1.0), (0.0, 0.9)),), 2, 0.5, "made up")
"""α of two drafted tokens is 0.9 of the coverage."""


def routed(random, tokens, layers=LAYERS, experts=EXPERTS, top_k=TOP_K):
    """Choices with some memory: [token, layer, k]."""
    scores = random.standard_normal((tokens, layers, experts))
    for token in range(1, tokens):
        scores[token] += 0.8 * scores[token - 1]
    return np.sort(np.argsort(-scores, axis=2)[:, :, :top_k], axis=2)


def random_problem(
    seed: int, capacity: int = 500, batch: int = 2, lengths=(0, 1, 2), rules=RULES, far_tokens=(0,)
) -> Problem:
    random = np.random.default_rng(seed)
    chosen = routed(random, 36)
    return Problem(
        batch=batch,
        top_k=TOP_K,
        capacity_bytes=capacity + 20,
        copies_bytes={4: 0, 2: 20},
        slices=(Slice(4, 50, 50), Slice(8, 100, 0)),
        staging_choices=(100, 200),
        lengths=tuple(lengths),
        rules=rules,
        whole_bytes=100,
        popularity=random.integers(0, 30, (LAYERS, EXPERTS)),
        chosen=chosen,
        asked=np.where(random.random(chosen.shape[:2])[..., None] < 0.6, chosen, routed(random, 36)),
        acceptance=LINEAR,
        rates=Rates(
            {(8, 4): 1.0, (4, 4): 0.8, (8, 2): 0.97, (4, 2): 0.79},
            {(n, banks): 0.7 + 0.1 * n + 0.075 * banks for n in range(3) for banks in (4, 2)},
            0.001,
            float(random.uniform(0.002, 0.1)),
            0.01,
            0.02,
            0.004,
            0.05,
            dict.fromkeys(range(3), 0.1),
            0.003,
        ),
        far_tokens=far_tokens,
    )


def every_setting(problem: Problem):
    for form, staging, length, rule, bits, banks, weight, far in product(
        problem.slices,
        problem.staging_choices,
        problem.lengths,
        problem.rules,
        problem.dense_bits,
        problem.copies_bytes,
        COVERAGE_WEIGHTS,
        problem.far_tokens,
    ):
        setting = Setting(form, bits, staging, length, rule, banks, weight, far)
        if (length or bits == 8) and room_bytes(problem, setting) >= 0:
            yield setting


def every_choice(problem: Problem):
    """Every setting with everything that HB could keep of experts."""
    for setting in every_setting(problem):
        if setting.coverage_weight != COVERAGE_WEIGHTS[0]:
            continue
        room, some = room_bytes(problem, setting), (NONE, MSB, ALL) if setting.slice.residual_bytes else (NONE, ALL)
        every = np.array(list(product(some, repeat=problem.experts)))
        sizes = (every == MSB).sum(axis=1) * setting.slice.resident_bytes + (every == ALL).sum(axis=1) * 100
        for levels in every[sizes <= room]:
            yield Choice(setting, levels.reshape(problem.popularity.shape))


def estimator(problem: Problem, slower=1.0, times=1):
    """A judge that takes the closed form of the rounds that would be dispatched for what they take."""
    every_round = replace(problem, most_rounds=len(problem.chosen))

    def seconds(choice: Choice) -> float:
        setting = choice.setting
        rounds = cut_rounds(every_round, problem.batch, setting.length)
        history = replay(problem, rounds, choice.levels, setting.rule)
        taken = dispatched(problem, len(history.distinct), setting.length, times)
        some = {name: value[taken] if isinstance(value, np.ndarray) else value for name, value in vars(history).items()}
        return round_seconds(problem, setting, type(history)(**some)) * slower

    return seconds
