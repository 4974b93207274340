"""Loops that Numba compiles for the machine that it runs on: products with packed weights, attention, and softmax.

Every row of activations meets the same instructions in the same order, whichever rows are computed with it and on
however many threads, so a row's result does not depend on its batch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange
from numba.core import types
from numba.extending import intrinsic

from moe_compiler.runtime.quantise import GROUP

SUMS = {"reassoc", "contract", "nsz"}
"""What sums may do: run in lanes and fuse products; the order is then that of the compiled loop, always."""
OUTPUTS = 16
"""Outputs that a thread computes at a time."""
POWERS = np.array([2.0**-24, *(2.0 ** (exponent - 25) for exponent in range(1, 31)), np.inf], dtype=np.float32)
"""What the last place of a float16 is worth, by the bits of its exponent."""


def natively(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function when it is first called, and keep it for other processes where there is a place for that."""

    def decorate(function: Callable[..., Any]) -> Any:
        settings = {"nogil": True, "error_model": "numpy", **options}
        try:
            return njit(cache=True, **settings)(function)
        except RuntimeError:
            return njit(**settings)(function)

    return decorate


@natively(fastmath=SUMS)
def _dot(first: Any, second: Any) -> Any:
    total = np.float32(0)
    for n in range(first.shape[0]):
        total += first[n] * second[n]
    return total


@natively(fastmath=SUMS)
def _whole(top: Any, low: Any, weights: Any) -> None:
    """Fill [n] float32 with 16·m + l of a row of a matrix."""
    half = weights.shape[0] // 2
    for j in range(half):
        weights[j] = np.float32(np.int8(np.uint8((np.uint8(top[j] << 4) | np.uint8(low[j] & 15)) ^ 128)))
    for j in range(half):
        weights[half + j] = np.float32(np.int8(np.uint8((np.uint8(top[j] & 240) | np.uint8(low[j] >> 4)) ^ 128)))


@natively(fastmath=SUMS)
def _slice(top: Any, weights: Any) -> None:
    """Fill [n] float32 with 16·m + 8."""
    half = weights.shape[0] // 2
    for j in range(half):
        weights[j] = np.float32(np.int8(np.uint8(np.uint8(top[j] << 4) ^ 136)))
    for j in range(half):
        weights[half + j] = np.float32(np.int8(np.uint8(np.uint8(top[j] & 240) ^ 136)))


@natively()
def _float(half: Any) -> Any:
    """Return the float32 that the bits of a finite float16 mean, exactly: Numba knows no float16 on a CPU."""
    exponent, digits = (half >> 10) & 31, half & 1023
    size = np.float32(digits + 1024 if exponent else digits) * POWERS[exponent]
    return -size if half & 32768 else size


