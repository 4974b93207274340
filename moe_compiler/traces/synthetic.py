"""Synthetic routing traces, for models without a real one. Always labelled `synthetic`.

A token's router scores in a layer are popularity (Zipf over a seeded permutation), plus what its context asks for,
plus noise of its own; the top k are chosen. The context is a point of a low-dimensional space that drifts slowly along
the sequence and is drawn anew with each request (temporal locality); how much an expert answers to each dimension is
fixed, so experts that were asked for together will be so again (co-activation). Calibration:

- 64 tokens of one request touch about 52 of 128 experts at top-8; uniform routing would touch 126. That figure of
  Qwen3-30B is of a draft tree's 64 candidates, not of consecutive tokens (docs/reference.md section 5): this routing is
  far too local, `-like-MODEL` (like.py) is not.
- In the shipped real traces of Mixtral-8x7B, the log of how much more often than by chance two experts are chosen
  together has a standard deviation of 0.8 to 1.0, and correlates by 0.9 between halves of a trace and between
  categories of text. At 8 experts and top-2 this generator gives 0.7 and 0.85.

The draft's routing is not known without the weights either. It is modelled on MoE-SpeQ's measurement (REFERENCE
section 5): in 44 % of cases it equals the target's, in 47 % a part is different, in 9 % all is.
"""

import re
from dataclasses import dataclass

import numpy as np
from moe_passes.plan.errors import InputError
from moe_passes.routing.traces import IntArray, RoutingTrace

from moe_compiler.traces.like import LIKE, Shape
from moe_compiler.traces.like import generate as generate_like

ZIPF_EXPONENT = 0.5
CONTEXT_SCALE = 4.0
CONTEXT_DIMENSIONS = 8
NOISE_SCALE = 1.5
DRIFT = 0.985
"""Correlation of the context from one token to the next."""
REQUEST_TOKENS = 256
SAME, PARTLY = 0.44, 0.47
LEAST_TOKENS = 3072
CHUNK_TOKENS = 128

_NAME = re.compile(r"synthetic-(\d{1,7})tokens-seed(\d{1,10})(?:-like-([a-z0-9.-]{1,60}))?")


@dataclass(frozen=True)
class Made:
    """What the name of a synthetic trace says; `like` is a model of `LIKE`, or None."""

    tokens: int
    seed: int
    like: str | None


def name_of(tokens: int, seed: int) -> str:
    """Name a synthetic trace; the name and the model's shape are all that is needed to make it again."""
    return f"synthetic-{tokens}tokens-seed{seed}"


def parse_name(name: str) -> Made | None:
    """Read a synthetic trace's name; None for another name.

    Raises:
        InputError: it is to be like a model of which nothing is known.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    like = match.group(3)
    if like is not None and like not in LIKE:
        raise InputError(f"profile {name}: nothing is known of the routing of '{like}'; valid: {', '.join(LIKE)}")
    return Made(int(match.group(1)), int(match.group(2)), like)


def tokens_for(batch: int, width: int) -> int:
    """Return a length that gives both splits several rounds of this batch and width."""
    return max(LEAST_TOKENS, 32 * batch * width)


def generate(tokens: int, layers: int, experts: int, top_k: int, seed: int, like: str | None = None) -> RoutingTrace:
    """Make a trace; the same arguments give the same trace."""
    if top_k > experts:
        raise InputError(f"top-{top_k} of {experts} experts")
    if like is not None:
        fitted = generate_like(Shape(tokens, layers, experts, top_k), seed, LIKE[like])
        return RoutingTrace(fitted, model_draft(fitted, experts, seed), experts)
    random = np.random.default_rng([seed, 1])
    ranks = np.argsort(random.random((layers, experts)), axis=1)
    popularity = -ZIPF_EXPONENT * np.log1p(ranks)
    answers = random.standard_normal((layers, experts, CONTEXT_DIMENSIONS)) / np.sqrt(CONTEXT_DIMENSIONS)
    context = random.standard_normal((layers, CONTEXT_DIMENSIONS, 1))
    chosen = np.empty((tokens, layers, top_k), dtype=np.int64)
    for token in range(tokens):
        fresh = random.standard_normal((layers, CONTEXT_DIMENSIONS, 1))
        context = fresh if token % REQUEST_TOKENS == 0 else DRIFT * context + np.sqrt(1 - DRIFT**2) * fresh
        noise = random.standard_normal((layers, experts))
        scores = popularity + CONTEXT_SCALE * (answers @ context)[:, :, 0] + NOISE_SCALE * noise
        chosen[token] = np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k]
    chosen.sort(axis=2)
    return RoutingTrace(chosen, model_draft(chosen, experts, seed), experts)


def model_draft(chosen: IntArray, experts: int, seed: int) -> IntArray:
    """Model the draft's choices for tokens whose target choices are known: [token, layer, k]."""
    random = np.random.default_rng([seed, 2])
    tokens, layers, top_k = chosen.shape
    counts = np.stack([np.bincount(chosen[:, layer].ravel(), minlength=experts) for layer in range(layers)])
    logits = np.log1p(counts)
    result = np.empty_like(chosen)
    for first in range(0, tokens, CHUNK_TOKENS):
        part = chosen[first : first + CHUNK_TOKENS]
        kept = random.permuted(part, axis=2)
        scores = logits[None] + random.gumbel(size=(len(part), layers, experts))
        np.put_along_axis(scores, part, -np.inf, axis=2)
        others = np.argsort(-scores, axis=2, kind="stable")[:, :, :top_k]
        draw = random.random((len(part), layers))
        some = random.integers(1, max(2, top_k), size=(len(part), layers))
        replaced = np.where(draw < SAME, 0, np.where(draw < SAME + PARTLY, some, top_k))
        replaced = np.minimum(replaced, experts - top_k)
        slots = np.arange(top_k)[None, None, :]
        result[first : first + CHUNK_TOKENS] = np.where(slots < replaced[:, :, None], others, kept)
    result.sort(axis=2)
    return result
