"""Loops that Numba compiles for the machine that it runs on: products with packed weights, and attention.

Every row of activations meets the same instructions in the same order, whichever rows are computed with it, so a row's
result does not depend on its batch.
"""

from typing import Any

import numpy as np
from numba import njit, prange

OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "parallel": True, "error_model": "numpy"}
SUMS = {"reassoc", "contract", "nsz"}
"""What sums may do: run in lanes and fuse products; the order is then that of the compiled loop, always."""
OUTPUTS = 16
"""Outputs that a thread computes at a time."""


@njit(cache=True, nogil=True, fastmath=SUMS)
def _dot(first: Any, second: Any) -> Any:
    total = np.float32(0)
    for n in range(first.shape[0]):
        total += first[n] * second[n]
    return total


@njit(cache=True, nogil=True, fastmath=SUMS)
def _whole(top: Any, low: Any, weights: Any) -> None:
    """Fill [n] float32 with 16·m + l of a row of a matrix."""
    half = weights.shape[0] // 2
    for j in range(half):
        weights[j] = np.float32(np.int8(np.uint8((np.uint8(top[j] << 4) | np.uint8(low[j] & 15)) ^ 128)))
    for j in range(half):
        weights[half + j] = np.float32(np.int8(np.uint8((np.uint8(top[j] & 240) | np.uint8(low[j] >> 4)) ^ 128)))


@njit(cache=True, nogil=True, fastmath=SUMS)
def _slice(top: Any, weights: Any) -> None:
    """Fill [n] float32 with 16·m + 8."""
    half = weights.shape[0] // 2
    for j in range(half):
        weights[j] = np.float32(np.int8(np.uint8(np.uint8(top[j] << 4) ^ 136)))
    for j in range(half):
        weights[half + j] = np.float32(np.int8(np.uint8(np.uint8(top[j] & 240) ^ 136)))


@njit(cache=True, nogil=True, fastmath=SUMS)
def _scale(weights: Any, scales: Any) -> None:
    """Multiply every 32 weights by their scale: each product has at most 19 bits, so it is exact."""
    for group in range(weights.shape[0] // 32):
        factor = scales[group]  # Held: for all that the compiler knows, `weights` could lie where `scales` does.
        for j in range(32):
            weights[group * 32 + j] *= factor


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def multiply(top: Any, low: Any, scales: Any, rows: Any, result: Any) -> None:
    """Multiply rows with a packed matrix, of which a row is float32 at a time.

    Args:
        top: [out, n/2] uint8, two top nibbles m + 8 to a byte: inputs j and j + n/2.
        low: [out, n/2] uint8, the low nibbles l; [out, 0]: the draft's 16·m + 8 is computed with.
        scales: [out, n/32] float32.
        rows: [row, n] float32, activations.
        result: [row, out] float32, is filled.
    """
    outputs = top.shape[0]
    count, columns = rows.shape
    is_whole = low.shape[1] > 0
    for block in prange((outputs + OUTPUTS - 1) // OUTPUTS):
        weights = np.empty(columns, np.float32)
        for out in range(block * OUTPUTS, min(outputs, (block + 1) * OUTPUTS)):
            if is_whole:
                _whole(top[out], low[out], weights)
            else:
                _slice(top[out], weights)
            _scale(weights, scales[out])
            for row in range(count):
                result[row, out] = _dot(weights, rows[row])


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def attend(
    query: Any, keys: Any, values: Any, caches: Any, last: Any, window: int, scaling: Any, sinks: Any, result: Any
) -> None:
    """Attend over caches, each row up to its own position.

    Args:
        query: [row, heads, dim] float32.
        keys: [cache, kv heads, position, dim] float32.
        values: [cache, kv heads, position, value dim] float32.
        caches: [row] int64, whose cache a row looks at.
        last: [row] int64, the position of a row.
        window: positions that a row looks at; 0: all.
        scaling: of the scores, float32.
        sinks: [heads] float32, scores that take part in the softmax only; or none.
        result: [row, heads, value dim] float32, is filled.
    """
    count, heads, _ = query.shape
    shared = heads // keys.shape[1]
    for task in prange(count * heads):
        row, head = task // heads, task % heads
        cache, kv = caches[row], head // shared
        first = max(0, last[row] + 1 - window) if window else 0
        seen = last[row] + 1 - first
        scores = np.empty(seen, np.float32)
        highest = sinks[head] if sinks.shape[0] else np.float32(-np.inf)
        for n in range(seen):
            scores[n] = _dot(query[row, head], keys[cache, kv, first + n]) * scaling
            highest = max(highest, scores[n])
        total = np.exp(sinks[head] - highest) if sinks.shape[0] else np.float32(0)
        for n in range(seen):
            scores[n] = np.exp(scores[n] - highest)
            total += scores[n]
        for d in range(result.shape[2]):
            result[row, head, d] = np.float32(0)
        for n in range(seen):
            share = scores[n] / total
            for d in range(result.shape[2]):
                result[row, head, d] += share * values[cache, kv, first + n, d]
