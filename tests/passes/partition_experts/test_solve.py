from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.errors import InputError
from moe_passes.partition_experts.bound import lower_bound, mean_step_seconds
from moe_passes.partition_experts.check import violations
from moe_passes.partition_experts.problem import Problem, Shard
from moe_passes.partition_experts.solve import shard_counts, solve


def problem(seed, experts=5, banks=4, steps=6, tokens=2, link=50.0, capacity=10_000, size=100):
    random = np.random.default_rng(seed)
    sizes = np.where(random.random(experts) < 0.8, size, 0)
    chosen = random.random((steps, tokens, experts)) < 0.4
    return Problem(banks, capacity, 100.0, link, 2, sizes, chosen & (sizes > 0))


@given(st.integers(0, 10_000), st.sampled_from([1.0, 20.0, 500.0]), st.sampled_from([1, 2, 4, 6]))
@settings(max_examples=80, deadline=None)
def test_every_placement_is_valid_and_bounded(seed, link, banks):
    instance = problem(seed, banks=banks, link=link)
    assert violations(instance, solve(instance, seed)) == []


@given(st.integers(0, 10_000), st.sampled_from([2.0, 20.0, 500.0]))
@settings(max_examples=25, deadline=None)
def test_bound_never_exceeds_brute_force_optimum(seed, link):
    instance = problem(seed, experts=4, banks=2, link=link)
    resident = [int(e) for e in np.flatnonzero(instance.expert_bytes)]
    options = [(0, 1), (1, 1), (0, 2)]
    best = min(
        mean_step_seconds(instance, [Shard(e, *choice) for e, choice in zip(resident, chosen, strict=True)])
        for chosen in product(options, repeat=len(resident))
    )
    assert lower_bound(instance) <= best * (1 + 1e-12)
    assert best <= solve(instance).objective * (1 + 1e-12)


def test_sharding_over_all_banks_is_proved_optimal_on_a_fast_link():
    solution = solve(problem(1, experts=16, banks=8, link=1e9))
    assert all(shard.count == 8 for shard in solution.shards)
    assert solution.objective == pytest.approx(solution.lower_bound)


def test_whole_experts_win_on_a_slow_link():
    instance = problem(1, experts=16, banks=8, link=0.5)
    sharded = [Shard(int(e), 0, 8) for e in np.flatnonzero(instance.expert_bytes)]
    solution = solve(instance)
    assert solution.objective < 0.5 * mean_step_seconds(instance, sharded)
    assert np.mean([shard.count == 1 for shard in solution.shards]) > 0.5


def test_capacity_is_respected():
    instance = problem(2, experts=8, banks=4, capacity=220, link=0.5)
    solution = solve(instance)
    assert violations(instance, solution) == []


def test_shard_counts():
    assert shard_counts(32) == [1, 2, 4, 8, 16, 32]
    assert shard_counts(12) == [1, 2, 4, 12]
    assert shard_counts(1) == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"banks": 0},
        {"bank_bytes_per_second": float("nan")},
        {"link_bytes_per_second": -1.0},
        {"expert_bytes": np.array([-1, 1])},
        {"expert_bytes": np.array([10**9, 1])},
        {"steps": np.zeros((1, 1, 3), dtype=bool)},
    ],
)
def test_malformed_problems_are_refused(change):
    base = {
        "banks": 2,
        "bank_capacity_bytes": 10,
        "bank_bytes_per_second": 1.0,
        "link_bytes_per_second": 1.0,
        "partial_sum_bytes": 2,
        "expert_bytes": np.array([1, 1]),
        "steps": np.zeros((1, 1, 2), dtype=bool),
    }
    with pytest.raises(InputError):
        Problem(**{**base, **change})


def test_checker_sees_every_kind_of_error():
    from dataclasses import replace

    instance = problem(3)
    good = solve(instance)
    assert violations(instance, good) == []
    first = good.shards[0]
    for bad in (
        replace(good, shards=good.shards[1:]),
        replace(good, shards=(*good.shards, first)),
        replace(good, shards=(replace(first, first=99), *good.shards[1:])),
        replace(good, objective=good.objective * 0.5),
        replace(good, lower_bound=good.objective * 2),
    ):
        assert violations(instance, bad)
