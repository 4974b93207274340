"""The solver against brute force, and its parts."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from moe_passes.plan.decisions import ALL, MSB, NONE
from moe_passes.plan.errors import InfeasibleError, InputError
from moe_passes.solve.placement import baselines
from moe_passes.solve.placement.bound import any_residency_bound, lower_bound
from moe_passes.solve.placement.check import violations
from moe_passes.solve.placement.groups import run_lengths
from moe_passes.solve.placement.problem import Layer, LayerProblem, Problem, Rates
from moe_passes.solve.placement.search import State, is_significant, run
from moe_passes.solve.placement.solver import layer_problems, place_baseline, solve, solve_layer
from moe_passes.solve.placement.step_time import chosen_replicas, mean_seconds, missing_bytes, step_seconds

SIZE = 100


def instance(seed, experts=6, banks=4, steps=8, tokens=2, k=2, link=50.0, external=1e3, room=1.5, layers=1):
    """Random routing; HB holds `room` times all experts."""
    random = np.random.default_rng(seed)
    made = tuple(
        Layer(f"layer{n}", experts, SIZE // 2, SIZE, random.random((steps, tokens, experts)).argsort(axis=2)[:, :, :k])
        for n in range(layers)
    )
    return Problem(Rates(banks, int(room * layers * experts * SIZE / banks), 100.0, link, external, 2), made)


def one_layer(problem, room=1.5):
    layer = problem.layers[0]
    residency = np.full(layer.experts, ALL)
    return LayerProblem(problem.rates, layer, residency, room * residency.size * SIZE / problem.rates.banks, 0.0)


@given(
    st.integers(0, 10_000),
    st.sampled_from([1.0, 20.0, 500.0]),
    st.sampled_from([1, 2, 3, 4, 6]),
    st.sampled_from([0.0, 0.01, 0.3, 1.0, 1.3, 2.5]),
)
@example(seed=1, link=20.0, banks=6, room=1.3)
@settings(max_examples=40, deadline=None)
def test_every_answer_is_valid_and_never_worse_than_any_baseline(seed, link, banks, room):
    problem = instance(seed, banks=banks, link=link, room=room, layers=2)
    solution = solve(problem, seed, work=200_000)
    assert violations(problem, solution, chosen_replicas) == []
    for name in baselines.names(banks):
        placed = place_baseline(problem, name)
        assert placed is None or solution.objective <= placed.objective * (1 + 1e-9), name


@given(st.integers(0, 10_000), st.sampled_from([2.0, 20.0, 500.0]))
@settings(max_examples=15, deadline=None)
def test_bound_is_below_and_solver_above_the_brute_force_optimum(seed, link):
    problem = one_layer(instance(seed, experts=4, banks=3, link=link, steps=3), room=3.0)
    sets = [c for n in (1, 2, 3) for c in combinations(range(3), n)]
    best = min(mean_seconds(problem, tuple((home,) for home in homes)) for homes in product(sets, repeat=4))
    answer = solve_layer(problem, seed, work=1_000_000)
    assert lower_bound(problem) <= best * (1 + 1e-9)
    assert answer.lower_bound <= best * (1 + 1e-9)
    assert best <= answer.objective * (1 + 1e-9)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.6, 1.0]), st.sampled_from([20.0, 1e3]))
@settings(max_examples=40, deadline=None)
def test_no_residency_beats_the_bound_over_all_of_them(seed, room, external):
    """Every residency of three experts, whole or in slices, whole experts dealt out or spread, on a free link."""
    problem = instance(seed, experts=3, banks=2, steps=4, k=2, link=1e9, room=room, external=external)
    layer, bound, available = problem.layers[0], any_residency_bound(problem), 2 * problem.rates.bank_capacity_bytes
    for levels in product((NONE, MSB, ALL), repeat=3):
        residency = np.array(levels)
        if layer.resident_bytes(residency).sum() <= available:
            spread = tuple(((0, 1),) if level else () for level in levels)
            assert step_seconds(problem.rates, layer, residency, spread).mean() >= bound * (1 - 1e-9)
    assert solve(problem, work=50_000).objective >= bound * (1 - 1e-9)


def test_search_comes_close_to_brute_force_on_the_mean():
    sets = [c for n in (1, 2, 3) for c in combinations(range(3), n)]
    ratios = []
    for seed in range(8):
        problem = one_layer(instance(seed, experts=4, banks=3, link=10.0, steps=30), room=3.0)
        every = (tuple((home,) for home in homes) for homes in product(sets, repeat=4))
        best = min(mean_seconds(problem, placed) for placed in every)
        ratios.append(solve_layer(problem, seed, work=1_000_000).objective / best)
    assert np.mean(ratios) < 1.05


def test_step_time_by_hand():
    """Two tokens, experts {0, 1} and {1, 2}; expert 0 over banks 0–1, 1 in bank 1, 2 in bank 2; 3 is not used.

    Bank 1 reads 50 + 100 bytes at 100 B/s: 1.5 s. Token 0 hears banks 0, 1, token 1 banks 1, 2: 4 sums · 2 B / 50 B/s.
    """
    layer = Layer("l", 4, 50, 100, np.array([[[0, 1], [1, 2]]]))
    rates = Rates(3, 1000, 100.0, 50.0, 10.0, 2)
    placed = (((0, 1),), ((1,),), ((2,),), ((0,),))
    everything = np.full(4, ALL)
    assert step_seconds(rates, layer, everything, placed)[0] == pytest.approx(1.5)
    slow = replace(rates, link_bytes_per_second=4.0)
    assert step_seconds(slow, layer, everything, placed)[0] == pytest.approx(4 * 2 / 4.0)
    part = np.array([ALL, MSB, NONE, NONE])
    partly = (((0, 1),), ((1,),), (), ())
    assert missing_bytes(layer, part, layer.routing)[0] == 50 + 100
    assert step_seconds(rates, layer, part, partly)[0] == pytest.approx(150 / 10.0)


def test_sharding_over_all_banks_is_proved_optimal_on_a_fast_link():
    problem = instance(1, experts=16, banks=8, link=1e9, k=4)
    solution = solve(problem)
    assert solution.objective == pytest.approx(solution.lower_bound)
    assert all(len(copy) == 8 for copies in solution.layers[0].replicas for copy in copies)
    assert solution.layers[0].stages == (("shard-8", solution.objective),), "said at once, without a search"


def test_where_popularity_is_skewed_hot_experts_lie_wide_and_cold_ones_narrow():
    """One token a step: it hears a wide group for the experts it is sure to choose, and few banks for the others."""
    random = np.random.default_rng(1)
    scores = -1.5 * np.log1p(np.arange(24)) + random.gumbel(size=(200, 1, 24))
    layer = Layer("l", 24, SIZE // 2, SIZE, np.argsort(-scores, axis=2)[:, :, :4], np.full(24, ALL))
    problem = Problem(Rates(8, 24 * SIZE // 8, 100.0, 10.0, 1e3, 2), (layer,))
    solution = solve(problem, 0, work=20_000_000)
    assert violations(problem, solution, chosen_replicas) == []
    best = min(s.objective for n in baselines.names(8) if (s := place_baseline(problem, n)) is not None)
    assert solution.objective < 0.95 * best
    widths = [len(copies[0]) for copies in solution.layers[0].replicas]
    assert np.mean(widths[:6]) > np.mean(widths[-6:]), "experts are numbered by popularity"


def test_a_replica_is_made_where_it_pays():
    """Six experts in four banks that have room for twelve, any four of them at once, one a token."""
    random = np.random.default_rng(0)
    steps = np.stack([random.permutation(6)[:4] for _ in range(200)])[:, :, None]
    layer = Layer("l", 6, 50, 100, steps, np.full(6, ALL))
    problem = Problem(Rates(4, 300, 100.0, 10.0, 1e3, 2), (layer,))
    solution = solve(problem, 0, work=5_000_000)
    assert violations(problem, solution, chosen_replicas) == []
    stages = [name for name, _ in solution.layers[0].stages]
    without = dict(solution.layers[0].stages).get("local search", solution.layers[0].stages[0][1])
    assert "replicas" in stages
    assert solution.objective < without
    assert any(len(copies) > 1 for copies in solution.layers[0].replicas)


def test_what_hb_cannot_hold_is_what_the_fewest_steps_use():
    routing = np.array([[[0, 1]], [[0, 1]], [[0, 2]], [[0, 3]]])
    problem = Problem(Rates(2, 125, 100.0, 1e6, 10.0, 2), (Layer("l", 4, 50, 100, routing),))
    assert solve(problem).layers[0].residency.tolist() == [ALL, ALL, MSB, NONE]


def test_bytes_are_shared_out_between_layers():
    hot = Layer("hot", 4, 50, 100, np.array([[[0]], [[1]], [[2]], [[3]]]))
    cold = Layer("cold", 4, 50, 100, np.array([[[0]], [[0]], [[0]], [[0]]]))
    solution = solve(Problem(Rates(2, 100, 100.0, 1e6, 10.0, 2), (hot, cold)))
    assert solution.layers[1].residency.tolist() == [ALL, NONE, NONE, NONE], "used in every step"
    assert (solution.layers[0].residency == ALL).sum() == 1


def test_no_room_at_all_leaves_everything_outside():
    problem = instance(3, room=0.0)
    solution = solve(problem)
    assert violations(problem, solution, chosen_replicas) == []
    assert all(copies == () for copies in solution.layers[0].replicas)


def test_layers_share_banks_where_one_alone_would_not_fit():
    """One expert a layer, larger than a layer's even share of a bank; whole experts of different layers interleave."""
    routing = np.tile(np.arange(2), (6, 1))[:, None, :]
    layers = tuple(Layer(f"l{n}", 2, 50, 100, routing, np.full(2, ALL)) for n in range(8))
    problem = Problem(Rates(4, 450, 100.0, 0.2, 1e3, 2), layers)
    solution = solve(problem, 0, work=500_000)
    assert violations(problem, solution, chosen_replicas) == []
    assert max(len(copy) for placed in solution.layers for copies in placed.replicas for copy in copies) == 1


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_offers_are_priced_exactly(seed):
    """What the windows say a run costs is what the closed form says."""
    problem = one_layer(instance(seed, experts=5, banks=6, steps=5, tokens=3, link=30.0), room=9.0)
    random = np.random.default_rng(seed)
    homes = [run(int(random.integers(6)), int(random.choice(run_lengths(6))), 6) for _ in range(5)]
    start = tuple((home,) for home in homes)
    state = State(problem, problem.layer.routing, start, np.zeros(5))
    assert state.seconds == pytest.approx(step_seconds(problem.rates, problem.layer, problem.residency, start))
    expert = int(random.integers(5))
    steps = state.visits.steps[expert]
    if not len(steps):
        return
    state.remove(expert)
    offers = state.offers(expert)
    for offer in random.permutation(len(offers.starts))[:6]:
        moved = [*homes]
        moved[expert] = offers.banks(int(offer), 6)
        told = step_seconds(problem.rates, problem.layer, problem.residency, tuple((home,) for home in moved))
        assert offers.seconds[offer] == pytest.approx(told[steps])


