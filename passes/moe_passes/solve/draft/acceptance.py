"""Acceptance rate α as a function of the share of experts that the draft keeps.

Measured points of arXiv 2604.14626 (MT-Bench table, *elastic* rows), put against the share of experts whose msb slice
fits (docs/reference.md section 3, [D]); the last point of each curve is the α of the 4-bit copy. α is the accepted
fraction of drafted tokens, at a draft length of 6 (docs/reference.md section 3: 6 or 7 fits the table best).
"""

import numpy as np

REFERENCE_LENGTH = 6

CURVES: dict[str, tuple[tuple[float, float], ...]] = {
    "qwen3-30b-a3b": (
        (0.0, 0.0), (0.066, 0.36), (0.116, 0.48), (0.141, 0.57), (0.159, 0.66),
        (0.312, 0.86), (0.361, 0.90), (0.386, 0.91), (0.404, 0.91), (1.0, 0.95),
    ),
    "glm-4.7-flash": (
        (0.0, 0.0), (0.075, 0.47), (0.103, 0.50), (0.117, 0.55), (0.128, 0.61),
        (0.330, 0.74), (0.359, 0.75), (0.373, 0.76), (0.383, 0.78), (1.0, 0.83),
    ),
    "deepseek-v2-lite": (
        (0.0, 0.0), (0.288, 0.70), (0.319, 0.70), (0.334, 0.72), (0.345, 0.72),
        (0.781, 0.82), (0.813, 0.83), (0.828, 0.83), (0.841, 0.84), (1.0, 0.84),
    ),
    "gpt-oss-20b": ((0.0, 0.0), (0.260, 0.44), (0.650, 0.50), (1.0, 0.50)),
}  # fmt: skip


def source(model: str) -> str:
    """Say where α comes from, for outputs."""
    if model in CURVES:
        return f"published curve of {model} (arXiv 2604.14626), not measured here"
    return "assumed: mean of four published curves (arXiv 2604.14626)"


def curve(model: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return a model's curve as (shares, rates); the mean of all where it has none."""
    if model in CURVES:
        shares, rates = zip(*CURVES[model], strict=True)
        return shares, rates
    grid = np.linspace(0.0, 1.0, 21)
    columns = [np.array(points) for points in CURVES.values()]
    mean = np.mean([np.interp(grid, points[:, 0], points[:, 1]) for points in columns], axis=0)
    return tuple(float(x) for x in grid), tuple(float(x) for x in mean)


def at_length(rate: float, length: int) -> float:
    """Move α from the reference length to another draft length.

    The per-token probability p behind it solves Σ_{i=1…γ} p^i = α·γ.
    """
    if length == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(middle**i for i in range(1, REFERENCE_LENGTH + 1)) < rate * REFERENCE_LENGTH:
            low = middle
        else:
            high = middle
    return sum(high**i for i in range(1, length + 1)) / length
