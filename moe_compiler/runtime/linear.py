"""Products and functions of rows on a CPU, each row by itself: a row does not depend on what runs with it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from moe_compiler.runtime import compiled, products, reader
from moe_compiler.runtime.quantise import GROUP, Packed, quantise
from moe_compiler.runtime.uncaught import uncaught

VECTOR_VALUES, THREAD_VALUES = 64, 2**14
"""Values that fill whole vectors of any machine; and fewer than ATen gives to more than one thread."""
NOTHING = torch.empty(0, dtype=torch.uint8)
WORTH_THREADS = 2**20
"""Products of a call that more than one thread computes."""
KERNEL = f"fused dequantise and multiply, Numba {numba.__version__}"
POINTWISE = ("cos", "erf", "exp", "gelu", "log", "mish", "sigmoid", "silu", "sin", "softplus", "tanh")
"""Functions whose last digit depends on where in a tensor a value stands, by their names in torch."""


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
    aligned, low = operands(rows, packed, is_slice)
    result = torch.empty(len(rows), len(packed.top), dtype=torch.float32)
    low = NOTHING.expand(len(packed.top), 0) if low is None else low
    scales = packed.scale.numpy().view(np.uint16)
    kernel = products.multiply if result.numel() * aligned.shape[1] >= WORTH_THREADS else products.multiply_alone
    kernel(packed.top.numpy(), low.numpy(), scales, aligned.numpy(), result.numpy())
    return result


def operands(rows: Tensor, packed: Packed, is_slice: bool) -> tuple[Tensor, Tensor | None]:
    """Return what a packed matrix is multiplied with, as wide as it lies, and its low nibbles; None: not computed with.

    Raises:
        ValueError: the low nibbles are needed and not there, or the matrix is not in whole groups.
        RuntimeError: rows and matrix are not of one width.
    """
    if rows.shape[1] != packed.inputs:
        raise RuntimeError(f"rows of {rows.shape[1]} are multiplied with a matrix of {packed.inputs} inputs")
    if packed.low is None and not is_slice:
        raise ValueError("only the most significant slice of this matrix is here")
    aligned = rows.detach().to(torch.float32).contiguous()
    width = 2 * packed.top.shape[1]
    if packed.scale.shape[1] * GROUP != width:
        raise ValueError(
            f"a matrix {width} wide has {packed.scale.shape[1]} scales a row; valid: one of {GROUP} inputs"
        )
    if packed.inputs != width:
        aligned = torch.nn.functional.pad(aligned, (0, width - packed.inputs))
    return aligned, None if is_slice else packed.low


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
    rows = as_rows(values)
    result = torch.empty_like(rows)
    compiled.softmax(rows.numpy(), result.numpy())
    return result.view(values.shape)


def as_rows(values: Tensor) -> Tensor:
    """Return values as [row, n] float32, n being their last dimension."""
    columns = values.shape[-1]
    return values.detach().to(torch.float32).reshape(values.numel() // columns, columns).contiguous()


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


def _is_of_rows(
    input: Tensor,
    dim: int | None = None,
    dtype: torch.dtype | None = None,
    _stacklevel: int = 0,
    **others: Any,
) -> bool:
    """Say whether a softmax is over the last dimension, to float32, and nothing else is asked of it."""
    is_plain = (dtype or input.dtype) == torch.float32 and not others
    return is_plain and input.dim() > 0 and input.shape[-1] > 0 and dim in (-1, input.dim() - 1)


def caught_softmax(
    ours: Callable[[Tensor], Tensor], function: Callable[..., Tensor], *args: Any, **options: Any
) -> Tensor:
    """Compute a softmax of torch's in our way, where it is over rows."""
    return ours(args[0]) if _is_of_rows(*args, **options) else function(*args, **options)


def _caught_pointwise(function: Callable[..., Tensor], values: Tensor, *args: Any, **options: Any) -> Tensor:
    if not values.is_floating_point():
        return function(values, *args, **options)
    return pointwise(function, values, *args, **options)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "softmax": partial(caught_softmax, softmax),
    **dict.fromkeys(POINTWISE, _caught_pointwise),
}
"""What is computed in another way than torch does, by its name there: it gets torch's function and its arguments."""