def test_significance():
    assert is_significant(np.array([1.0])) is False
    assert is_significant(np.array([1.0, 1.0]))
    assert not is_significant(np.array([3.0, -2.9]))
    assert not is_significant(np.zeros(3))


def test_the_same_seed_gives_the_same_answer_in_any_number_of_processes():
    problem = instance(5, experts=12, banks=4, link=4.0, layers=3, steps=30)
    one, two = solve(problem, 3, jobs=1, work=300_000), solve(problem, 3, jobs=2, work=300_000)
    assert [p.replicas for p in one.layers] == [p.replicas for p in two.layers]
    assert one.objective == two.objective


@pytest.mark.parametrize("name", baselines.names(8))
def test_baselines_place_every_expert_within_the_limit(name):
    problem = instance(2, experts=24, banks=8, steps=40, tokens=4, room=1.5)
    placed = place_baseline(problem, name)
    assert placed is not None
    assert violations(problem, placed, chosen_replicas) == []
    lengths = {len(copy) for copies in placed.layers[0].replicas for copy in copies}
    if name.startswith("shard-"):
        assert lengths == {int(name.removeprefix("shard-"))}
    else:
        assert lengths == {1}


def test_eplb_replicates_the_heaviest_and_never_twice_in_a_bank():
    routing = np.array([[[0, 1]], [[0, 2]], [[0, 3]], [[0, 1]]])
    layer = Layer("l", 4, 50, 100, routing)
    problem = LayerProblem(Rates(4, 200, 1.0, 1.0, 1.0, 1), layer, np.full(4, ALL), 200.0, 450.0)
    placed = baselines.place("eplb-replicas", problem)
    # Tokens 4, 2, 1, 1; the largest load per replica (first of equals): 0, 0, 1, 0.
    assert [len(copies) for copies in placed] == [4, 2, 1, 1]
    assert all(len(set(copies)) == len(copies) for copies in placed)


