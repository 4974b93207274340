from dataclasses import replace

import numpy as np
import pytest
from moe_passes.plan.decisions import ALL, NONE
from moe_passes.plan.errors import InputError
from moe_passes.solve.placement.check import violations
from moe_passes.solve.placement.problem import Layer, Problem, Rates
from moe_passes.solve.placement.replan import Plan, moved_bytes, replan
from moe_passes.solve.placement.solver import place_baseline, solve
from moe_passes.solve.placement.step_time import chosen_replicas

SIZE = 100


def problem(seed=0, room=2.0, external=1e9, link=4.0):
    random = np.random.default_rng(seed)
    layers = tuple(Layer(f"l{n}", 12, 50, SIZE, random.random((60, 3, 12)).argsort(axis=2)[:, :, :3]) for n in range(2))
    return Problem(Rates(4, int(room * 2 * 12 * SIZE / 4), 100.0, link, external, 2), layers)


def plans(problem, name="contiguous"):
    return [Plan(placed.residency, placed.replicas) for placed in place_baseline(problem, name).layers]


def test_moved_bytes_by_hand():
    """Expert 0 goes from bank 0 to banks 0 and 1: half moves. Expert 1 goes from 1 to 2: all of it does."""
    layer = Layer("l", 2, 50, SIZE, np.array([[[0, 1]]]))
    here = Problem(Rates(3, 200, 1.0, 1.0, 1.0, 1), (layer,))
    old = [Plan(np.full(2, ALL), (((0,),), ((1,),)))]
    new = [Plan(np.full(2, ALL), (((0, 1),), ((2,),)))]
    assert moved_bytes(here, old, new) == 50 + 100
    assert moved_bytes(here, old, old) == 0


def test_more_budget_never_gives_a_worse_plan():
    instance = problem()
    old, last = plans(instance), np.inf
    for budget in (0, 100, 400, 10_000):
        result = replan(instance, old, budget, work=200_000)
        assert violations(instance, result.solution, chosen_replicas) == []
        assert result.moved_bytes <= budget
        assert result.solution.objective <= last
        last = result.solution.objective
    assert result.solution.objective < result.curve[0][1]
    moved = [point for point, _ in result.curve]
    assert moved == sorted(moved)


def test_with_any_budget_it_is_as_good_as_a_fresh_plan():
    instance = problem(seed=3, link=2.0)
    fresh = solve(instance, work=200_000)
    result = replan(instance, plans(instance), np.inf, work=200_000)
    assert violations(instance, result.solution, chosen_replicas) == []
    assert result.solution.objective <= fresh.objective * (1 + 1e-9)
    assert result.curve[-1][1] == pytest.approx(result.solution.objective)
    seconds = [seconds for _, seconds in result.curve]
    assert seconds == sorted(seconds, reverse=True), "more bytes never lose"


def test_the_plan_itself_moves_nothing():
    instance = problem(seed=3, link=2.0)
    fresh = solve(instance, work=200_000)
    old = [Plan(placed.residency, placed.replicas) for placed in fresh.layers]
    result = replan(instance, old, np.inf, work=200_000)
    assert result.solution.objective <= fresh.objective
    assert result.moved_bytes <= 0.25 * 2 * 12 * SIZE, "banks are numbered for the fewest bytes"


def test_without_budget_the_plan_stays():
    instance = problem()
    old = plans(instance)
    result = replan(instance, old, 0)
    assert [placed.replicas for placed in result.solution.layers] == [plan.replicas for plan in old]


def paired(banks, room, layers=1):
    """Experts 0 and 1 are used together, or 2 and 3, and so on: apart, a step takes 1 s, in one bank 2 s."""
    routing = np.array([[[2 * pair, 2 * pair + 1]] for pair in range(banks)] * 4)
    made = tuple(Layer(f"l{n}", 2 * banks, 50, SIZE, routing, np.full(2 * banks, ALL)) for n in range(layers))
    return Problem(Rates(banks, room * layers * SIZE, 100.0, 1e6, 1e9, 2), made)


def in_banks(*homes):
    return Plan(np.full(len(homes), ALL), tuple(((home,),) for home in homes))


def test_a_whole_layer_is_taken_over_where_single_experts_cannot_move():
    """Two layers of two pairs in one bank each; banks are full. A layer put right moves 200 B: 2 + 1 s of 2 + 2 s."""
    instance = paired(2, room=2, layers=2)
    old = [in_banks(0, 0, 1, 1)] * 2
    for budget, seconds in ((199, 4.0), (200, 3.0), (399, 3.0), (400, 2.0)):
        result = replan(instance, old, budget, work=200_000)
        assert violations(instance, result.solution, chosen_replicas) == []
        assert result.solution.objective == pytest.approx(seconds)
        assert result.moved_bytes == pytest.approx(100 * (4 - seconds) * 2)


