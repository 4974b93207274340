"""The bytes of an expert: its most significant slice, and the rest of it, each in one piece that a disk reads directly.

The slice is the top nibbles of all matrices, then their scales; the rest is the low nibbles. Pieces are padded to whole
pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_compiler.runtime.quantise import GROUP, Packed
from moe_compiler.runtime.uncaught import uncaught

SLICE, REST = "slice", "rest"
"""The pieces of an expert: its most significant slice with scales, and its low nibbles."""
PAGE = 4096
"""Bytes that direct reads are aligned to."""


def padded(size: int) -> int:
    """Round bytes up to whole pages."""
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True)
class Layout:
    """How matrices lie in bytes.

    Attributes:
        shapes: (out, in) of each.
    """

    shapes: tuple[tuple[int, int], ...]

    @staticmethod
    def of(matrices: Sequence[Packed]) -> "Layout":
        """Return the layout of packed matrices."""
        return Layout(tuple((len(matrix.top), matrix.inputs) for matrix in matrices))

    @property
    def nibble_bytes(self) -> int:
        """Bytes of the nibbles of one kind."""
        return sum(out * _columns(inputs) // 2 for out, inputs in self.shapes)

    @property
    def slice_bytes(self) -> int:
        """Bytes of the most significant slice, scales included."""
        return self.nibble_bytes + sum(2 * out * _columns(inputs) // GROUP for out, inputs in self.shapes)

    @property
    def rest_bytes(self) -> int:
        """Bytes of the low nibbles."""
        return self.nibble_bytes

    def bytes_of(self, pieces: Sequence[str]) -> int:
        """Return the bytes of some pieces."""
        return sum(self.slice_bytes if piece == SLICE else self.rest_bytes for piece in pieces)

    def pack(self, matrices: Sequence[Packed]) -> tuple[Tensor, Tensor]:
        """Return the slice and the rest: [byte] uint8, padded."""
        scales = [matrix.scale.contiguous().view(torch.uint8).flatten() for matrix in matrices]
        tops = [matrix.top.flatten() for matrix in matrices]
        lows = [matrix.low.flatten() for matrix in matrices if matrix.low is not None]
        return _in_pages([*tops, *scales]), _in_pages(lows)

    @uncaught
    def views(self, piece: Tensor, rest: Tensor | None = None) -> tuple[Packed, ...]:
        """Return the matrices that lie in bytes, without a copy.

        Args:
            piece: their slice: [byte] uint8.
            rest: their low nibbles; None: they are not there.
        """
        result, top, scale = [], 0, self.nibble_bytes
        for out, inputs in self.shapes:
            half, groups = _columns(inputs) // 2, _columns(inputs) // GROUP
            nibbles, scales = out * half, 2 * out * groups
            tops = piece[top : top + nibbles].view(out, half)
            low = None if rest is None else rest[top : top + nibbles].view(out, half)
            factors = piece[scale : scale + scales].view(torch.float16).view(out, groups)
            result.append(Packed(inputs, tops, factors, low))
            top, scale = top + nibbles, scale + scales
        return tuple(result)


def _columns(inputs: int) -> int:
    return -(-inputs // GROUP) * GROUP


def _in_pages(parts: Sequence[Tensor]) -> Tensor:
    size = sum(len(part) for part in parts)
    result = torch.zeros(padded(size), dtype=torch.uint8)
    if parts:
        torch.cat(list(parts), out=result[:size])
    return result
