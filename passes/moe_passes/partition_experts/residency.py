"""Which experts HB keeps, in which slices, and how its bytes are shared out between layers.

Where HB holds a part of the experts, loading dominates, and its time is linear in what is kept: a resident byte of an
expert saves one external byte in every step that uses the expert. So the bytes go to the experts that are used most,
over all layers together: a knapsack whose items are whole experts; what is left at its border goes to the most
significant slice of the next expert that it fits. Use is counted in tokens, not in training steps: a step of many
tokens uses an expert with probability 1 − (1 − p)ⁿ, which grows with p, and tokens estimate p with less noise (on
held-out steps of synthetic traces, counting steps was 0.2 % slower on the mean). Steps in which a layer is not bound by
loading save nothing more; they are left out of the count and the filling repeated, as long as that gains.
"""

import numpy as np

from moe_passes.partition_experts.problem import ALL, MSB, NONE, FloatArray, IntArray, Layer, Problem, Rates
from moe_passes.partition_experts.step_time import missing_bytes

ROUNDS = 4
"""Fillings that are tried."""
LEAST_GAIN = 1e-3
"""Share of the training time that another filling must save: less is noise."""


def choose(problem: Problem) -> list[IntArray]:
    """Return the residency of every layer: [expert], by layer; what is decided already stays."""
    if all(layer.residency is not None for layer in problem.layers):
        return [np.asarray(layer.residency, dtype=np.int64) for layer in problem.layers]
    used = [layer.used for layer in problem.layers]
    bound_by_loading = [np.ones(len(table)) for table in used]
    best, least = [np.zeros(0, dtype=np.int64)], np.inf
    for _ in range(ROUNDS):
        filling = _fill(problem, [w @ table for w, table in zip(bound_by_loading, used, strict=True)])
        total, bound_by_loading = 0.0, []
        for layer, residency in zip(problem.layers, filling, strict=True):
            external = missing_bytes(layer, residency, layer.routing) / problem.rates.external_bytes_per_second
            others = _least_seconds(problem.rates, layer, residency)
            total += float(np.maximum(external, others).mean())
            bound_by_loading.append((external >= others).astype(np.float64))
        if total >= least * (1 - LEAST_GAIN):
            break
        best, least = filling, total
    return best


def most_popular(problem: Problem, share: float = 1.0) -> list[IntArray]:
    """Keep the most popular experts that fit into a share of HB: for baselines, which have no residency rule."""
    if all(layer.residency is not None for layer in problem.layers):
        return choose(problem)
    return _fill(problem, [_popularity(layer) for layer in problem.layers], share)


def _popularity(layer: Layer) -> FloatArray:
    """Count the training tokens that use each expert: [expert]."""
    return np.bincount(layer.routing.ravel() + 1, minlength=layer.experts + 1)[1:].astype(np.float64)


def _tokens(layer: Layer) -> IntArray:
    """Count the tokens of each step that use each expert: [step, expert]."""
    steps, places = len(layer.routing), layer.experts + 1
    flat = np.arange(steps)[:, None] * places + layer.routing.reshape(steps, -1) + 1
    return np.bincount(flat.ravel(), minlength=steps * places).reshape(steps, places)[:, 1:]


def _least_seconds(rates: Rates, layer: Layer, residency: IntArray) -> FloatArray:
    """Return the least that banks and link need in each step for what is resident: [step]."""
    sizes = layer.resident_bytes(residency).astype(np.float64)
    banks = layer.used @ sizes / (rates.banks * rates.bank_bytes_per_second)
    tokens = np.append(sizes > 0, False)[layer.routing].any(axis=2).sum(axis=1)
    return np.asarray(np.maximum(banks, tokens * rates.partial_sum_bytes / rates.link_bytes_per_second))


def _fill(problem: Problem, values: list[FloatArray], share: float = 1.0) -> list[IntArray]:
    """Fill a share of HB with experts in descending order of value; ties in the order of layers and experts."""
    left = share * problem.rates.banks * problem.rates.bank_capacity_bytes
    result = [np.full(layer.experts, NONE, dtype=np.int64) for layer in problem.layers]
    items = [(-v, row, e) for row, value in enumerate(values) for e, v in enumerate(value.tolist())]
    for _, row, expert in sorted(items):
        layer = problem.layers[row]
        level = ALL if layer.whole_bytes <= left else MSB if layer.msb_bytes <= left else NONE
        result[row][expert] = level
        left -= (0, layer.msb_bytes, layer.whole_bytes)[level]
    return result
