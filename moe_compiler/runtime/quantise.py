"""INT8 weights with an FP16 scale per 32 inputs, cut into a signed top nibble and an unsigned low nibble.

w = 16·m + l (docs/reference.md section 2), times the scale. Verify computes with w itself, the draft with 16·m + 8.
Nibbles are kept as they are computed with: a byte holds that of input j in its low half and that of input j + n/2 in
its high half, n being the inputs rounded up to whole groups; m is stored as m + 8.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32
LEAST_SCALE = 2.0**-24
"""The smallest FP16 above zero: no scale is lost."""
HALF_STEP = 8
LARGEST_WEIGHT = 127 * 65_504.0
"""The largest FP16 times the largest INT8."""


@dataclass(frozen=True)
class Packed:
    """A quantised matrix.

    Attributes:
        inputs: columns; those beyond, up to a whole group, are zero.
        top: [out, n/2] uint8, the top nibbles.
        scale: [out, n/32] float16.
        low: [out, n/2] uint8, the low nibbles; None where only the most significant slice is there.
    """

    inputs: int
    top: Tensor
    scale: Tensor
    low: Tensor | None = None

    def whole(self) -> Tensor:
        """Return 16·m + l: [out, n] int8.

        Raises:
            ValueError: the low nibbles are not there.
        """
        values = torch.empty(len(self.top), 2 * self.top.shape[1], dtype=torch.uint8)
        return self.fill(values, is_slice=False)

    def sliced(self) -> Tensor:
        """Return 16·m + 8: [out, n] int8."""
        values = torch.empty(len(self.top), 2 * self.top.shape[1], dtype=torch.uint8)
        return self.fill(values, is_slice=True)

    def fill(self, values: Tensor, is_slice: bool) -> Tensor:
        """Write what is computed with, scales apart, into [out, n] bytes; returns them as int8.

        Raises:
            ValueError: the low nibbles are needed and not there.
        """
        half = self.top.shape[1]
        first, second = values[:, :half], values[:, half:]
        torch.bitwise_left_shift(self.top, 4, out=first)
        torch.bitwise_and(self.top, 240, out=second)
        if is_slice:
            # Stored are m + 8: 16·(m + 8) − 128 + 8.
            return values.sub_(128 - HALF_STEP).view(torch.int8)
        if self.low is None:
            raise ValueError("only the most significant slice of this matrix is here")
        first.bitwise_or_(self.low & 15)
        second.bitwise_or_(self.low >> 4)
        return values.bitwise_xor_(128).view(torch.int8)

    def rows(self, first: int, last: int) -> "Packed":
        """Return some of its rows."""
        low = None if self.low is None else self.low[first:last]
        return Packed(self.inputs, self.top[first:last], self.scale[first:last], low)

    def weights(self, is_slice: bool) -> Tensor:
        """Return what is computed with: [out, in] float32, exactly."""
        values = self.sliced() if is_slice else self.whole()
        return scale(values.to(torch.float32), self.scale)[:, : self.inputs]


def scale(values: Tensor, factors: Tensor) -> Tensor:
    """Multiply [out, n] float32 by the scales of their groups, in place; exact, since a product has at most 19 bits."""
    values.view(len(values), -1, GROUP).mul_(factors.to(torch.float32)[:, :, None])
    return values


def quantise(weight: Tensor) -> Packed:
    """Quantise a matrix [out, in] symmetrically in groups of 32 inputs.

    Raises:
        ValueError: a weight is not finite, or so large that its FP16 scale would not be.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is not a finite number")
    if weight.numel() and weight.abs().max().item() > LARGEST_WEIGHT:
        raise ValueError(f"a weight is beyond {LARGEST_WEIGHT:,.0f}: its scale is no finite FP16")
    out, inputs = weight.shape
    groups = -(-inputs // GROUP)
    padded = torch.zeros(out, groups * GROUP, dtype=torch.float32)
    padded[:, :inputs] = weight.to(torch.float32)
    grouped = padded.view(out, groups, GROUP)
    factors = (grouped.abs().amax(dim=2) / 127).clamp(min=LEAST_SCALE).to(torch.float16)
    whole = torch.round(grouped / factors.to(torch.float32)[:, :, None]).clamp(-128, 127).to(torch.int16)
    biased = (whole.view(out, groups * GROUP) + 128).to(torch.uint8)
    return Packed(inputs, _nibbles(biased >> 4), factors, _nibbles(biased & 15))


def _nibbles(values: Tensor) -> Tensor:
    half = values.shape[1] // 2
    return values[:, :half] | (values[:, half:] << 4)