def _scale_group(typing: Any, weights: Any, group: Any, factor: Any) -> Any:
    """Multiply the weights of a group by a factor, as one vector.

    Of a loop over them LLVM makes products one after the other: it is unrolled before loops become vectors, and what
    would make vectors of the products (`NUMBA_SLP_VECTORIZE`) Numba leaves off, for it has compiled wrongly.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        first = builder.mul(values[1], ir.Constant(values[1].type, GROUP))
        vector, lanes = ir.VectorType(ir.FloatType(), GROUP), ir.VectorType(ir.IntType(32), GROUP)
        place = builder.bitcast(builder.gep(array.data, [first]), vector.as_pointer())
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), values[2], ir.IntType(32)(0))
        factors = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes([0] * GROUP))
        builder.store(builder.fmul(builder.load(place, align=4), factors), place, align=4)
        return context.get_dummy_value()

    return types.void(weights, group, factor), generate


scale_group: Any = intrinsic(_scale_group)


@natively()
def _scale(weights: Any, scales: Any) -> None:
    """Multiply every group of weights by its scale: each product has at most 19 bits, so it is exact."""
    for group in range(weights.shape[0] // GROUP):
        scale_group(weights, group, _float(scales[group]))


@natively()
def _outputs(block: int, top: Any, low: Any, scales: Any, rows: Any, result: Any) -> None:
    """Compute some outputs of every row: a row of the matrix is float32 at a time."""
    weights = np.empty(rows.shape[1], np.float32)
    for out in range(block * OUTPUTS, min(top.shape[0], (block + 1) * OUTPUTS)):
        if low.shape[1]:
            _whole(top[out], low[out], weights)
        else:
            _slice(top[out], weights)
        _scale(weights, scales[out])
        for row in range(rows.shape[0]):
            result[row, out] = _dot(weights, rows[row])


@natively()
def multiply_alone(top: Any, low: Any, scales: Any, rows: Any, result: Any) -> None:
    """Multiply rows with a packed matrix, on one thread.

    Args:
        top: [out, n/2] uint8, two top nibbles m + 8 to a byte: inputs j and j + n/2.
        low: [out, n/2] uint8, the low nibbles l; [out, 0]: the draft's 16·m + 8 is computed with.
        scales: [out, n/32] uint16, the bits of float16.
        rows: [row, n] float32, activations.
        result: [row, out] float32, is filled.
    """
    for block in range((top.shape[0] + OUTPUTS - 1) // OUTPUTS):
        _outputs(block, top, low, scales, rows, result)


@natively(parallel=True)
def multiply(top: Any, low: Any, scales: Any, rows: Any, result: Any) -> None:
    """Do what `multiply_alone` does, on all threads."""
    for block in prange((top.shape[0] + OUTPUTS - 1) // OUTPUTS):
        _outputs(block, top, low, scales, rows, result)


@natively()
def _head(query: Any, keys: Any, values: Any, window: int, scaling: Any, sinks: Any, result: Any) -> None:
    """Attend with one head of one row over the positions up to its own."""
    places = keys.shape[0]
    first = max(0, places - window) if window else 0
    scores = np.empty(places - first, np.float32)
    highest = sinks[0] if sinks.shape[0] else np.float32(-np.inf)
    for n in range(scores.shape[0]):
        scores[n] = _dot(query, keys[first + n]) * scaling
        highest = max(highest, scores[n])
    total = np.exp(sinks[0] - highest) if sinks.shape[0] else np.float32(0)
    for n in range(scores.shape[0]):
        scores[n] = np.exp(scores[n] - highest)
        total += scores[n]
    for d in range(result.shape[0]):
        result[d] = np.float32(0)
    for n in range(scores.shape[0]):
        share = scores[n] / total
        for d in range(result.shape[0]):
            result[d] += share * values[first + n, d]


@natively()
def _task(task: int, query: Any, cache: Any, of: Any, last: Any, how: Any, sinks: Any, result: Any) -> None:
    heads, (keys, values), (window, scaling) = query.shape[1], cache, how
    row, head = task // heads, task % heads
    kv, seen = head // (heads // keys.shape[1]), last[row] + 1
    extra = sinks[head : head + 1]
    key, value = keys[of[row], kv, :seen], values[of[row], kv, :seen]
    _head(query[row, head], key, value, window, scaling, extra, result[row, head])


@natively()
def attend_alone(query: Any, cache: Any, of: Any, last: Any, how: Any, sinks: Any, result: Any) -> None:
    """Attend over caches, each row up to its own position, on one thread.

    Args:
        query: [row, heads, dim] float32.
        cache: keys [cache, kv heads, position, dim] and values [cache, kv heads, position, value dim], float32.
        of: [row] int64, whose cache a row looks at.
        last: [row] int64, the position of a row.
        how: positions that a row looks at, 0 for all; and the scaling of its scores, float32.
        sinks: [heads] float32, scores that take part in the softmax only; or none.
        result: [row, heads, value dim] float32, is filled.
    """
    for task in range(query.shape[0] * query.shape[1]):
        _task(task, query, cache, of, last, how, sinks, result)


@natively(fastmath=SUMS)
def softmax(values: Any, result: Any) -> None:
    """Fill [row, n] float32 with the softmax of every row of [row, n] float32, on one thread."""
    for row in range(values.shape[0]):
        highest, total = values[row].max(), np.float32(0)
        for n in range(values.shape[1]):
            result[row, n] = np.exp(values[row, n] - highest)
            total += result[row, n]
        for n in range(values.shape[1]):
            result[row, n] /= total


@natively(parallel=True)
def attend(query: Any, cache: Any, of: Any, last: Any, how: Any, sinks: Any, result: Any) -> None:
    """Do what `attend_alone` does, on all threads."""
    for task in prange(query.shape[0] * query.shape[1]):
        _task(task, query, cache, of, last, how, sinks, result)
