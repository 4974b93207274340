"""Groups of banks, clusters of experts in them, and what layers of whole experts stand for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.decisions import ALL
from moe_passes.solve.placement.cluster import _changes, _heard, cluster, tighten
from moe_passes.solve.placement.groups import groupings, refine, run_lengths
from moe_passes.solve.placement.problem import Layer, LayerProblem, Rates
from moe_passes.solve.placement.search import State, search
from moe_passes.solve.placement.starts import balance, starts
from moe_passes.solve.placement.step_time import heard, served, step_seconds

SIZE = 120


def layer_of(seed, experts=8, banks=8, steps=6, tokens=3, k=3, room=1.0, link=20.0):
    random = np.random.default_rng(seed)
    routing = random.random((steps, tokens, experts)).argsort(axis=2)[:, :, :k]
    limit = room * experts * SIZE / banks
    rates = Rates(banks, int(limit), 100.0, link, 1e9, 2)
    return LayerProblem(rates, Layer("l", experts, 60, SIZE, routing), np.full(experts, ALL), limit, 0.0)


@pytest.mark.parametrize("banks", [1, 2, 3, 5, 8, 16, 64])
def test_groupings_are_cuts_of_the_banks(banks):
    found = groupings(banks)
    assert len(set(found)) == len(found)
    for widths in found:
        assert min(widths) >= 1
        assert sum(widths) <= banks
    assert {widths[0] for widths in found} >= set(run_lengths(banks)[:-1])
    assert (2, 2, 2, 2) not in groupings(4)


def test_groups_are_refined_to_their_banks():
    assert refine((((0,),), ((2,), (1,)), ()), (3, 1, 2)) == (((0, 1, 2),), ((4, 5), (3,)), ())


@given(st.integers(0, 10_000), st.sampled_from([(2, 2, 2, 2), (4, 4), (4, 2, 1, 1), (6, 2), (3, 3)]))
@settings(max_examples=40, deadline=None)
def test_a_layer_of_groups_costs_what_it_stands_for(seed, widths):
    problem, random = layer_of(seed, room=9.0), np.random.default_rng(seed)
    placed = tuple(((int(random.integers(len(widths))),),) for _ in range(8))
    state = State(problem, problem.layer.routing, placed, np.zeros(6), widths)
    search(state, seed, 50_000)
    told = step_seconds(problem.rates, problem.layer, problem.residency, refine(state.replicas(), widths))
    assert state.seconds == pytest.approx(told)


@given(st.integers(0, 10_000), st.sampled_from([(2, 2, 2, 2), (4, 2, 1, 1)]))
@settings(max_examples=30, deadline=None)
def test_an_exchange_saves_the_partial_sums_that_the_table_says(seed, widths):
    problem, random = layer_of(seed), np.random.default_rng(seed)
    blocks = random.integers(len(widths), size=8)
    uses = np.zeros((18, 8), dtype=np.float32)
    np.put_along_axis(uses, problem.layer.routing.reshape(18, 3), 1.0, axis=1)
    width = np.array(widths, dtype=np.float32)
    table, before = _changes(uses, blocks, width), _heard(uses, blocks, width)
    for e in range(8):
        for f in range(8):
            if blocks[e] != blocks[f]:
                after = blocks.copy()
                after[e], after[f] = blocks[f], blocks[e]
                assert table[e, f] == pytest.approx(_heard(uses, after, width) - before)


def test_experts_that_are_chosen_together_lie_together():
    """Tokens choose 0 to 3 or 4 to 7: two groups of four banks, and each token hears one of them."""
    routing = np.array([[[0, 1, 2, 3]], [[4, 5, 6, 7]]] * 5)
    problem = LayerProblem(
        Rates(8, SIZE, 100.0, 20.0, 1e9, 2), Layer("l", 8, 60, SIZE, routing), np.full(8, ALL), SIZE, 0.0
    )
    placed = cluster(problem, routing, (4, 4), full=False)
    assert placed is not None
    assert len({placed[e] for e in range(4)}) == len({placed[e] for e in range(4, 8)}) == 1
    mixed = tuple(((group,),) for group in (0, 0, 0, 1, 0, 1, 1, 1))
    assert tighten(problem, routing, mixed, (4, 4)) == tuple(((e // 4,),) for e in range(8))
    by = served(refine(placed, (4, 4)), problem.sizes, routing, 8)
    assert heard(by).tolist() == [4] * 10


def test_clusters_that_do_not_fit_are_not_made():
    problem = layer_of(0, room=1.0)
    assert cluster(problem, problem.layer.routing, (3, 3), full=False) is None, "six of eight banks hold six of eight"
    assert balance(problem, (3, 3), np.ones(8)) is None


@given(st.integers(0, 10_000), st.sampled_from([1.0, 1.5]), st.sampled_from([2.0, 50.0]))
@settings(max_examples=20, deadline=None)
def test_starts_fit_and_are_priced_exactly(seed, room, link):
    problem = layer_of(seed, room=room, link=link)
    found = starts(problem, problem.layer.routing, np.zeros(6))
    assert found
    for start in found:
        placed = refine(start.replicas, start.widths)
        told = step_seconds(problem.rates, problem.layer, problem.residency, placed).mean()
        assert start.seconds == pytest.approx(told, rel=1e-5)
        held = np.zeros(8)
        for copies in placed:
            held[list(copies[0])] += SIZE / len(copies[0])
        assert held.max() <= problem.bank_limit_bytes + 1.0


def test_more_than_64_banks_are_heard():
    routing = np.array([[[0, 1]], [[1, -1]]])
    replicas = ((tuple(range(0, 130, 2)),), (tuple(range(129)),))
    assert heard(served(replicas, np.array([1.0, 1.0]), routing, 130)).tolist() == [129, 129]
