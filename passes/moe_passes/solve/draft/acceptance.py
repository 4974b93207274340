"""Published acceptance rates, put at the coverage that they are of.

What is published (arXiv 2604.14626, MT-Bench table, *elastic* rows) is α, the accepted fraction of the drafted tokens,
at a draft length of 6 (docs/reference.md section 3: 6 or 7 fits the table best), by model, batch and the share of
experts whose msb slice fits ([D] there); the last point of each curve is the α of the 4-bit copy. It is of a hot set
that follows the routing, and dense weights are sliced too.

A set of one size covers less the more sequences share it, and less if it is frozen. Each published point is put at the
coverage that a set of its size which follows (`PUBLISHED_RULE`) has in the routing that is compiled against, at its
batch; so α falls with the batch, as in the table.
"""

from dataclasses import dataclass

import numpy as np

from moe_passes.plan.acceptance import Curve
from moe_passes.plan.decisions import HotSetRule

REFERENCE_LENGTH = 6
PUBLISHED_RULE = HotSetRule(256, 8, 1)
"""Counts so far, taken over before every verify; how fast they fade is not published."""


@dataclass(frozen=True)
class Point:
    """A published α: of a share of resident experts, at a batch."""

    share: float
    rate: float
    batch: int


def _points(four_gb: tuple[tuple[float, float], ...], eight_gb: tuple[tuple[float, float], ...]) -> tuple[Point, ...]:
    """Name the columns of the table, batches 16, 8, 4 and 1 (or 1 alone)."""
    batches = (16, 8, 4, 1)
    return tuple(
        Point(share, rate, batch)
        for row in (four_gb, eight_gb)
        for (share, rate), batch in zip(row, batches[-len(row) :], strict=True)
    )


PUBLISHED: dict[str, tuple[Point, ...]] = {
    "qwen3-30b-a3b": _points(
        ((0.066, 0.36), (0.116, 0.48), (0.141, 0.57), (0.159, 0.66)),
        ((0.312, 0.86), (0.361, 0.90), (0.386, 0.91), (0.404, 0.91)),
    ),
    "glm-4.7-flash": _points(
        ((0.075, 0.47), (0.103, 0.50), (0.117, 0.55), (0.128, 0.61)),
        ((0.330, 0.74), (0.359, 0.75), (0.373, 0.76), (0.383, 0.78)),
    ),
    "deepseek-v2-lite": _points(
        ((0.288, 0.70), (0.319, 0.70), (0.334, 0.72), (0.345, 0.72)),
        ((0.781, 0.82), (0.813, 0.83), (0.828, 0.83), (0.841, 0.84)),
    ),
    "gpt-oss-20b": _points(((0.260, 0.44),), ((0.650, 0.50),)),
}
FOUR_BIT_COPY = {"qwen3-30b-a3b": 0.95, "glm-4.7-flash": 0.83, "deepseek-v2-lite": 0.84, "gpt-oss-20b": 0.50}
"""α where every expert is resident."""


def source(model: str) -> str:
    """Say where α comes from, for outputs."""
    if model in PUBLISHED:
        return f"published curve of {model} (arXiv 2604.14626), not measured here"
    return "assumed: mean of four published curves (arXiv 2604.14626)"


def models_of(model: str) -> tuple[str, ...]:
    """Return the models whose published curves stand for a model: its own, or all."""
    return (model,) if model in PUBLISHED else tuple(PUBLISHED)


def usual_rate(model: str, share: float) -> float:
    """Return α of a draft with a share of the experts, at batch 1: by the model's published curve, or the mean."""
    names = models_of(model)
    return float(np.mean([_rate_of(name, share) for name in names]))


def _rate_of(name: str, share: float) -> float:
    alone = sorted((point.share, point.rate) for point in PUBLISHED[name] if point.batch == 1)
    shares, rates = zip((0.0, 0.0), *alone, (1.0, FOUR_BIT_COPY[name]), strict=True)
    return float(np.interp(share, shares, rates))


def curve(model: str, coverages: tuple[float, ...]) -> Curve:
    """Make a published curve from the coverages of its points; α never falls as more is covered."""
    found = sorted(zip(coverages, (point.rate for point in PUBLISHED[model]), strict=True))
    shares, rates = zip((0.0, 0.0), *found, (1.0, FOUR_BIT_COPY[model]), strict=True)
    return Curve(shares, tuple(np.maximum.accumulate(rates).tolist()))
