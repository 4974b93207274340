"""Synthetic routing that is like a real one: five numbers a model, fitted to what was measured of it.

An expert's score is what a request asks for, plus what drifts within it, plus what the token itself asks for, plus
popularity, plus noise of standard deviation 1; the top k are chosen. The first three are points of low-dimensional
spaces that all layers share, so that one layer's experts foretell the next one's; how much an expert answers to each
dimension is fixed, so that experts that were asked for together will be so again.

The numbers were found by random search over the figures of `moe_passes.routing.statistics`, of which
`benchmarks/routing.py` shows how far each is from the real one, and over what published speeds imply (tests hold the
routing to both). A model of which nothing is known gets what lies in the middle.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from moe_passes.routing.traces import IntArray

FloatArray = npt.NDArray[np.float64]

REQUEST_DIMENSIONS, DRIFT_DIMENSIONS, TOKEN_DIMENSIONS = 16, 8, 8
REQUEST_TOKENS = 256
CHUNK_TOKENS = 128


class Shape(NamedTuple):
    """Of a trace."""

    tokens: int
    layers: int
    experts: int
    top_k: int


@dataclass(frozen=True)
class Locality:
    """What the scores of experts are made of; the unit is the standard deviation of a token's own noise.

    Attributes:
        popularity: exponent of Zipf's law over the experts of a layer.
        request: of what the whole request asks for: experts come back over hundreds of tokens.
        drift: of what changes slowly: experts come back at the next tokens.
        memory: correlation of what drifts from one token to the next.
        token: of what the token asks for in all layers: one layer foretells the next.
        fitted_to: the figures that the numbers were fitted to.
    """

    popularity: float
    request: float
    drift: float
    memory: float
    token: float
    fitted_to: str


MIDDLE = "middle"
"""The locality of a model of whose routing nothing is known."""
MEASURED = {
    "mixtral-8x7b": Locality(0.70, 0.20, 2.11, 0.79, 3.38, "two traces of HD-MoE's repository, coding and math"),
    "qwen3-30b-a3b": Locality(
        1.44,
        2.14,
        2.41,
        0.37,
        0.56,
        "a trace of 129 tokens at top-6 of BigMoeOnEdge, and how many experts 4, 8 and 16 sequences share by the "
        "published speeds of arXiv 2604.14626",
    ),
    "gemma-4-26b-a4b": Locality(1.50, 4.20, 4.40, 0.35, 0.21, "a trace of 157 tokens at top-6 of BigMoeOnEdge"),
    "olmoe-1b-7b": Locality(0.26, 1.71, 2.79, 0.67, 1.18, "a trace of 299 tokens of WARP"),
}
"""By the model that was measured; the numbers serve other shapes too."""

_HITS = "how often sets of the size of 4 and 8 GB hit by the published speeds of plain decoding (arXiv 2604.14626)"
_MIDDLE = Locality(
    0.35, 1.39, 2.19, 0.63, 1.60, "the middle of the measured: as many repeats at the next token as halfway between"
)
LIKE = MEASURED | {
    "glm-4.7-flash": Locality(0.37, 1.29, 0.90, 0.50, 1.11, f"repeats at the next token, 25.7 %, and {_HITS}"),
    "deepseek-v2-lite": Locality(0.50, 0.93, 1.55, 0.51, 1.55, _HITS),
    "gpt-oss-20b": Locality(1.20, 2.90, 1.40, 0.95, 1.35, _HITS),
    MIDDLE: _MIDDLE,
}
"""All that a trace can be like."""


def like_of(model: str) -> str:
    """Return what a model's routing is like, as far as that is known."""
    return model if model in LIKE else MIDDLE


def generate(shape: Shape, seed: int, like: Locality, request_tokens: int = REQUEST_TOKENS) -> IntArray:
    """Make the choices of requests of so many tokens each, one after the other: [token, layer, k], sorted."""
    tokens, layers, experts, top_k = shape
    random = np.random.default_rng([seed, 3])
    ranks = np.argsort(random.random((layers, experts)), axis=1)
    popularity = -like.popularity * np.log1p(ranks)
    sizes = (REQUEST_DIMENSIONS, DRIFT_DIMENSIONS, TOKEN_DIMENSIONS)
    answers = np.concatenate([random.standard_normal((layers, experts, n)) / np.sqrt(n) for n in sizes], axis=2)
    asked = _asked(tokens, like, request_tokens, random)
    chosen = np.empty((tokens, layers, top_k), dtype=np.int64)
    for first in range(0, tokens, CHUNK_TOKENS):
        part = asked[first : first + CHUNK_TOKENS]
        scores = np.einsum("led,td->tle", answers, part, optimize=True) + popularity
        scores += random.standard_normal(scores.shape)
        chosen[first : first + CHUNK_TOKENS] = np.argpartition(-scores, top_k - 1, axis=2)[:, :, :top_k]
    chosen.sort(axis=2)
    return chosen


def _asked(tokens: int, like: Locality, request_tokens: int, random: np.random.Generator) -> FloatArray:
    """What is asked for at every token, of the three kinds beside each other: [token, dimension]."""
    requests = random.standard_normal((-(-tokens // request_tokens), REQUEST_DIMENSIONS))
    drift = random.standard_normal((tokens, DRIFT_DIMENSIONS))
    own = random.standard_normal((tokens, TOKEN_DIMENSIONS))
    for token in range(tokens):
        if token % request_tokens:
            drift[token] = like.memory * drift[token - 1] + np.sqrt(1 - like.memory**2) * drift[token]
    request = requests[np.arange(tokens) // request_tokens]
    return np.concatenate([like.request * request, like.drift * drift, like.token * own], axis=1)
