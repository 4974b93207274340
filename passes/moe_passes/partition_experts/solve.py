"""partition-experts: the best uniform sharding, then a seeded local search that re-shards and moves single experts."""

import numpy as np

from moe_passes.partition_experts.bound import lower_bound, mean_step_seconds
from moe_passes.partition_experts.problem import Problem, Shard, Solution

MOST_MOVES = 60
"""Local search moves tried per layer."""


def solve(problem: Problem, seed: int = 0) -> Solution:
    """Place one layer's resident experts.

    Never worse than the greedy baseline: whole experts, longest processing time first on mean load; where whole experts
    do not fit the banks, the baseline is sharding over all banks, which always fits.
    """
    bound = lower_bound(problem)
    options = {count: place_uniformly(problem, count) for count in shard_counts(problem.banks)}
    placed = {count: shards for count, shards in options.items() if shards is not None}
    scores = {count: mean_step_seconds(problem, shards) for count, shards in placed.items()}
    best_count = min(scores, key=lambda count: (scores[count], -count))
    greedy = scores.get(1, scores[problem.banks])
    shards, objective = placed[best_count], scores[best_count]
    if objective > bound * (1 + 1e-9):
        shards, objective = _improve(problem, shards, objective, seed)
    return Solution(tuple(shards), objective, min(bound, objective), greedy)


def shard_counts(banks: int) -> list[int]:
    """Return the powers of two that divide the number of banks, and that number itself."""
    counts = [1]
    while banks % (2 * counts[-1]) == 0:
        counts.append(2 * counts[-1])
    return sorted({*counts, banks})


def place_uniformly(problem: Problem, count: int) -> list[Shard] | None:
    """Shard every resident expert over `count` banks, longest processing time first; None if it does not fit."""
    groups = problem.banks // count
    load, held = np.zeros(groups), np.zeros(groups)
    weight = (
        problem.steps.any(axis=1).mean(axis=0) * problem.expert_bytes if len(problem.steps) else problem.expert_bytes
    )
    shards = []
    for expert in np.argsort(-weight, kind="stable"):
        size = int(problem.expert_bytes[expert])
        if not size:
            continue
        # All banks together always have room (checked at the door); rounding must not say otherwise.
        room = held + size / count <= problem.bank_capacity_bytes + (1 if groups == 1 else 0)
        if not room.any():
            return None
        group = int(np.argmin(np.where(room, load, np.inf)))
        load[group] += weight[expert]
        held[group] += size / count
        shards.append(Shard(int(expert), group * count, count))
    return sorted(shards, key=lambda shard: shard.expert)


def _improve(problem: Problem, shards: list[Shard], objective: float, seed: int) -> tuple[list[Shard], float]:
    """Move or re-shard one expert at a time; keep what helps."""
    random = np.random.default_rng(seed)
    counts = shard_counts(problem.banks)
    held = np.zeros(problem.banks)
    for shard in shards:
        held[shard.first : shard.first + shard.count] += problem.expert_bytes[shard.expert] / shard.count
    for _ in range(MOST_MOVES if len(shards) else 0):
        index = int(random.integers(len(shards)))
        count = counts[int(random.integers(len(counts)))]
        old = shards[index]
        new = Shard(old.expert, count * int(random.integers(problem.banks // count)), count)
        size = problem.expert_bytes[old.expert]
        moved = held.copy()
        moved[old.first : old.first + old.count] -= size / old.count
        moved[new.first : new.first + new.count] += size / new.count
        if (moved > problem.bank_capacity_bytes + 1).any():
            continue
        candidate = [*shards[:index], new, *shards[index + 1 :]]
        score = mean_step_seconds(problem, candidate)
        if score < objective:
            shards, objective, held = candidate, score, moved
    return shards, objective