def test_lpt_by_hand():
    """Loads 4, 3, 2, 2, 1 (in steps): bank 0 gets 4 then 1 or 2; makespans of LPT are 6 and 6."""
    steps = [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 4, -1], [0, -1, -1, -1]]
    layer = Layer("l", 5, 50, 100, np.array(steps)[:, None, :])
    problem = LayerProblem(Rates(2, 500, 1.0, 1.0, 1.0, 1), layer, np.full(5, ALL), 500.0, 0.0)
    placed = baselines.place("lpt", problem)
    assert placed == (((0,),), ((1,),), ((1,),), ((0,),), ((1,),))


def test_unknown_baseline_is_named():
    with pytest.raises(InputError, match="valid on 4 banks: contiguous"):
        place_baseline(instance(0), "best")


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("rates", {"banks": 0}, "banks"),
        ("rates", {"bank_bytes_per_second": float("nan")}, "bank_bytes_per_second"),
        ("rates", {"link_bytes_per_second": float("inf")}, "link_bytes_per_second"),
        ("rates", {"external_bytes_per_second": -1.0}, "external_bytes_per_second"),
        ("rates", {"bank_capacity_bytes": -1}, "bank_capacity_bytes"),
        ("rates", {"partial_sum_bytes": 0}, "partial_sum_bytes"),
        ("layer", {"msb_bytes": 0}, "slices"),
        ("layer", {"msb_bytes": 101}, "slices"),
        ("layer", {"routing": np.zeros((1, 1), dtype=np.int64)}, "routing"),
        ("layer", {"routing": np.full((1, 1, 1), 6)}, "outside"),
        ("layer", {"routing": np.full((1, 1, 1), np.nan)}, "integers"),
        ("layer", {"residency": np.array([1])}, "residency"),
        ("layer", {"residency": np.full(6, ALL), "whole_bytes": 10**6}, "does not fit"),
    ],
)
def test_malformed_problems_are_refused(part, change, says):
    problem = instance(0)
    good = problem.rates if part == "rates" else problem.layers[0]

    def build():
        changed = replace(good, **change)
        return changed if part == "rates" else replace(problem, layers=(changed,))

    with pytest.raises((InputError, InfeasibleError), match=says):
        build()


