"""Independent check of a placement: every resident expert once, banks that exist, bytes per bank, objective."""

import numpy as np

from moe_passes.partition_experts.problem import Problem, Solution


def violations(problem: Problem, solution: Solution) -> list[str]:
    """Return everything that is wrong with a placement; empty if it is valid."""
    wrong = []
    held = [0.0] * problem.banks
    placed: dict[int, range] = {}
    for shard in solution.shards:
        if shard.count < 1 or shard.first < 0 or shard.first + shard.count > problem.banks:
            wrong.append(f"expert {shard.expert}: banks {shard.first} to {shard.first + shard.count - 1} do not exist")
            continue
        if shard.expert in placed:
            wrong.append(f"expert {shard.expert} is placed twice")
        placed[shard.expert] = range(shard.first, shard.first + shard.count)
        for bank in placed[shard.expert]:
            held[bank] += problem.expert_bytes[shard.expert] / shard.count
    resident = {n for n, size in enumerate(problem.expert_bytes) if size > 0}
    if resident != set(placed):
        wrong.append(f"experts {sorted(resident ^ set(placed))} are resident or placed, not both")
    for bank, size in enumerate(held):
        if size > problem.bank_capacity_bytes + 1:
            wrong.append(f"bank {bank} holds {size:.0f} of {problem.bank_capacity_bytes} bytes")
    if not wrong:
        seconds = _mean_seconds(problem, placed)
        if abs(seconds - solution.objective) > 1e-9 * max(seconds, 1e-12):
            wrong.append(f"objective is {solution.objective}, but the placement takes {seconds}")
    if not solution.lower_bound <= solution.objective * (1 + 1e-9) or solution.objective > solution.greedy * (1 + 1e-9):
        wrong.append("bound ≤ objective ≤ greedy does not hold")
    return wrong


def _mean_seconds(problem: Problem, placed: dict[int, range]) -> float:
    """Recompute the objective, bank by bank and token by token."""
    part = np.zeros((len(problem.expert_bytes), problem.banks))
    for expert, banks in placed.items():
        for bank in banks:
            part[expert, bank] = problem.expert_bytes[expert] / len(banks)
    total = 0.0
    for step in problem.steps:
        busiest = part[step.any(axis=0)].sum(axis=0).max()
        heard = sum(int(part[token].any(axis=0).sum()) for token in step)
        link = heard * problem.partial_sum_bytes / problem.link_bytes_per_second
        total += max(busiest / problem.bank_bytes_per_second, link)
    return total / len(problem.steps) if len(problem.steps) else 0.0
