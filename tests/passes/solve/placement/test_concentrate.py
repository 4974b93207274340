"""Layers lie side by side where the link decides, computation is priced, and capacity bounds who keeps whom company."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.decisions import ALL
from moe_passes.solve.placement import solver as solving
from moe_passes.solve.placement.bound import lower_bound
from moe_passes.solve.placement.check import violations
from moe_passes.solve.placement.concentrate import narrowed, spans
from moe_passes.solve.placement.problem import Layer, LayerProblem, Problem, Rates, parts
from moe_passes.solve.placement.replicate import Copies, replicate
from moe_passes.solve.placement.search import State, run
from moe_passes.solve.placement.solver import layer_problems, solve
from moe_passes.solve.placement.step_time import chosen_replicas, mean_seconds, step_seconds

SIZE = 100


def drawn(seed, experts, layers, steps=12, tokens=6, k=4):
    random = np.random.default_rng(seed)
    return [random.random((steps, tokens, experts)).argsort(axis=2)[:, :, :k] for _ in range(layers)]


def full(layers, experts=16, banks=8, link=10.0, seed=0):
    """Layers that fill all banks: with 100 B/s a bank, and sums of 2 B at `link` B/s."""
    made = tuple(Layer(f"l{n}", experts, 50, SIZE, r) for n, r in enumerate(drawn(seed, experts, layers)))
    return Problem(Rates(banks, layers * experts * SIZE // banks, 100.0, link, 1e9, 2), made)


def test_layers_lie_side_by_side_where_the_link_decides(monkeypatch):
    problem = full(4, link=2.0)
    found = solve(problem, work=200_000)
    assert violations(problem, found, chosen_replicas) == []
    where = [{bank for copies in placed.replicas for copy in copies for bank in copy} for placed in found.layers]
    assert all(len(banks) == 2 for banks in where)
    assert set.union(*where) == set(range(8))
    assert all(placed.stages[-1][0] == "on 2 banks" for placed in found.layers)
    monkeypatch.setattr(solving, "spans", lambda layers: [None] * len(layers))
    assert found.objective < 0.7 * solve(problem, work=200_000).objective


def test_layers_use_all_banks_where_reading_decides():
    problem = full(4, link=1e6)
    assert spans(layer_problems(problem, [np.full(16, ALL)] * 4, 1.0)) == [None] * 4


def test_what_no_block_takes_forms_smaller_ones_or_uses_all_banks():
    problem = full(7, link=2.0)
    found = spans(layer_problems(problem, [np.full(16, ALL)] * 7, 1.0))
    widths = [span.width if span else 8 for span in found]
    assert widths == [2, 2, 2, 2, 4, 4, 8]
    assert [span.first for span in found[:6]] == [0, 2, 4, 6, 0, 4]


def test_a_narrowed_layer_has_the_same_slack():
    wide = LayerProblem(Rates(8, 400, 100.0, 1.0, 1e9, 2), full(1).layers[0], np.full(16, ALL), 230.0, 0.0)
    narrow = narrowed(wide, 2)
    assert (narrow.rates.banks, narrow.bank_limit_bytes) == (2, 830.0)


def test_company_bounds_the_link_by_hand():
    """Every pair of four experts once, two experts a bank: n(e) = 3, one companion of n = 1: 4 · 9 / 4 banks are heard.

    A bank's sum takes 2 B / 1 B/s: 9 · 2 / 6 = 3 s a step. The best placement, any two pairs, makes 10 of 9.
    """
    pairs = np.array(list(combinations(range(4), 2)))[:, None]
    rates = Rates(2, 2 * SIZE, 1e9, 1.0, 1e9, 2)
    problem = LayerProblem(rates, Layer("l", 4, 50, SIZE, pairs), np.full(4, ALL), 2 * SIZE, 0.0, 0.0)
    assert lower_bound(problem) == pytest.approx(3.0, rel=1e-2)
    assert mean_seconds(problem, (((0,),), ((0,),), ((1,),), ((1,),))) == pytest.approx(20 / 6)
    assert lower_bound(replace(problem, free_bytes=SIZE)) == pytest.approx(2.0), "with replicas, one bank a token"
    alone = replace(problem, rates=replace(rates, banks=4, bank_capacity_bytes=SIZE))
    assert lower_bound(alone) == pytest.approx(4.0), "one expert a bank: two sums each"


@given(st.integers(0, 10_000), st.sampled_from([1.0, 4.0, 50.0]), st.sampled_from([0.5, 5.0, 1e9]))
@settings(max_examples=40, deadline=None)
def test_no_placement_within_the_banks_beats_the_bound(seed, link, macs):
    """Every placement of four experts over two full banks or three with little to spare, computation priced or not."""
    random = np.random.default_rng(seed)
    banks = int(random.integers(2, 4))
    routing = random.random((4, 3, 4)).argsort(axis=2)[:, :, :2]
    capacity = 4 * SIZE // banks + int(random.integers(0, 40))
    rates = Rates(banks, capacity, 100.0, link, 1e9, 2, macs)
    layer = Layer("l", 4, 50, SIZE, routing, macs_per_token=1)
    problem = LayerProblem(rates, layer, np.full(4, ALL), capacity, 0.0, banks * capacity - 4 * SIZE)
    sets = [home for n in range(1, banks + 1) for home in combinations(range(banks), n)]
    placements = [tuple((home,) for home in homes) for homes in product(sets, repeat=4)]
    fitting = [p for p in placements if parts(p, problem.sizes, banks).max() <= capacity + 1]
    best = min(mean_seconds(problem, placed) for placed in fitting)
    assert lower_bound(problem) <= best * (1 + 1e-9)


def test_computation_by_hand():
    """Three tokens on expert 0, one of them on 1, too: 3 · 10 MACs at 5 MACs/s take 6 s.

    With 0 over both banks and 1 in the first, that one computes 3 s and 2 s. Reading takes 1 s.
    """
    layer = Layer("l", 2, 50, SIZE, np.array([[[0, 1], [0, -1], [0, -1]]]), macs_per_token=10)
    rates = Rates(2, 1000, 100.0, 1e9, 1e9, 2, 5.0)
    both = np.full(2, ALL)
    assert step_seconds(rates, layer, both, (((0,),), ((1,),)))[0] == pytest.approx(6.0)
    assert step_seconds(rates, layer, both, (((0, 1),), ((0,),)))[0] == pytest.approx(3.0 + 2.0)
    assert step_seconds(rates, layer, both, (((0, 1),), ((0, 1),)))[0] == pytest.approx(4.0)
    problem = LayerProblem(rates, layer, both, 1000.0, 0.0)
    assert lower_bound(problem) == pytest.approx(4.0)


@given(st.integers(0, 10_000), st.sampled_from([0.5, 2.0, 30.0]))
@settings(max_examples=30, deadline=None)
def test_the_search_prices_computation_as_the_closed_form_does(seed, macs):
    random = np.random.default_rng(seed)
    layer = Layer("l", 8, 50, SIZE, drawn(seed, 8, 1, k=2)[0], macs_per_token=1)
    problem = LayerProblem(Rates(4, 800, 100.0, 20.0, 1e9, 2, macs), layer, np.full(8, ALL), 400.0, 0.0)
    homes = [run(int(random.integers(4)), int(random.integers(1, 4)), 4) for _ in range(8)]
    state = State(problem, layer.routing, tuple((home,) for home in homes), np.zeros(len(layer.routing)))
    expected = step_seconds(problem.rates, layer, problem.residency, state.replicas())
    assert state.seconds == pytest.approx(expected)
    offers, steps = state.offers(3), state.visits.steps[3]
    chosen = int(random.integers(len(offers.starts)))
    state.remove(3)
    state.insert(3, offers.banks(chosen, 4))
    assert state.seconds[steps] == pytest.approx(offers.seconds[chosen])


def test_where_computation_decides_whole_experts_are_balanced_by_tokens():
    """Hundreds of tokens a step read every expert; what differs is how many tokens each of them computes."""
    random = np.random.default_rng(0)
    scores = -1.0 * np.log1p(np.arange(16)) + random.gumbel(size=(6, 400, 16))
    layer = Layer("l", 16, 50, SIZE, np.argsort(-scores, axis=2)[:, :, :2], macs_per_token=1)
    problem = Problem(Rates(8, 2 * SIZE, 100.0, 600.0, 1e9, 2, 40.0), (layer,))
    priced = solve(problem, work=300_000)
    free = solve(replace(problem, rates=replace(problem.rates, bank_macs_per_second=np.inf)), work=300_000)
    assert violations(problem, priced, chosen_replicas) == []
    of_free = step_seconds(problem.rates, layer, free.layers[0].residency, free.layers[0].replicas).mean()
    assert priced.objective < 0.9 * of_free


def copies_of(problem, homes):
    placed = tuple(tuple((bank,) for bank in banks) for banks in homes)
    state = State(problem, problem.layer.routing, placed, np.zeros(len(problem.layer.routing)))
    return Copies(problem, state, placed)


def whole(routing, banks, room, spare=0.0):
    experts = int(routing.max()) + 1
    layer = Layer("l", experts, 50, SIZE, routing)
    return LayerProblem(Rates(banks, room * SIZE, 100.0, 1e9, 1e9, 2), layer, np.full(experts, ALL), room * SIZE, spare)


def test_a_replica_moves_to_the_bank_that_is_free():
    found = copies_of(whole(np.array([[[0, 1]]] * 4), 2, room=2), [(0,), (0,)])
    assert found.relocate(0)
    assert found.replicas() == (((1,),), ((0,),))
    assert not found.relocate(0)


def test_replicas_change_places_where_banks_are_full():
    found = copies_of(whole(np.array([[[0, 1]], [[2, 3]]] * 3), 2, room=2), [(0,), (0,), (1,), (1,)])
    assert not any(found.relocate(expert) for expert in range(4))
    assert found.exchange(0)
    assert mean_seconds(found.problem, found.replicas()) == pytest.approx(1.0)


def test_a_copy_takes_the_place_of_one_that_serves_nobody():
    """0 and 1 share a bank and every step; a copy of 3, which no step uses, fills the other one."""
    problem = whole(np.array([[[0, 1]], [[2, 3]]])[[0, 0, 0, 0]], 2, room=3, spare=SIZE)
    problem = replace(problem, layer=replace(problem.layer, experts=4), residency=np.full(4, ALL))
    found = copies_of(problem, [(0,), (0,), (1,), (0, 1)])
    assert found.most_blamed(np.zeros(4, dtype=np.bool_)) is None, "nothing is spare"
    assert found.displace(0)
    assert found.replicas() in (
        (((0,), (1,)), ((0,),), ((1,),), ((0,),)),
        (((0,), (1,)), ((0,),), ((1,),), ((1,),)),
    )
    assert found.spare_bytes() == 0


def test_replicas_are_improved_beyond_replicating_first_and_packing_then():
    before = after = 0.0
    for seed in range(4):
        layer = Layer("l", 24, 50, SIZE, drawn(seed, 24, 1, steps=60, tokens=3, k=3)[0])
        problem = Problem(Rates(6, 700, 100.0, 1e6, 1e9, 2), (layer,))
        part = layer_problems(problem, [np.full(24, ALL)], 1.0)[0]
        packed = solving.baselines.place("eplb-steps", part)
        assert sum(map(len, packed)) == 42
        state = State(part, layer.routing, packed, np.zeros(60))
        improved = replicate(part, state, packed, 0, 10**8)
        assert parts(improved, part.sizes, 6).max() <= 701
        before, after = before + mean_seconds(part, packed), after + mean_seconds(part, improved)
    assert after < 0.98 * before


def test_a_copy_overlaps_no_other_of_its_expert():
    """0 over banks 0 and 1 shares the first with 2; banks 1 and 2 would be best, but hold half of it; 3 is 1's."""
    problem = whole(np.array([[[0, 1, 2]]] * 4), 4, room=3, spare=SIZE)
    placed = (((0, 1),), ((3,),), ((0,),))
    found = Copies(problem, State(problem, problem.layer.routing, placed, np.zeros(4)), placed)
    assert not found.add(0)
    assert found.replicas() == placed
