"""Multiply rows with packed weights: float32, each row by itself, so that a row does not depend on what runs with it.

A block of the matrix becomes float32 in a buffer that stays in the cache, and every row is multiplied with it: one
matrix-vector product of one shape, on aligned rows, in whichever batch a row stands.
"""

import torch
from torch import Tensor

from moe_compiler.runtime.quantise import Packed, scaled

BLOCK_VALUES = 2**18
"""Weights that are float32 at a time: one MiB."""
KERNEL = "torch.mv on blocks dequantised to float32"


def multiply(rows: Tensor, packed: Packed, is_slice: bool) -> Tensor:
    """Multiply [row, in] with a packed matrix [out, in]: [row, out] float32, batch-invariant.

    Args:
        rows: activations.
        packed: the matrix.
        is_slice: whether to compute with its most significant slice.
    """
    out, columns = packed.top.shape[0], 2 * packed.top.shape[1]
    aligned = torch.zeros(len(rows), columns, dtype=torch.float32)
    aligned[:, : packed.inputs] = rows
    result = torch.empty(len(rows), out, dtype=torch.float32)
    step = max(1, BLOCK_VALUES // columns)
    for first in range(0, out, step):
        block = packed.rows(first, first + step)
        weights = scaled(block.sliced() if is_slice else block.whole(), block.scale)
        for row in range(len(rows)):
            result[row, first : first + step] = torch.mv(weights, aligned[row])
    return result
