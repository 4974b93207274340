"""Independent check of a select-draft solution: it was offered, it fits, and its objective is recomputed with sets."""

import numpy as np

from moe_passes.solve.draft.problem import Choice, Problem, Solution


def violations(problem: Problem, solution: Solution) -> list[str]:
    """Return everything that is wrong with a solution; empty if it is valid."""
    choice, wrong = solution.choice, []
    if choice.slice not in problem.slices:
        wrong.append(f"slice {choice.slice} was not offered")
    if choice.staging_bytes not in problem.staging_choices:
        wrong.append(f"staging of {choice.staging_bytes} bytes was not offered")
    if choice.length not in problem.allowed:
        wrong.append(f"draft length {choice.length} was not offered")
    if choice.resident.shape != problem.popularity.shape:
        wrong.append(f"residents have shape {choice.resident.shape}")
    if wrong:
        return wrong
    taken = int(choice.resident.sum()) * choice.slice.resident_bytes + choice.staging_bytes
    if taken > problem.capacity_bytes:
        wrong.append(f"{taken} bytes taken of {problem.capacity_bytes}")
    seconds = seconds_per_token(problem, choice, solution.acceptance_rate)
    if abs(seconds - solution.seconds_per_token) > 1e-9 * seconds:
        wrong.append(f"objective is {solution.seconds_per_token}, recomputed {seconds}")
    if not solution.lower_bound <= solution.seconds_per_token <= solution.greedy * (1 + 1e-12):
        wrong.append("bound ≤ objective ≤ greedy does not hold")
    return wrong


def seconds_per_token(problem: Problem, choice: Choice, acceptance_rate: float) -> float:
    """Recompute the objective, one round, layer and expert after another (model: docstring of bound.py)."""
    residents = [set(np.flatnonzero(row).tolist()) for row in choice.resident]
    step = _draft_step_seconds(problem, choice, residents) if choice.length else 0.0
    rounds = range(problem.used.shape[0])
    mean = sum(_round_seconds(problem, choice, residents, number, step) for number in rounds) / len(rounds)
    return mean / (problem.batch * (1 + acceptance_rate * choice.length))


def _draft_step_seconds(problem: Problem, choice: Choice, residents: list[set[int]]) -> float:
    rates, samples = problem.rates, problem.token_asked
    seconds = rates.draft_dense_seconds
    for layer, resident in enumerate(residents):
        ranked = sorted(resident, key=lambda e: (-int(problem.popularity[layer, e]), e))
        read = 0
        for sample in samples[:, :, layer]:
            picked: set[int] = set()
            for token in sample:
                asked = [e for e in ranked if token[e]]
                spare = [e for e in ranked if not token[e]]
                picked.update(asked + spare[: max(0, problem.top_k - len(asked))])
            read += len(picked)
        seconds += read / len(samples) * choice.slice.resident_bytes * rates.hb_seconds_per_byte
        seconds += problem.batch * rates.gather_seconds_per_token if resident else 0.0
    return seconds


def _round_seconds(problem: Problem, choice: Choice, residents: list[set[int]], number: int, step: float) -> float:
    rates, length = problem.rates, choice.length
    distinct, total, early = 0, 0.0, 0.0
    for layer, resident in enumerate(residents):
        used = np.flatnonzero(problem.used[number, : length + 1, layer].any(axis=0)).tolist()
        asked = set(np.flatnonzero(problem.asked[number, :length, layer].any(axis=0)).tolist())
        distinct += len(used)
        for expert in used:
            missing = choice.slice.residual_bytes if expert in resident else problem.whole_bytes
            load = missing * rates.external_seconds_per_byte + rates.load_latency_seconds if missing else 0.0
            total += load
            early += load if expert in asked else 0.0
    gathers = len(residents) * problem.batch * (length + 1)
    verify = rates.verify_dense_seconds[problem.lengths.index(length)]
    verify += distinct * problem.whole_bytes * rates.hb_seconds_per_byte + gathers * rates.gather_seconds_per_token
    overlap = min(early, length * step, choice.staging_bytes * rates.external_seconds_per_byte)
    return length * step + max(verify + total - early, total - overlap)
