"""The cost of a placement in partition-experts' closed form, and a lower bound over all placements.

Bound, for one step with distinct resident bytes W, tokens t and each token's experts: the busiest bank reads at
least the mean W / banks; and every token that uses a resident expert hears from at least one bank. So

    step ≥ max(W / (banks · bank bandwidth), (tokens with a resident expert) · partial sum / link bandwidth).

Both hold for any sharding, so the mean over steps of the right side bounds the objective. It is reached exactly by
sharding every expert over all banks whenever the link is not the longer of the two there.
"""

import numpy as np

from moe_passes.partition_experts.problem import Problem, Shard


def lower_bound(problem: Problem) -> float:
    """Return a proved lower bound on the mean seconds of a training step."""
    distinct = problem.steps.any(axis=1)
    mean_bank = distinct @ problem.expert_bytes / problem.banks / problem.bank_bytes_per_second
    heard = (problem.steps & (problem.expert_bytes > 0)).any(axis=2).sum(axis=1)
    link = heard * problem.partial_sum_bytes / problem.link_bytes_per_second
    return float(np.maximum(mean_bank, link).mean()) if len(mean_bank) else 0.0


def mean_step_seconds(problem: Problem, shards: list[Shard]) -> float:
    """Return the mean seconds of a training step under a placement."""
    if not len(problem.steps):
        return 0.0
    share = np.zeros((len(problem.expert_bytes), problem.banks))
    for shard in shards:
        share[shard.expert, shard.first : shard.first + shard.count] = 1 / shard.count
    busiest = (problem.steps.any(axis=1) @ (share * problem.expert_bytes[:, None])).max(axis=1)
    return float(np.maximum(busiest / problem.bank_bytes_per_second, _link_seconds(problem, share)).mean())


def _link_seconds(problem: Problem, share: np.ndarray) -> np.ndarray:
    heard = (problem.steps.reshape(-1, problem.steps.shape[2]).astype(np.float32) @ (share > 0).astype(np.float32)) > 0
    per_step = heard.sum(axis=1).reshape(problem.steps.shape[:2]).sum(axis=1)
    return np.asarray(per_step * problem.partial_sum_bytes / problem.link_bytes_per_second)