def test_checker_sees_every_kind_of_error():
    problem = instance(3, layers=2)
    good = solve(problem, work=100_000)
    assert violations(problem, good, chosen_replicas) == []
    first = good.layers[0]
    beyond = ((((0, 9),)), *first.replicas[1:])
    for bad in (
        replace(first, replicas=((), *first.replicas[1:])),
        replace(first, replicas=(((),), *first.replicas[1:])),
        replace(first, replicas=(beyond[0], *first.replicas[1:])),
        replace(first, replicas=((first.replicas[0][0],) * 2, *first.replicas[1:])),
        replace(first, replicas=first.replicas[1:]),
        replace(first, residency=np.full(6, NONE)),
        replace(first, objective=first.objective * 0.5),
        replace(first, lower_bound=first.objective * 2),
        replace(first, greedy=first.objective * 0.5),
        replace(first, baseline=("lpt", first.objective * 0.5)),
    ):
        assert violations(problem, replace(good, layers=(bad, good.layers[1])), chosen_replicas)
    assert violations(problem, replace(good, layers=good.layers[:1]), chosen_replicas)
    full = replace(problem, rates=replace(problem.rates, bank_capacity_bytes=10))
    assert any("holds" in text for text in violations(full, good, chosen_replicas))


def test_limits_leave_room_for_every_layer():
    problem = instance(0, layers=3, room=1.2)
    layers = layer_problems(problem, [np.full(6, ALL)] * 3, 1.0)
    assert layers[0].bank_limit_bytes == pytest.approx(6 * SIZE / 4 + 0.2 * 3 * 6 * SIZE / 4)
    assert layer_problems(problem, [np.full(6, ALL)] * 3, 0.0)[0].bank_limit_bytes == 6 * SIZE / 4
