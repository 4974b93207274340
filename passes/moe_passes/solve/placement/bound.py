"""A lower bound on the mean seconds of a layer's training steps, over every placement of its residency.

Write b for the bandwidth of a bank, M for the number of banks, c for the link seconds of one partial sum, W for the
resident bytes of a step's distinct experts, W(t) for those of token t's experts, h(t) for the number of banks that t
hears.

1. *Even spread*: the busiest bank reads at least the mean, so step ≥ W / (M·b), whatever is sharded or replicated.
2. *Trade-off*: let the step take τ. All of W(t) lies in the h(t) banks that token t hears, and none of them reads
   more than τ·b, so h(t) ≥ ⌈W(t) / (τ·b)⌉; the link then takes c·Σ_t ⌈W(t) / (τ·b)⌉ ≤ τ. The left side falls with τ and
   the right one grows, so the least τ that satisfies this bounds the step.
3. *External channel*: the bytes that are not resident, over its bandwidth; no placement changes them.
The bound of a step is the largest of the three, and the mean over steps bounds the objective: no step can do better,
however a placement were changed between steps. That is also what it cannot see: a placement is the same for all steps,
and where the link is slow the wishes of different tokens, which experts should lie together, contradict each other.
"""

import numpy as np

from moe_passes.solve.placement.problem import FloatArray, LayerProblem, Problem
from moe_passes.solve.placement.step_time import missing_bytes

BISECTIONS = 60


def any_residency_bound(problem: Problem) -> float:
    """Return a bound on the mean seconds of a training step, over every residency and placement of all layers.

    The largest of two, each a sum over layers:

    1. *Loading*: a layer takes at least its missing bytes over the external bandwidth. On the mean over steps, what is
       missing is linear in what is kept (a kept byte of an expert saves a byte in each step that uses it), and all
       layers together keep at most the capacity of the banks; so a fractional knapsack by use bounds it.
    2. *All channels*: a layer of τ seconds gets at most τ·(M·b + external bandwidth) bytes.
    """
    rates, layers = problem.rates, problem.layers
    use = np.concatenate([layer.used.mean(axis=0) for layer in layers])
    sizes = np.concatenate([np.full(layer.experts, float(layer.whole_bytes)) for layer in layers])
    order = np.argsort(-use, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    kept = np.clip(rates.banks * rates.bank_capacity_bytes - before, 0.0, sizes[order])
    missing = float((use[order] * (sizes[order] - kept)).sum())
    together = rates.banks * rates.bank_bytes_per_second + rates.external_bytes_per_second
    return max(missing / rates.external_bytes_per_second, float((use * sizes).sum()) / together)


def lower_bound(problem: LayerProblem) -> float:
    """Return a proved lower bound on the mean seconds of a training step."""
    return float(step_bounds(problem).mean())


def step_bounds(problem: LayerProblem) -> FloatArray:
    """Return the bound of every training step: [step]."""
    rates, layer = problem.rates, problem.layer
    sizes = np.append(problem.sizes, 0.0)
    of_tokens = sizes[layer.routing].sum(axis=2)
    even = layer.used @ problem.sizes / rates.banks / rates.bank_bytes_per_second
    external = missing_bytes(layer, problem.residency, layer.routing) / rates.external_bytes_per_second
    return np.asarray(np.maximum(np.maximum(even, external), _trade_off(problem, of_tokens, even)))


def _trade_off(problem: LayerProblem, of_tokens: FloatArray, even: FloatArray) -> FloatArray:
    """Bisect for the least τ of every step with c·Σ_t ⌈W(t) / (τ·b)⌉ ≤ τ; returns the side that is still too small."""
    rates = problem.rates
    partial = rates.partial_sum_bytes / rates.link_bytes_per_second
    need = of_tokens / rates.bank_bytes_per_second
    low = np.maximum(even, (of_tokens > 0).sum(axis=1) * partial)
    high = np.maximum(low, need.max(axis=1)) + partial * (of_tokens > 0).sum(axis=1) * rates.banks
    met = _link(need, low, partial) <= low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = _link(need, middle, partial) <= middle
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        if ((high - low) <= 1e-12 * high).all():
            break
    return np.asarray(np.where(met, np.maximum(even, (of_tokens > 0).sum(axis=1) * partial), low))


def _link(need: FloatArray, seconds: FloatArray, partial: float) -> FloatArray:
    """Link seconds if no bank reads longer than `seconds`: [step]."""
    # A hair more time than asked for: rounding must not turn an exact quotient into one bank more.
    allowed = np.maximum(seconds, 1e-300)[:, None] * (1 + 1e-9)
    return np.asarray(np.ceil(need / allowed).sum(axis=1) * partial)
