"""INT8 weights with an FP16 scale per 32, cut into a signed top nibble and an unsigned low nibble.

w = 16·m + l (docs/reference.md section 2). The draft computes with 16·m + 8, verify with w itself.

Every kernel works on *fixed-point* weights: w · scale · 2²⁴, which is a whole number, because an FP16 scale is a
multiple of 2⁻²⁴. Activations are INT8 per row. Products and sums of whole numbers below 2⁵³ are exact in float64, in
any order: so a row's result does not depend on how many rows are computed with it, on the number of threads, or on the
library below.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32
SCALE_BITS = 24
LARGEST_EXACT = 2.0**53
LARGEST_ACTIVATION = 127
HALF_STEP = 8


@dataclass(frozen=True)
class Sliced:
    """A quantised matrix in two slices.

    Attributes:
        msb: [out, in] int8 in [−8, 7], the signed top nibbles.
        low: [out, in] uint8 in [0, 15], the low nibbles.
        scale: [out, ⌈in / 32⌉] float16.
    """

    msb: Tensor
    low: Tensor
    scale: Tensor

    def verify_weights(self) -> Tensor:
        """Return 16·m + l in fixed point: [out, in] float64, whole numbers."""
        return _fixed(16 * self.msb.to(torch.float64) + self.low.to(torch.float64), self.scale)

    def draft_weights(self) -> Tensor:
        """Return 16·m + 8 in fixed point: [out, in] float64, whole numbers."""
        return _fixed(16 * self.msb.to(torch.float64) + HALF_STEP, self.scale)


def quantise(weight: Tensor) -> Sliced:
    """Quantise a matrix [out, in] symmetrically in groups of 32 inputs.

    Raises:
        ValueError: a weight is not finite, or the matrix is so large that sums would not be exact.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is not a finite number")
    out, inputs = weight.shape
    groups = -(-inputs // GROUP)
    padded = torch.zeros(out, groups * GROUP, dtype=torch.float32, device=weight.device)
    padded[:, :inputs] = weight.to(torch.float32)
    grouped = padded.view(out, groups, GROUP)
    scale = (grouped.abs().amax(dim=2) / 127).clamp(min=2.0**-SCALE_BITS).to(torch.float16)
    # The smallest FP16 above zero is 2⁻²⁴, so no scale is lost.
    whole = torch.round(grouped / scale.to(torch.float32)[:, :, None]).clamp(-128, 127).to(torch.int16)
    whole = whole.view(out, groups * GROUP)[:, :inputs]
    msb = torch.div(whole, 16, rounding_mode="floor")
    sliced = Sliced(msb.to(torch.int8), (whole - 16 * msb).to(torch.uint8), scale)
    for weights in (sliced.verify_weights(), sliced.draft_weights()):
        if (weights.abs().sum(dim=1) * LARGEST_ACTIVATION).max().item() >= LARGEST_EXACT:
            raise ValueError(f"sums over {inputs} inputs of this matrix are not exact in float64")
    return sliced


def _fixed(whole: Tensor, scale: Tensor) -> Tensor:
    factors = (scale.to(torch.float64) * 2.0**SCALE_BITS).repeat_interleave(GROUP, dim=1)
    return whole * factors[:, : whole.shape[1]]


def linear(rows: Tensor, weights: Tensor) -> Tensor:
    """Multiply rows [row, in] with fixed-point weights [out, in]: [row, out] float32, batch-invariant."""
    rows = rows.to(torch.float32)
    scale = (rows.abs().amax(dim=1, keepdim=True) / LARGEST_ACTIVATION).clamp(min=1e-30)
    whole = torch.round(rows / scale).clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION).to(torch.float64)
    exact = whole @ weights.T
    return (exact * (scale.to(torch.float64) * 2.0**-SCALE_BITS)).to(torch.float32)
