"""Products and functions of rows, each row by itself, so that a row does not depend on what runs with it."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from moe_compiler.runtime import compiled, reader
from moe_compiler.runtime.quantise import GROUP, Packed, quantise
from moe_compiler.runtime.uncaught import uncaught

VECTOR_VALUES, THREAD_VALUES = 64, 2**14
"""Values that fill whole vectors of any machine; and fewer than ATen gives to more than one thread."""
NOTHING = torch.empty(0, dtype=torch.uint8)
WORTH_THREADS = 2**20
"""Products of a call that more than one thread computes."""
KERNEL = f"fused dequantise and multiply, Numba {numba.__version__}"


def warm_up() -> None:
    """Compile the kernels, or read what was compiled before: it takes time and memory that are no part of a run.

    They run on as many threads as torch does; Numba keeps that number for each thread that calls them.
    """
    numba.set_num_threads(min(numba.config.NUMBA_NUM_THREADS, torch.get_num_threads()))  # type: ignore[attr-defined]
    for rows in (1, WORTH_THREADS // GROUP):
        some, places = torch.zeros(rows, GROUP), torch.zeros(rows, dtype=torch.int64)
        multiply(some, quantise(some[:1]), False)
        softmax(some)
        attend(some[:, None], (some[None, None, :1], some[None, None, :1]), (places, places), 0, 1.0, None)
    reader.warm_up()


@uncaught
def multiply(rows: Tensor, packed: Packed, is_slice: bool) -> Tensor:
    """Multiply [row, in] with a packed matrix [out, in]: [row, out] float32, batch-invariant.

    Args:
        rows: activations.
        packed: the matrix.
        is_slice: whether to compute with its most significant slice.

    Raises:
        ValueError: the low nibbles are needed and not there.
        RuntimeError: rows and matrix are not of one width.
    """
    if rows.shape[1] != packed.inputs:
        raise RuntimeError(f"rows of {rows.shape[1]} are multiplied with a matrix of {packed.inputs} inputs")
    out, half = packed.top.shape
    if packed.low is None and not is_slice:
        raise ValueError("only the most significant slice of this matrix is here")
    low = NOTHING.expand(out, 0) if is_slice or packed.low is None else packed.low
    aligned = rows.detach().to(torch.float32).contiguous()
    if packed.inputs != 2 * half:
        aligned = torch.nn.functional.pad(aligned, (0, 2 * half - packed.inputs))
    result = torch.empty(len(rows), out, dtype=torch.float32)
    scales = packed.scale.numpy().view(np.uint16)
    kernel = compiled.multiply if result.numel() * aligned.shape[1] >= WORTH_THREADS else compiled.multiply_alone
    kernel(packed.top.numpy(), low.numpy(), scales, aligned.numpy(), result.numpy())
    return result


@uncaught
def attend(
    query: Tensor,
    cache: tuple[Tensor, Tensor],
    rows: tuple[Tensor, Tensor],
    window: int,
    scaling: float,
    sinks: Tensor | None,
) -> Tensor:
    """Attend, each row over its cache up to its own position: [row, heads, value dim] float32.

    Args:
        query: [row, heads, dim].
        cache: keys [cache, kv heads, position, dim] and values [cache, kv heads, position, value dim].
        rows: the cache and the position of every row: [row] each.
        window: positions that a row looks at; 0: all.
        scaling: of the scores.
        sinks: [heads], extra scores that take part in the softmax only.
    """
    result = torch.empty(*query.shape[:2], cache[1].shape[3], dtype=torch.float32)
    extra = torch.empty(0) if sinks is None else sinks.detach().to(torch.float32).contiguous()
    places = min(window, cache[0].shape[2]) or cache[0].shape[2]
    kernel = compiled.attend if query.numel() * places >= WORTH_THREADS else compiled.attend_alone
    kernel(
        query.detach().to(torch.float32).contiguous().numpy(),
        (cache[0].numpy(), cache[1].numpy()),
        *(part.contiguous().numpy() for part in rows),
        (window, np.float32(scaling)),
        extra.numpy(),
        result.numpy(),
    )
    return result


@uncaught
def softmax(values: Tensor) -> Tensor:
    """Return the softmax over the last dimension, float32, batch-invariant, computed here and now.

    ATen shares out even a few values between all threads, and waits: milliseconds where a load or another program has
    a core.
    """
    columns = values.shape[-1]
    rows = values.detach().to(torch.float32).reshape(values.numel() // columns, columns).contiguous()
    result = torch.empty_like(rows)
    compiled.softmax(rows.numpy(), result.numpy())
    return result.view(values.shape)


def pointwise(function: Callable[..., Tensor], values: Tensor, *args: Any, **options: Any) -> Tensor:
    """Compute a function of every value, the same way wherever a value stands.

    ATen computes whole vectors with another routine than what is left at the end of a tensor, or of a thread's part of
    it. So each row is filled up to whole vectors, and no more values are taken at once than one thread gets.
    """
    if values.dim() and values.shape[-1] % VECTOR_VALUES == 0 and values.numel() <= THREAD_VALUES:
        return function(values.contiguous(), *args, **options)
    rows = values.reshape(-1, values.shape[-1] if values.dim() else 1)
    padded = torch.zeros(len(rows), -(-rows.shape[1] // VECTOR_VALUES) * VECTOR_VALUES, dtype=values.dtype)
    padded[:, : rows.shape[1]] = rows
    flat = padded.flatten()
    pieces = [flat[first : first + THREAD_VALUES] for first in range(0, len(flat), THREAD_VALUES)]
    parts = [function(piece, *args, **options) for piece in pieces]
    result = torch.cat(parts).view(padded.shape)[:, : rows.shape[1]]
    return result.reshape(values.shape)
