"""Every stage of the search gains somewhere, every move does what no other can, and bounds are as derived by hand."""

from dataclasses import replace

import numpy as np
import pytest
from moe_passes.plan.decisions import ALL, MSB, NONE
from moe_passes.solve.placement import exact
from moe_passes.solve.placement.assemble import numbering
from moe_passes.solve.placement.bound import any_residency_bound, lower_bound
from moe_passes.solve.placement.check import violations
from moe_passes.solve.placement.cluster import cluster, tighten
from moe_passes.solve.placement.problem import Layer, LayerProblem, Placement, Problem, Rates, Solution
from moe_passes.solve.placement.replicate import replicate
from moe_passes.solve.placement.residency import most_popular
from moe_passes.solve.placement.search import State, exchange, rebuild, relocate, search
from moe_passes.solve.placement.solver import solve_layer
from moe_passes.solve.placement.starts import starts
from moe_passes.solve.placement.step_time import chosen_replicas, mean_seconds, step_seconds

SIZE = 100
FAST = 1e9


def layer_problem(routing, banks, room, link=FAST, spare=0.0, experts=None):
    """Experts of 100 B, banks of 100 B/s that hold `room` experts each; sums of 2 B."""
    experts = int(routing.max()) + 1 if experts is None else experts
    layer = Layer("l", experts, SIZE // 2, SIZE, routing)
    rates = Rates(banks, int(room * SIZE), 100.0, link, FAST, 2)
    return LayerProblem(rates, layer, np.full(experts, ALL), room * SIZE, spare)


def drawn(seed, experts, banks, steps, tokens, k, room, link=FAST):
    """Random routing; banks hold `room` times an even spread, and replicas may take what is left."""
    routing = np.random.default_rng(seed).random((steps, tokens, experts)).argsort(axis=2)[:, :, :k]
    return layer_problem(routing, banks, room * experts / banks, link, (room - 1) * experts * SIZE)


def state(problem, homes):
    """Start with every expert in one bank, or on a run of banks."""
    placed = tuple(((home,) if isinstance(home, int) else home,) for home in homes)
    return State(problem, problem.layer.routing, placed, np.zeros(len(problem.layer.routing)))


def is_valid(problem, replicas):
    """Check a placement of one layer with the checker, at what it claims to cost."""
    seconds = mean_seconds(problem, replicas)
    placement = Placement(problem.residency, replicas, seconds, 0.0, seconds, ("none", seconds), (), seconds)
    whole = Problem(problem.rates, (problem.layer,))
    return violations(whole, Solution((placement,), 0), chosen_replicas) == []


def moves(state, kinds=(relocate, exchange)):
    """Make moves while one gains."""
    while sum(move(state, expert) for move in kinds for expert in range(len(state.sizes))):
        pass


def every_step(*experts, count=4):
    return np.array([[list(experts)]] * count)


@pytest.mark.parametrize(
    ("seed", "gains"),
    [
        (37, {"groups", "CP-SAT", "replicas"}),
        (3, {"groups", "local search", "replicas"}),
        (39, {"local search", "CP-SAT", "replicas"}),
    ],
)
def test_every_stage_of_the_search_gains_somewhere(seed, gains):
    """Twelve experts in six banks with room for half of them once more; a link that lets no one spread them all."""
    problem = drawn(seed, 12, 6, steps=40, tokens=3, k=3, room=1.5, link=12.0)
    found = solve_layer(problem, seed, 400_000)
    names, seconds = zip(*found.stages, strict=True)
    assert names[1:] == ("groups", "local search", "CP-SAT", "replicas")
    assert {name for n, name in enumerate(names) if n and seconds[n] < seconds[n - 1] * (1 - 1e-9)} == gains
    assert found.objective == seconds[-1] == pytest.approx(mean_seconds(problem, found.replicas))
    assert is_valid(problem, found.replicas)
    assert found.lower_bound <= found.objective < found.baseline[1]


def test_an_expert_is_relocated_to_the_bank_that_is_free():
    """Two experts of 1 s in one bank of two; in both banks, the first would still add half a second to the other."""
    problem = layer_problem(every_step(0, 1), 2, room=2)
    start = state(problem, (0, 0))
    assert start.seconds.tolist() == [2.0] * 4
    assert relocate(start, 0)
    assert start.replicas() == (((1,),), ((0,),))
    assert start.seconds.tolist() == [1.0] * 4
    assert not relocate(start, 0)
    assert not relocate(start, 1)


def test_where_banks_are_full_experts_change_places():
    """0 and 1 are used together, 2 and 3, too; two banks of two experts: only an exchange takes such pairs apart."""
    problem = layer_problem(np.array([[[0, 1]], [[2, 3]]] * 3), 2, room=2)
    start = state(problem, (0, 0, 1, 1))
    assert not any(relocate(start, expert) for expert in range(4))
    assert start.seconds.tolist() == [2.0] * 6
    assert exchange(start, 0)
    assert start.seconds.tolist() == [1.0] * 6
    assert is_valid(problem, start.replicas())
    assert not any(exchange(start, expert) for expert in range(4))


FULL = {"experts": 6, "banks": 3, "steps": 10, "tokens": 1, "k": 3, "room": 1.0}
"""Six experts fill three banks. Three experts a step take 1 s at least: 300 B from three banks of 100 B/s."""


def stuck(seed):
    """Experts dealt out to full banks, after all moves of one and of two."""
    problem = drawn(seed, **FULL)
    found = state(problem, (0, 1, 2, 0, 1, 2))
    moves(found)
    assert not any(move(found, expert) for move in (relocate, exchange) for expert in range(6))
    return problem, found


def test_rebuilding_a_part_gains_where_moves_of_one_and_two_do_not():
    problem, found = stuck(12)
    assert found.seconds.mean() == pytest.approx(1.5)
    random = np.random.default_rng(0)
    gains = [rebuild(found, random) for _ in range(100)]
    assert any(gains)
    assert not all(gains)
    assert found.seconds.mean() == pytest.approx(1.0) == lower_bound(problem)
    assert is_valid(problem, found.replicas())


def test_a_rebuilding_that_gains_nothing_leaves_everything_as_it_was():
    problem, found = stuck(5)
    before = found.replicas()
    random = np.random.default_rng(0)
    assert not any(rebuild(found, random) for _ in range(20))
    assert found.replicas() == before
    assert found.seconds == pytest.approx(step_seconds(problem.rates, problem.layer, problem.residency, before))


def test_cp_sat_gains_where_local_search_does_not():
    """Searches from two seeds end at 1.25 s; the shortest is 1 s."""
    problem, found = stuck(5)
    for seed in range(2):
        search(found, seed, 10_000_000)
        assert found.seconds.mean() == pytest.approx(1.25)
    exact.improve(found, 5)
    assert found.seconds.mean() == pytest.approx(1.0) == lower_bound(problem)
    assert is_valid(problem, found.replicas())
    exact.improve(found, 5)
    assert found.seconds.mean() == pytest.approx(1.0), "what is best stays"


def test_search_relocates_exchanges_and_rebuilds():
    """From all in one bank, from pairs that are used together in full banks, and from where single moves are stuck."""
    loose = layer_problem(every_step(0, 1, 2, 3), 4, room=4)
    found = state(loose, (0, 0, 0, 0))
    search(found, 0, 1_000_000)
    assert found.seconds.tolist() == [1.0] * 4
    pairs = layer_problem(np.array([[[0, 1]], [[2, 3]]] * 3), 2, room=2)
    found = state(pairs, (0, 0, 1, 1))
    search(found, 0, 1_000_000)
    assert found.seconds.tolist() == [1.0] * 6
    _, found = stuck(12)
    search(found, 0, 10_000_000)
    assert found.seconds.mean() == pytest.approx(1.0)


def test_search_stops_when_its_work_is_done():
    problem = drawn(3, 12, 6, steps=40, tokens=3, k=3, room=1.5, link=12.0)
    found = state(problem, [0, 1] * 6)
    before = found.replicas()
    search(found, 0, 0)
    assert found.replicas() == before


def test_a_copy_is_made_of_what_the_busiest_banks_owe_most_to():
    """0 is in every step, with 1 or with 2, which lie beside it in turn: a copy of 0 makes one second of two.

    Banks 0 and 1 hold 0 and 1, 2 and 3; 0 and 1 together take 2 s, 0 and 2 take 1 s.
    """
    problem = layer_problem(np.array([[[0, 1]], [[0, 2]]] * 4), 2, room=3, spare=SIZE)
    start = state(problem, (0, 0, 1))
    assert start.seconds.tolist() == [2.0, 1.0] * 4
    copied = replicate(problem, start, start.replicas(), 0, 10**9)
    assert sorted(len(copies) for copies in copied) == [1, 1, 2]
    assert mean_seconds(problem, copied) == pytest.approx(1.0)
    assert is_valid(problem, copied)
    full = replicate(replace(problem, spare_bytes=0.0), start, start.replicas(), 0, 10**9)
    assert all(len(copies) == 1 for copies in full), "without spare bytes, none"
    assert replicate(problem, start, start.replicas(), 0, 0) == start.replicas(), "without work, none"


def test_copies_of_an_expert_share_no_bank():
    """Every expert on half of the banks, and room for as much again: runs that overlap it would gain here."""
    problem = drawn(3, 8, 6, 40, 4, 2, room=2.0)
    start = state(problem, [(0, 1, 2), (3, 4, 5)] * 4)
    copies = replicate(problem, start, start.replicas(), 0, 10**7)
    assert any(len(homes) > 1 for homes in copies)
    assert not any(set(one) & set(other) for homes in copies for one in homes for other in homes if one != other)


def test_the_check_refuses_copies_that_share_a_bank():
    problem = drawn(3, 2, 3, 4, 2, 1, room=3.0)
    assert is_valid(problem, (((0, 1), (2,)), ((0,),)))
    assert not is_valid(problem, (((0, 1), (1, 2)), ((0,),)))


def test_clusters_are_a_start_where_the_link_decides():
    """Tokens choose 0 and 1 or 2 and 3; a token hears one group of two banks instead of two, if pairs lie together."""
    problem = layer_problem(np.array([[[0, 1]], [[2, 3]]] * 4), 4, room=1, link=1.0)
    routing = problem.layer.routing
    found = [start for start in starts(problem, routing, np.zeros(8)) if start.widths == (2, 2)]
    assert {start.clustered for start in found} == {False, True}
    best = min(found, key=lambda start: start.seconds)
    assert best.clustered
    assert best.seconds == pytest.approx(2 * 2 / 1.0), "two sums of 2 B at 1 B/s; of pairs that lie apart, four"
    assert cluster(problem, routing, (2, 2), full=False) == best.replicas
    apart = (((0,),), ((1,),), ((0,),), ((1,),))
    assert tighten(problem, routing, apart, (2, 2)) in (best.replicas, (((1,),), ((1,),), ((0,),), ((0,),)))


def test_bound_of_a_layer_by_hand():
    """Four experts, one token a step that uses two of them: 200 B from four banks of 100 B/s take half a second.

    A sum takes 2 B / 8 B/s = ¼ s: from two banks, reading takes 1 s and the sums ½ s; from three, 2/3 s and ¾ s; so
    ¾ s is the least. What is not resident, 50 B of the second one, takes 2 s at 25 B/s.
    """
    problem = layer_problem(every_step(0, 1), 4, room=4, experts=4)
    assert lower_bound(problem) == pytest.approx(0.5)
    slow = replace(problem, rates=replace(problem.rates, link_bytes_per_second=8.0))
    assert lower_bound(slow) == pytest.approx(0.75)
    far = replace(problem, rates=replace(problem.rates, external_bytes_per_second=25.0))
    assert lower_bound(replace(far, residency=np.array([ALL, MSB, ALL, ALL]))) == pytest.approx(2.0)


def test_bound_over_all_residencies_by_hand():
    """Expert 0 is used in each of four steps, 1 in two, 2 and 3 in one; together 2 experts, 200 B, a step.

    HB holds 150 B: expert 0 and half of 1. What is missing: half of 1 in half of the steps, 25 B, and 2 and 3 in a
    quarter of them, 50 B: 75 B at 10 B/s take 7.5 s. At 1,000 B/s, all channels together, 2 · 100 + 1,000 B/s, move 200
    B a step; loading takes 75 / 1,000 s.
    """
    routing = np.array([[[0, 1]], [[0, 1]], [[0, 2]], [[0, 3]]])
    layer = Layer("l", 4, SIZE // 2, SIZE, routing)
    rates = Rates(2, 75, 100.0, FAST, 10.0, 2)
    assert any_residency_bound(Problem(rates, (layer,))) == pytest.approx(7.5)
    fast = replace(rates, external_bytes_per_second=1000.0)
    assert any_residency_bound(Problem(fast, (layer,))) == pytest.approx(200 / 1200)
    twice = Problem(replace(rates, bank_capacity_bytes=125), (layer, layer))
    # Of 250 B, both experts 0 and half of an expert 1: 25 + 50 and 50 + 50 B are missing.
    assert any_residency_bound(twice) == pytest.approx(17.5)


def test_the_most_popular_of_all_layers_are_kept():
    """Tokens of layer a: 0 three times, 1 twice, 2 once; of b: 0 and 1 three times. 250 B: three wholes would be 300.

    Those used three times come first, in order: a 0, b 0, and of b 1 the slice of 50 B. With half of that, a 0 alone.
    """
    a = Layer("a", 3, SIZE // 2, SIZE, np.array([[[0, 1]], [[0, 1]], [[0, 2]]]))
    b = Layer("b", 3, SIZE // 2, SIZE, np.array([[[0, 1]], [[0, 1]], [[0, 1]]]))
    problem = Problem(Rates(2, 125, 100.0, FAST, 10.0, 2), (a, b))
    assert [levels.tolist() for levels in most_popular(problem)] == [[ALL, NONE, NONE], [ALL, MSB, NONE]]
    assert [levels.tolist() for levels in most_popular(problem, 0.4)] == [[ALL, NONE, NONE], [NONE, NONE, NONE]]


def test_layers_are_numbered_to_fit():
    """Both have 9 in their first bank; 12 B are enough if one of them is turned round."""
    held = np.array([[9.0, 3.0], [9.0, 3.0]])
    found = numbering(held, 12.0)
    assert found is not None
    assert sorted(map(tuple, found.tolist())) == [(0, 1), (1, 0)]
    assert numbering(held, 11.0) is None
