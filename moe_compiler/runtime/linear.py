"""Products and functions of rows, each row by itself, so that a row does not depend on what runs with it.

A block of the matrix becomes float32 in a buffer that stays in the cache, and every row is multiplied with it: one
matrix-vector product of one shape, on aligned rows, in whichever batch a row stands.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from moe_compiler.runtime.quantise import Packed, scale

BLOCK_VALUES = 2**20
"""Weights that are float32 at a time: four MiB."""
VECTOR_VALUES, THREAD_VALUES = 64, 2**14
"""Values that fill whole vectors of any machine; and fewer than ATen gives to more than one thread."""
KERNEL = "torch.mv on blocks dequantised to float32"


def multiply(rows: Tensor, packed: Packed, is_slice: bool) -> Tensor:
    """Multiply [row, in] with a packed matrix [out, in]: [row, out] float32, batch-invariant.

    Args:
        rows: activations.
        packed: the matrix.
        is_slice: whether to compute with its most significant slice.
    """
    out, columns = len(packed.top), 2 * packed.top.shape[1]
    aligned = torch.zeros(len(rows), columns, dtype=torch.float32)
    aligned[:, : packed.inputs] = rows
    result = torch.empty(len(rows), out, dtype=torch.float32)
    step = max(1, BLOCK_VALUES // columns)
    for first in range(0, out, step):
        block = packed.rows(first, first + step)
        values, weights, product = _buffers(len(block.top), columns)
        scale(weights.copy_(block.fill(values, is_slice)), block.scale)
        for row in range(len(rows)):
            result[row, first : first + step] = torch.mv(weights, aligned[row], out=product)
    return result


def pointwise(function: Callable[..., Tensor], values: Tensor, *args: Any, **options: Any) -> Tensor:
    """Compute a function of every value, the same way wherever a value stands.

    ATen computes whole vectors with another routine than what is left at the end of a tensor, or of a thread's part of
    it. So each row is filled up to whole vectors, and no more values are taken at once than one thread gets.
    """
    rows = values.reshape(-1, values.shape[-1] if values.dim() else 1)
    padded = torch.zeros(len(rows), -(-rows.shape[1] // VECTOR_VALUES) * VECTOR_VALUES, dtype=values.dtype)
    padded[:, : rows.shape[1]] = rows
    flat = padded.flatten()
    pieces = [flat[first : first + THREAD_VALUES] for first in range(0, len(flat), THREAD_VALUES)]
    parts = [function(piece, *args, **options) for piece in pieces]
    result = torch.cat(parts).view(padded.shape)[:, : rows.shape[1]]
    return result.reshape(values.shape)


@lru_cache(maxsize=8)
def _buffers(out: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return room for a block: as bytes, as float32, and for its product with a row."""
    with torch.inference_mode(False):
        return torch.empty(out, columns, dtype=torch.uint8), torch.empty(out, columns), torch.empty(out)
