"""Independent check of placements: banks that exist, bytes per bank, residency, and every figure that is claimed.

Seconds are computed anew, bank by bank and token by token. Which replica serves an expert in a step is told, and must
be one that the placement has; it is not trusted for what that costs.
"""

from collections.abc import Callable, Sequence

import numpy as np

from moe_passes.plan.decisions import shared_banks
from moe_passes.solve.placement.problem import Layer, Placement, Problem, Rates, Solution

TOLERANCE = 1e-9


Choose = Callable[[Layer, Placement, Rates], Sequence[dict[int, int]]]
"""For every step of a layer, the replica that serves each of its experts that has a choice."""


def violations(problem: Problem, solution: Solution, choose: Choose) -> list[str]:
    """Return everything that is wrong with a solution; empty if it is valid.

    Args:
        problem: what was asked.
        solution: the answer.
        choose: the replica dispatch that the machine will run.
    """
    if len(solution.layers) != len(problem.layers):
        return [f"{len(solution.layers)} of {len(problem.layers)} layers are placed"]
    wrong: list[str] = []
    held = [0.0] * problem.rates.banks
    for layer, placement in zip(problem.layers, solution.layers, strict=True):
        found = _layout(problem.rates, layer, placement, held) or _figures(problem.rates, layer, placement, choose)
        wrong += [f"{layer.name}: {text}" for text in found]
    for bank, size in enumerate(held):
        # Parts are equal shares of whole bytes: each may round by less than one byte a layer.
        if size > problem.rates.bank_capacity_bytes + len(problem.layers):
            wrong.append(f"bank {bank} holds {size:.0f} of {problem.rates.bank_capacity_bytes} bytes")
    return wrong


def _layout(rates: Rates, layer: Layer, placement: Placement, held: list[float]) -> list[str]:
    wrong = []
    if len(placement.replicas) != layer.experts or len(placement.residency) != layer.experts:
        return [f"{len(placement.replicas)} of {layer.experts} experts are placed"]
    if layer.residency is not None and list(placement.residency) != list(layer.residency):
        wrong.append("residency is not the one that was asked for")
    for expert, (level, copies) in enumerate(zip(placement.residency, placement.replicas, strict=True)):
        if level not in (0, 1, 2) or (level > 0) != (len(copies) > 0):
            wrong.append(f"expert {expert} has residency {level} and {len(copies)} replicas")
            continue
        size = (0, layer.msb_bytes, layer.whole_bytes)[level]
        for copy in copies:
            if not copy or list(copy) != sorted(set(copy)) or copy[0] < 0 or copy[-1] >= rates.banks:
                wrong.append(f"expert {expert} has a replica on banks {list(copy)} of {rates.banks}")
                continue
            for bank in copy:
                held[bank] += size / len(copy)
        if shared_banks(copies):
            wrong.append(f"expert {expert} has several replicas in banks {list(shared_banks(copies)[:8])}")
    return wrong


def _figures(rates: Rates, layer: Layer, placement: Placement, choose: Choose) -> list[str]:
    wrong = []
    seconds = _mean_seconds(rates, layer, placement, choose(layer, placement, rates))
    judged = layer.judged
    trial = (
        seconds if layer.trial is None else _mean_seconds(rates, judged, placement, choose(judged, placement, rates))
    )
    for name, told, takes in (("objective", placement.objective, seconds), ("trial", placement.trial, trial)):
        if abs(takes - told) > TOLERANCE * takes:
            wrong.append(f"{name} is {told}, but the placement takes {takes}")
    most = placement.objective * (1 + TOLERANCE)
    if not placement.lower_bound <= most:
        wrong.append(f"bound {placement.lower_bound} is above the objective {placement.objective}")
    # What was best on older steps may not be on the latest: then a greedy answer to all of them is no rival.
    rivals = [placement.baseline] if layer.trial is not None else [("greedy", placement.greedy), placement.baseline]
    for name, value in rivals:
        if placement.objective > value * (1 + TOLERANCE):
            wrong.append(f"objective {placement.objective} is above {value} of {name}")
    return wrong


def _mean_seconds(rates: Rates, layer: Layer, placement: Placement, chosen: Sequence[dict[int, int]]) -> float:
    whole, slice_ = layer.whole_bytes, layer.msb_bytes
    sizes = [(0, slice_, whole)[level] for level in placement.residency]
    holds = np.zeros((layer.experts + 1, rates.banks), dtype=np.bool_)
    for expert, copies in enumerate(placement.replicas):
        if copies:
            holds[expert, list(copies[0])] = True
    total = 0.0
    for step, choice in zip(layer.routing, chosen, strict=True):
        experts = sorted(set(step.ravel().tolist()) - {-1})
        here = holds
        if choice:
            here = holds.copy()
            for expert, replica in choice.items():
                here[expert] = False
                here[expert, list(placement.replicas[expert][replica])] = True
        resident = [expert for expert in experts if sizes[expert]]
        part = np.array([sizes[expert] / here[expert].sum() for expert in resident])
        busiest = float((here[resident] * part[:, None]).sum(axis=0).max()) if resident else 0.0
        share = np.array([np.count_nonzero(step == expert) / here[expert].sum() for expert in resident])
        most = float((here[resident] * share[:, None]).sum(axis=0).max()) if resident else 0.0
        heard = int(here[step].any(axis=1).sum())
        missing = sum(whole - sizes[expert] for expert in experts)
        total += max(
            busiest / rates.bank_bytes_per_second,
            most * layer.macs_per_token / rates.bank_macs_per_second,
            heard * rates.partial_sum_bytes / rates.link_bytes_per_second,
            missing / rates.external_bytes_per_second,
        )
    return total / len(layer.routing)
