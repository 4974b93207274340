"""The bytes of an expert as they travel: its low nibbles, or all of it.

Two nibbles a byte; scales are FP16. What is packed unpacks to exactly the same slices.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moe_compiler.runtime.quantise import Sliced


def pack(matrices: Sequence[Sliced], whole: bool) -> Tensor:
    """Pack what is loaded of an expert: the low nibbles, or also the top ones and the scales; [byte] uint8."""
    parts = [_nibbles(matrix.low) for matrix in matrices]
    if whole:
        parts += [_nibbles((matrix.msb + 8).to(torch.uint8)) for matrix in matrices]
        parts += [matrix.scale.contiguous().view(torch.uint8).flatten() for matrix in matrices]
    return torch.cat(parts)


def unpack(data: Tensor, matrices: Sequence[Sliced], whole: bool) -> list[Sliced]:
    """Unpack an expert.

    Args:
        data: what `pack` returned.
        matrices: their shapes; where `whole` does not hold, top nibbles and scales are taken from them.
        whole: whether all of it was packed.
    """
    place = 0

    def take(count: int) -> Tensor:
        nonlocal place
        place += count
        return data[place - count : place]

    lows = [_from_nibbles(take((m.low.numel() + 1) // 2), m.low.shape) for m in matrices]
    if not whole:
        return [Sliced(m.msb, low, m.scale) for m, low in zip(matrices, lows, strict=True)]
    tops = [_from_nibbles(take((m.low.numel() + 1) // 2), m.low.shape).to(torch.int8) - 8 for m in matrices]
    scales = [take(2 * m.scale.numel()).clone().view(torch.float16).view(m.scale.shape) for m in matrices]
    return [Sliced(*parts) for parts in zip(tops, lows, scales, strict=True)]


def packed_bytes(matrices: Sequence[Sliced], whole: bool) -> int:
    """Return how many bytes `pack` takes."""
    size = sum((matrix.low.numel() + 1) // 2 for matrix in matrices)
    return 2 * size + sum(2 * matrix.scale.numel() for matrix in matrices) if whole else size


def _nibbles(values: Tensor) -> Tensor:
    flat = values.flatten()
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    pairs = flat.view(-1, 2)
    return pairs[:, 0] | (pairs[:, 1] << 4)


def _from_nibbles(data: Tensor, shape: torch.Size) -> Tensor:
    return torch.stack([data & 15, data >> 4], dim=1).flatten()[: shape.numel()].view(shape)
