"""Products and functions of rows on a GPU, each row by itself, as `linear.py` has them on a CPU.

Of torch's own functions, those of single values give a value the same result wherever it stands; products do not (the
order of their sums depends on the number of rows), nor do sums of rows. A model that needs another that is
known to be of that kind is refused.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from moe_compiler.runtime import gpu_kernels
from moe_compiler.runtime.linear import as_rows, caught_softmax, operands
from moe_compiler.runtime.quantise import GROUP, Packed, quantise
from moe_compiler.runtime.uncaught import uncaught

OUTPUTS, COLUMNS = 16, 128
"""Of a matrix that a program computes, and the bytes of each that it looks at, at a time."""
PLACES = 32
"""Of a cache that a program looks at, at a time."""
ADDED = 1024
"""Values of a row that are added at a time, at most."""
KERNEL = f"fused dequantise and multiply, Triton {triton.__version__}"


@uncaught
def multiply(rows: Tensor, packed: Packed, is_slice: bool) -> Tensor:
    """See `linear.multiply`."""
    aligned, low = operands(rows, packed, is_slice)
    outputs, half = packed.top.shape
    result = torch.empty(len(rows), outputs, dtype=torch.float32, device=rows.device)
    _launch(
        gpu_kernels.multiply,
        (len(rows), triton.cdiv(outputs, OUTPUTS)),
        (packed.top, packed.top if low is None else low, packed.scale, aligned, result, outputs, half),
        IS_SLICE=low is None,
        OUTPUTS=OUTPUTS,
        COLUMNS=COLUMNS,
    )
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
    """See `linear.attend`."""
    (keys, values), (of, last) = cache, (part.contiguous() for part in rows)
    count, heads, dim = query.shape
    _, kv_heads, capacity, value_dim = values.shape
    asked = query.detach().to(torch.float32).contiguous()
    result = torch.empty(count, heads, value_dim, dtype=torch.float32, device=query.device)
    extra = keys if sinks is None else sinks.detach().to(torch.float32).contiguous()
    _launch(
        gpu_kernels.attend,
        (count, heads),
        (asked, keys, values, of, last, extra, result, scaling, heads, kv_heads, capacity, dim, value_dim, window),
        HAS_SINKS=sinks is not None,
        PLACES=PLACES,
        DIM=triton.next_power_of_2(dim),
        VALUE_DIM=triton.next_power_of_2(value_dim),
    )
    return result


@uncaught
def softmax(values: Tensor) -> Tensor:
    """See `linear.softmax`."""
    rows = as_rows(values)
    result = torch.empty_like(rows)
    _launch(
        gpu_kernels.softmax,
        (len(rows),),
        (rows, result, rows.shape[1]),
        COLUMNS=triton.next_power_of_2(rows.shape[1]),
    )
    return result.view(values.shape)


@uncaught
def add(values: Tensor) -> Tensor:
    """Return the sum over the last dimension, float32, batch-invariant."""
    rows = as_rows(values)
    result = torch.empty(len(rows), dtype=torch.float32, device=values.device)
    columns = min(ADDED, triton.next_power_of_2(rows.shape[1]))
    _launch(gpu_kernels.add, (len(rows),), (rows, result, rows.shape[1]), COLUMNS=columns)
    return result.view(values.shape[:-1])


def _launch(kernel: Any, grid: tuple[int, ...], values: tuple[Any, ...], **constants: Any) -> None:
    if all(grid):
        kernel[grid](*values, **constants)


def _caught_sum(function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    keeps = _keeps_rows(*args, **options)
    if keeps is None:
        return function(*args, **options)
    values = args[0]
    total = add(values) / (values.shape[-1] if function.__name__ == "mean" else 1)
    return total[..., None] if keeps else total


def _keeps_rows(
    input: Tensor, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None, **others: Any
) -> bool | None:
    """Say whether a sum over the last dimension of float32 keeps it; None: it is another sum."""
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    is_last = input.dim() > 0 and dims in ([-1], [input.dim() - 1]) and input.shape[-1] > 0
    is_plain = input.dtype == torch.float32 == (dtype or input.dtype) and not others
    return keepdim if is_last and is_plain else None


def _refused(function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    if any(isinstance(value, Tensor) and value.is_floating_point() for value in args):
        raise RuntimeError(f"on a GPU, {function.__name__} gives a row another result beside other rows")
    return function(*args, **options)


REFUSED = (
    *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "baddbmm", "addmm", "einsum", "dot", "mv"),
    *("norm", "vector_norm", "linalg_norm", "linalg_vector_norm", "logsumexp", "var", "std", "var_mean", "std_mean"),
    *("cumsum", "cumprod", "prod", "tensordot", "inner", "log_softmax", "group_norm", "normalize"),
    *("conv1d", "scaled_dot_product_attention"),
)
"""Functions whose result for a row depends on how many rows there are, by their names in torch."""
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "softmax": partial(caught_softmax, softmax),
    "sum": _caught_sum,
    "mean": _caught_sum,
    **dict.fromkeys(REFUSED, _refused),
}
"""See `linear.FUNCTIONS`."""


def warm_up(device: torch.device) -> None:
    """Compile the kernels, or read what was compiled before; those of other shapes are compiled as a run meets them."""
    some, places = torch.zeros(1, GROUP, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    # Triton compiles anew for a number of outputs that is a multiple of 16; other kernels follow from more of a shape.
    for outputs, is_slice in itertools.product((16, 17), (False, True)):
        multiply(some, quantise(torch.zeros(outputs, GROUP)).to(device), is_slice)
    softmax(some)
    add(some)
    attend(some[:, None], (some[None, None], some[None, None]), (places, places), 0, 1.0, None)
