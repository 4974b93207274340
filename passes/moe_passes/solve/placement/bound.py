"""A lower bound on the mean seconds of a layer's training steps, over every placement of its residency.

Write b for the bandwidth of a bank, M for the number of banks, C for the bytes that one holds, c for the link seconds
of one partial sum, W for the resident bytes of a step's distinct experts, W(t) for those of token t's experts, h(t) for
the number of banks that t hears.

1. *Even spread*: the busiest bank reads at least the mean, so step ≥ W / (M·b), whatever is sharded or replicated; and
   its elements compute at least the mean.
2. *Trade-off*: let the step take τ. All of W(t) lies in the h(t) banks that token t hears, and none of them reads
   more than τ·b or holds more than C, so h(t) ≥ ⌈W(t) / min(τ·b, C)⌉; the link then takes c·Σ_t h(t) ≤ τ. The left side
   falls with τ and the right one grows, so the least τ that satisfies this bounds the step.
3. *External channel*: the bytes that are not resident, over its bandwidth; no placement changes them.

The bound of a step is the largest of the three, and the mean over steps bounds the objective: no step can do better,
however a placement were changed between steps. That is also what it cannot see: a placement is the same for all steps,
and where the link is slow the wishes of different tokens, which experts should lie together, contradict each other. So
there is one bound over all steps at once:

4. *Company*: let f(e, i) be the part of expert e that bank i holds, and F(t, i) the sum of f(e, i) over the experts of
   token t. Then h(t) = Σ_e Σ_i f(e, i) / F(t, i), over the experts e of t. For one expert and bank, the F of the n(e)
   tokens that choose e sum up to Σ_m f(m, i)·n(e, m), where n(e, m) tokens choose both; and as bank i holds at most C
   bytes, that is at most G(e), a fractional knapsack of the n(e, m) by size. 1/F is convex, so (Jensen) the n(e) values
   of 1/F sum up to at least n(e)² / G(e), and the banks' parts of e sum up to 1. All tokens together hear at least
   Σ_e n(e)² / G(e) banks. This needs one replica of each expert: where there is no room for another.
"""

import numpy as np

from moe_passes.solve.placement.problem import SLACK_BYTES, FloatArray, Layer, LayerProblem, Problem, distinct
from moe_passes.solve.placement.step_time import external_seconds

BISECTIONS = 60
CHUNK_TOKENS = 4096


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
    return max(float(step_bounds(problem).mean()), _company(problem))


def step_bounds(problem: LayerProblem) -> FloatArray:
    """Return the bound of every training step: [step]."""
    rates, layer = problem.rates, problem.layer
    sizes = np.append(problem.sizes, 0.0)
    of_tokens = sizes[layer.routing].sum(axis=2)
    reading = layer.used @ problem.sizes / rates.bank_bytes_per_second
    choices = np.append(problem.sizes > 0, False)[layer.routing].sum(axis=(1, 2))
    even = np.maximum(reading, choices * (layer.macs_per_token / rates.bank_macs_per_second)) / rates.banks
    external = external_seconds(rates, layer, problem.residency, layer.routing)
    return np.asarray(np.maximum(np.maximum(even, external), _trade_off(problem, of_tokens, even)))


def _trade_off(problem: LayerProblem, of_tokens: FloatArray, even: FloatArray) -> FloatArray:
    """Bisect for the least τ of every step with c·Σ_t ⌈W(t) / min(τ·b, C)⌉ ≤ τ; the side that is still too small."""
    rates = problem.rates
    partial = rates.partial_sum_bytes / rates.link_bytes_per_second
    need = of_tokens / rates.bank_bytes_per_second
    most = (rates.bank_capacity_bytes + SLACK_BYTES) / rates.bank_bytes_per_second
    least = _link(need, most, partial)
    low = np.maximum(even, least)
    high = np.maximum(low, need.max(axis=1)) + partial * (of_tokens > 0).sum(axis=1) * (rates.banks + 1)
    met = _link(need, np.minimum(low, most), partial) <= low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = _link(need, np.minimum(middle, most), partial) <= middle
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        if ((high - low) <= 1e-12 * high).all():
            break
    return np.asarray(np.where(met, np.maximum(even, least), low))


def _link(need: FloatArray, seconds: FloatArray | float, partial: float) -> FloatArray:
    """Link seconds if no bank reads, or holds what takes, longer than `seconds`: [step]."""
    # A hair more time than asked for: rounding must not turn an exact quotient into one bank more.
    allowed = np.maximum(np.broadcast_to(seconds, len(need)), 1e-300)[:, None] * (1 + 1e-9)
    return np.asarray(np.ceil(need / allowed).sum(axis=1) * partial)


def _company(problem: LayerProblem) -> float:
    """Bound the link's mean seconds by who shares a bank with whom; 0 where experts may have replicas."""
    rates, layer, resident = problem.rates, problem.layer, np.flatnonzero(problem.sizes)
    sizes = problem.sizes[resident]
    if not len(resident) or problem.free_bytes >= sizes.min():
        return 0.0
    together = _together(layer)[np.ix_(resident, resident)]
    density = together / sizes
    order = np.argsort(-density, axis=1, kind="stable")
    taken = sizes[order]
    before = np.cumsum(taken, axis=1) - taken
    kept = np.clip(rates.bank_capacity_bytes + SLACK_BYTES - before, 0.0, taken)
    most = (np.take_along_axis(density, order, axis=1) * kept).sum(axis=1)
    alone = np.diag(together)
    heard = float((alone**2 / np.maximum(most, 1e-300))[alone > 0].sum())
    return heard * rates.partial_sum_bytes / rates.link_bytes_per_second / len(layer.routing) * (1 - 1e-9)


def _together(layer: Layer) -> FloatArray:
    """Count the tokens that choose both of two experts: [expert, expert]."""
    tokens = layer.routing.reshape(-1, 1, layer.routing.shape[2])
    total = np.zeros((layer.experts, layer.experts))
    for first in range(0, len(tokens), CHUNK_TOKENS):
        uses = distinct(tokens[first : first + CHUNK_TOKENS], layer.experts).astype(np.float32)
        total += uses.T @ uses
    return total
