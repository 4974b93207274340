"""INT8 weights with an FP16 scale per 32 inputs, cut into a signed top nibble and an unsigned low nibble.

w = 16·m + l (docs/reference.md section 2), times the scale. Verify computes with w itself, the draft with 16·m + 8.
Nibbles are kept as they are computed with: a byte holds that of input j in its low half and that of input j + n/2 in
its high half, n being the inputs rounded up to whole groups; m is stored as m + 8.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moe_compiler.runtime.uncaught import uncaught

GROUP = 32
LEAST_SCALE = 2.0**-24
"""The smallest FP16 above zero: no scale is lost."""
HALF_STEP = 8
WHOLE_ACTIVATION_BITS = 32
"""Of what a matrix is multiplied with, where that is not rounded."""
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

    def to(self, device: torch.device) -> "Packed":
        """Return the matrix on a device; its tensors are these, if they are there."""
        low = None if self.low is None else self.low.to(device)
        return Packed(self.inputs, self.top.to(device), self.scale.to(device), low)

    def weights(self, is_slice: bool) -> Tensor:
        """Return what is computed with: [out, in] float32, exactly.

        Raises:
            ValueError: the low nibbles are needed and not there.
        """
        values = self.sliced() if is_slice else self.whole()
        grouped = values.view(len(values), -1, GROUP).to(torch.float32) * self.scale.to(torch.float32)[:, :, None]
        return grouped.view(values.shape)[:, : self.inputs]

    def whole(self) -> Tensor:
        """Return 16·m + l: [out, n] int16."""
        if self.low is None:
            raise ValueError("only the most significant slice of this matrix is here")
        return 16 * (_values(self.top) - 8) + _values(self.low)

    def sliced(self) -> Tensor:
        """Return 16·m + 8: [out, n] int16."""
        return 16 * (_values(self.top) - 8) + HALF_STEP


def _values(nibbles: Tensor) -> Tensor:
    """Return [out, n] int16 of [out, n/2] bytes."""
    return torch.cat([nibbles & 15, nibbles >> 4], dim=1).to(torch.int16)


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


@uncaught
def rounded(activations: Tensor) -> Tensor:
    """Round activations [..., in] to 8 bits, symmetric in groups of 32 with a float32 scale: as float32 again.

    Every operation is of one value, or the largest of a group: a row does not depend on what is rounded with it. A
    group with a value that is not finite is not a number.
    """
    inputs = activations.shape[-1]
    padded = torch.nn.functional.pad(activations.to(torch.float32), (0, -inputs % GROUP))
    grouped = padded.reshape(*padded.shape[:-1], padded.shape[-1] // GROUP, GROUP)
    steps = (grouped.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (torch.round(grouped / steps).clamp(-127, 127) * steps).reshape(padded.shape)[..., :inputs]


def _nibbles(values: Tensor) -> Tensor:
    half = values.shape[1] // 2
    return values[:, :half] | (values[:, half:] << 4)
