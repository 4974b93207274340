"""The bytes of an expert: its most significant slice, and the rest of it, each in one piece that a disk reads directly.

The slice is the top nibbles of all matrices, then their scales; the rest is the low nibbles. Pieces are padded to whole
pages.
"""

import contextlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from moe_compiler.runtime.quantise import GROUP, Packed
from moe_compiler.runtime.uncaught import uncaught

SLICE, REST = "slice", "rest"
"""The pieces of an expert: its most significant slice with scales, and its low nibbles."""
PAGE = 4096
"""Bytes that direct reads are aligned to."""
LARGE_BYTES = 2**21


def padded(size: int) -> int:
    """Round bytes up to whole pages."""
    return -(-size // PAGE) * PAGE


def pages(size: int) -> Tensor:
    """Return so many bytes that begin on a page: [byte] uint8."""
    room = mmap.mmap(-1, padded(max(1, size)))
    if size >= LARGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        # A sixth faster to read: experts are read once each, and every small page costs a walk through tables.
        with contextlib.suppress(OSError):
            room.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(room, dtype=torch.uint8)


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

    @cached_property
    def slice_bytes(self) -> int:
        """Bytes of the most significant slice, scales included."""
        return sum(map(sum, self._sizes))

    @cached_property
    def rest_bytes(self) -> int:
        """Bytes of the low nibbles."""
        return sum(self._sizes[0])

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
        nibbles, scales = self._sizes
        tops = torch.split_with_sizes(piece[: self.slice_bytes], [*nibbles, *scales])
        lows = None if rest is None else torch.split_with_sizes(rest[: self.rest_bytes], nibbles)
        result = []
        for number, (out, inputs) in enumerate(self.shapes):
            factors = tops[len(self.shapes) + number].view(torch.float16).view(out, -1)
            low = None if lows is None else lows[number].view(out, -1)
            result.append(Packed(inputs, tops[number].view(out, -1), factors, low))
        return tuple(result)

    @cached_property
    def _sizes(self) -> tuple[list[int], list[int]]:
        """Bytes of the nibbles of one kind, and of the scales, of each matrix."""
        columns = [(out, _columns(inputs)) for out, inputs in self.shapes]
        return [out * count // 2 for out, count in columns], [2 * out * count // GROUP for out, count in columns]


def _columns(inputs: int) -> int:
    return -(-inputs // GROUP) * GROUP


def _in_pages(parts: Sequence[Tensor]) -> Tensor:
    size = sum(len(part) for part in parts)
    result = torch.zeros(padded(size), dtype=torch.uint8)
    if parts:
        torch.cat(list(parts), out=result[:size])
    return result
