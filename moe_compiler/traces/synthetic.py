"""Synthetic routing traces, for models without a real one: their names, and the draft's choices. Always labelled so.

What the target's routing is like is in like.py. The draft's routing is not known without the weights either. It is
modelled on MoE-SpeQ's measurement (REFERENCE section 5): in 44 % of cases it equals the target's, in 47 % a part is
different, in 9 % all is.
"""

import re
from dataclasses import dataclass

import numpy as np
from moe_passes.plan.errors import InputError
from moe_passes.routing.traces import IntArray, RoutingTrace

from moe_compiler.traces import like as likes
from moe_compiler.traces.like import CHUNK_TOKENS, LIKE, MIDDLE, REQUEST_TOKENS, Shape

SAME, PARTLY = 0.44, 0.47
STEP_TOKENS = 4 * REQUEST_TOKENS
"""Lengths are multiples of this, so that both splits are of whole requests."""
LEAST_TOKENS = 3 * STEP_TOKENS
MOST_LONG_REQUESTS = 32
"""Sequences of a batch that get requests of `REQUEST_TOKENS` each: for larger batches traces would be too long."""
SHORT_REQUEST_TOKENS, SEQUENCE_TOKENS = 64, 288
"""Of larger batches: a request, and all that the trace has for a sequence, a quarter of it held out."""

_NAME = re.compile(
    r"synthetic-([1-9][0-9]{0,6})tokens-seed([0-9]{1,10})(?:-like-([a-z0-9.-]{1,60}?))?(?:-requests-of-([0-9]{1,7}))?"
)


@dataclass(frozen=True)
class Made:
    """What the name of a synthetic trace says: with the model's shape, all that is needed to make it again.

    Attributes:
        tokens: of the trace.
        seed: of all that is drawn.
        like: one of `LIKE`.
        request_tokens: of each of the requests that follow each other.
    """

    tokens: int
    seed: int = 0
    like: str = MIDDLE
    request_tokens: int = REQUEST_TOKENS

    @property
    def name(self) -> str:
        """Name the trace."""
        requests = "" if self.request_tokens == REQUEST_TOKENS else f"-requests-of-{self.request_tokens}"
        return f"synthetic-{self.tokens}tokens-seed{self.seed}-like-{self.like}{requests}"


def parse_name(name: str) -> Made | None:
    """Read a synthetic trace's name; None for another name.

    Raises:
        InputError: it is to be like a model of which nothing is known, or its requests are empty.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    like = match.group(3) or MIDDLE
    if like not in LIKE:
        raise InputError(f"profile {name}: nothing is known of the routing of '{like}'; valid: {', '.join(LIKE)}")
    request_tokens = int(match.group(4) or REQUEST_TOKENS)
    if not request_tokens:
        raise InputError(f"profile {name}: requests of 0 tokens; valid: 1 or more")
    return Made(int(match.group(1)), int(match.group(2)), like, request_tokens)


def made_for(batch: int, seed: int, like: str) -> Made:
    """Return a trace of several rounds of this batch in both splits, nearly every sequence a request of its own.

    Runs of γ + 1 tokens do not fill a request, so that some sequences begin with the last tokens of the one before.
    """
    if batch <= MOST_LONG_REQUESTS:
        return Made(max(LEAST_TOKENS, STEP_TOKENS * batch), seed, like)
    return Made(-(-SEQUENCE_TOKENS * batch // STEP_TOKENS) * STEP_TOKENS, seed, like, SHORT_REQUEST_TOKENS)


def generate(made: Made, layers: int, experts: int, top_k: int) -> RoutingTrace:
    """Make a trace; the same arguments give the same trace."""
    if top_k > experts:
        raise InputError(f"top-{top_k} of {experts} experts")
    shape = Shape(made.tokens, layers, experts, top_k)
    chosen = likes.generate(shape, made.seed, LIKE[made.like], made.request_tokens)
    return RoutingTrace(chosen, model_draft(chosen, experts, made.seed), experts)


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
