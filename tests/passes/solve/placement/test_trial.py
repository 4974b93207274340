"""Steps that placements are judged on have made none of them, and know that every expert may be chosen."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.decisions import ALL
from moe_passes.solve.placement.check import violations
from moe_passes.solve.placement.problem import NOBODY, Layer, Problem, Rates
from moe_passes.solve.placement.solver import layer_problems, solve, solve_layer
from moe_passes.solve.placement.step_time import chosen_replicas, step_seconds
from moe_passes.solve.placement.trial import cut_trial, unseen, with_prior


@given(st.integers(0, 50), st.integers(1, 400), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_the_latest_quarter_is_the_trial(first, length, batch, width):
    making, judged = cut_trial(first, length, batch, width)
    assert making.shape[1:] == (batch, width)
    if length // 4 // width < batch:
        assert (making == judged).all(), "too short for a trial"
        return
    assert judged.shape[1:] == (batch, width)
    assert making.min() >= first
    assert making.max() < first + length - length // 4 <= judged.min()
    assert judged.max() < first + length
    assert (np.diff(making, axis=2) == 1).all(), "a sequence is a run of consecutive tokens"


def test_few_runs_are_combined_to_many_steps():
    making, judged = cut_trial(0, 64, 4, 2)
    # 48 tokens are 24 runs and 6 steps, 16 are 8 runs and 2 steps: five and sixteen passes over the same runs.
    assert [len(making), len(judged)] == [30, 32]
    for steps, count in ((making, 6), (judged, 2)):
        passes = steps.reshape(-1, count * 4, 2)
        assert all((np.sort(one, axis=0) == np.sort(passes[0], axis=0)).all() for one in passes)
        assert len({one.tobytes() for one in passes}) == len(passes)


def test_every_expert_gets_its_share_of_prior_steps():
    """Eight choices of each of 16 experts are 128; to 512 known ones that is a quarter: 5 steps to 20 of 4·2 places."""
    steps = np.zeros((20, 4, 2), dtype=np.int64)
    steps[:, :, 1] = 1
    steps[3, 0, 1] = NOBODY
    open_to = np.ones(16, dtype=np.int64)
    open_to[7] = 0
    found = with_prior(steps, open_to, 512)
    assert (found[:20] == steps).all()
    assert len(found) == 25
    added = found[20:]
    assert 7 not in added
    assert len(np.unique(added)) > 12
    assert added[3, 0, 1] == NOBODY, "a place that nobody fills stays empty"
    assert ((added[:, :, 0] != added[:, :, 1]) | (added[:, :, 0] == NOBODY)).all(), "no token chooses an expert twice"
    assert len(with_prior(steps, open_to, 10**6)) == 20, "of a long trace it is nothing"
    assert len(with_prior(steps, np.zeros(16, dtype=np.int64), 512)) == 20


def test_experts_that_nobody_chose_are_counted():
    assert unseen(np.array([[[0, 1]], [[1, NOBODY]]]), 5) == 3


def changed(made_from, chosen_on):
    """Eight experts fill four banks of two; steps of two experts each."""
    making, trial = (np.array(steps)[:, None] for steps in (made_from, chosen_on))
    layer = Layer("l", 8, 50, 100, np.concatenate([making, trial]), np.full(8, ALL), making, trial)
    return Problem(Rates(4, 200, 100.0, 1e9, 1e9, 2), (layer,))


def test_what_was_popular_once_does_not_decide():
    """Steps of two of the experts 0 to 3, then of 4 to 7: those lie anywhere, and only sharding serves whoever comes.

    Over all four banks, a step of two experts takes half a second, whichever they are.
    """
    pairs = [[0, 1], [2, 3], [0, 2], [1, 3]] * 8
    problem = changed(pairs, [[4, 5], [6, 7], [4, 6], [5, 7]] * 3)
    solution = solve(problem, work=200_000)
    assert violations(problem, solution, chosen_replicas) == []
    assert solution.trial == pytest.approx(0.5)


def test_of_two_placements_the_one_that_serves_later_steps_is_chosen():
    """A slow link lets each expert lie in one bank; those that later steps use together had never met before.

    Made from the older steps alone, experts that never meet share banks: 4 with 5, and 6 with 7, or worse.
    """
    pairs = [[0, 4], [1, 5], [2, 6], [3, 7], [0, 5], [1, 4], [2, 7], [3, 6]] * 6
    problem = changed(pairs, [[4, 5], [6, 7]] * 6)
    slow = replace(problem, rates=replace(problem.rates, link_bytes_per_second=5.0))
    chosen = solve(slow, work=400_000)
    blind = solve(replace(slow, layers=(replace(slow.layers[0], trial=slow.layers[0].making),)), work=400_000)
    later = slow.layers[0].trial
    seconds = [
        step_seconds(slow.rates, slow.layers[0], s.layers[0].residency, s.layers[0].replicas, later).mean()
        for s in (chosen, blind)
    ]
    assert violations(slow, chosen, chosen_replicas) == []
    assert chosen.trial == pytest.approx(seconds[0])
    assert seconds[0] <= seconds[1]


def test_figures_are_of_training_steps_and_no_baseline_is_faster_there():
    random = np.random.default_rng(2)
    made, later = (random.random((40, 3, 12)).argsort(axis=2)[:, :, :3] for _ in range(2))
    layer = Layer("l", 12, 50, 100, np.concatenate([made, later]), np.full(12, ALL), made, later)
    problem = Problem(Rates(6, 300, 100.0, 12.0, 1e9, 2), (layer,))
    solution = solve(problem, work=400_000)
    placed = solution.layers[0]
    assert violations(problem, solution, chosen_replicas) == []
    assert placed.objective == pytest.approx(
        step_seconds(problem.rates, layer, placed.residency, placed.replicas).mean()
    )
    assert placed.objective <= placed.baseline[1]
    for wrong in (replace(placed, objective=placed.trial), replace(placed, trial=placed.objective)):
        assert violations(problem, replace(solution, layers=(wrong,)), chosen_replicas)


def test_the_trial_chooses_between_baselines_and_training_steps_do_not():
    """Whole experts two a bank: contiguous puts 0 beside 1, round-robin 0 beside 4; who meets beside another takes 2 s.

    Eighteen steps of 0 and 1 or 2 and 3 are faster dealt out, the six latest, of 0 and 4 or 1 and 5, are not. Sharded
    over four banks, a token hears 4 · 2 B / 5 B/s = 1.6 s.
    """
    problem = changed([[0, 1], [2, 3]] * 9, [[0, 4], [1, 5]] * 3)
    slow = replace(problem, rates=replace(problem.rates, link_bytes_per_second=5.0))
    placed = solve_layer(layer_problems(slow, [np.full(8, ALL)], 1.0)[0], 0, work=0)
    assert placed.trial == pytest.approx(1.0)
    assert placed.objective > 1.25, "what is fastest on all training steps: round-robin"