def test_single_experts_move_where_the_budget_is_too_small_for_a_layer():
    """Two of three pairs lie in one bank each; one is taken apart for 100 B: (1 + 2 + 1) / 3 s of (2 + 2 + 1) / 3 s."""
    instance = paired(3, room=4)
    result = replan(instance, [in_banks(0, 0, 1, 1, 0, 1)], 100, work=200_000)
    assert violations(instance, result.solution, chosen_replicas) == []
    assert result.curve[0] == (0.0, pytest.approx(5 / 3))
    assert result.solution.objective == pytest.approx(4 / 3)
    assert result.moved_bytes == 100


def test_banks_of_a_fresh_plan_are_numbered_for_the_fewest_bytes():
    """The older plan is the fresh one with its banks turned round, and two experts exchanged: only these two move."""
    instance = paired(4, room=2)
    fresh = solve(instance, work=200_000)
    turned = [tuple((tuple(sorted((bank + 1) % 4 for bank in copy)),) for (copy,) in fresh.layers[0].replicas)]
    places = list(turned[0])
    partner = next(e for e in range(2, 8) if set(places[e][0]) == set(places[0][0]))
    places[1], places[partner] = places[partner], places[1]
    old = [Plan(np.full(8, ALL), tuple(places))]
    exchanged = moved_bytes(instance, old, [Plan(np.full(8, ALL), turned[0])])
    assert exchanged < moved_bytes(instance, old, [Plan(np.full(8, ALL), fresh.layers[0].replicas)])
    result = replan(instance, old, exchanged, work=200_000)
    assert violations(instance, result.solution, chosen_replicas) == []
    assert result.curve[0][1] > fresh.objective
    assert result.solution.objective == pytest.approx(fresh.objective)
    assert result.moved_bytes == exchanged


def test_residents_are_exchanged_for_those_that_more_steps_use():
    routing = np.array([[[2]], [[2]], [[1]], [[2]]])
    instance = Problem(Rates(2, 100, 100.0, 1e6, 10.0, 2), (Layer("l", 3, 50, SIZE, routing),))
    old = [Plan(np.array([ALL, ALL, NONE]), (((0,),), ((1,),), ()))]
    result = replan(instance, old, 100)
    assert result.solution.layers[0].residency.tolist() == [NONE, ALL, ALL]
    assert result.moved_bytes == 100
    assert replan(instance, old, 99).moved_bytes == 0


@pytest.mark.parametrize("seed", range(3))
def test_plans_with_replicas_are_held_to_banks_and_budget(seed):
    """Replicas fill the banks; whatever the budget, banks are not overfilled and no point of the curve is faster."""
    instance = problem(seed=seed, room=1.4, link=4.0)
    old = plans(instance, "eplb-replicas")
    assert any(len(copies) > 1 for plan in old for copies in plan.replicas)
    for budget in (0, 150, 400, 1_000, np.inf):
        result = replan(instance, old, budget, work=200_000)
        assert violations(instance, result.solution, chosen_replicas) == []
        assert result.moved_bytes <= budget
        assert result.solution.objective == pytest.approx(result.curve[-1][1])


def test_residents_are_not_exchanged_where_that_is_slower():
    """Expert 2 is used more than 1, but its steps wait for the link: no point of the curve beats the plan."""
    random = np.random.default_rng(5)
    routing = random.random((60, 3, 12)).argsort(axis=2)[:, :, :3]
    instance = Problem(Rates(4, 200, 100.0, 4.0, 200.0, 2), (Layer("l", 12, 50, SIZE, routing),))
    kept = [(((e % 4,),) if e < 8 else ()) for e in range(12)]
    old = [Plan(np.where(np.arange(12) < 8, ALL, NONE), tuple(kept))]
    result = replan(instance, old, np.inf, work=200_000)
    assert violations(instance, result.solution, chosen_replicas) == []
    assert result.solution.objective == pytest.approx(min(seconds for _, seconds in result.curve))


def test_foreign_plans_are_refused():
    instance = problem()
    old = plans(instance)
    small = replace(instance, rates=replace(instance.rates, bank_capacity_bytes=100))
    for wrong, where, says in (
        (old[:1], instance, "has 1 layers"),
        ([old[0], Plan(old[0].residency[:3], old[0].replicas[:3])], instance, "has 3 experts"),
        ([old[0], Plan(np.full(12, NONE), old[0].replicas)], instance, "in banks but not resident"),
        ([old[0], Plan(old[0].residency, (((7,),), *old[0].replicas[1:]))], instance, "beyond the 4"),
        (old, small, "puts"),
    ):
        with pytest.raises(InputError, match=says):
            replan(where, wrong, 0)
