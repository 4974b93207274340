"""Loops that Numba compiles for the machine that it runs on: attention and softmax; products.py has those of products.

Every row of activations meets the same instructions in the same order, whichever rows are computed with it and on
however many threads, so a row's result does not depend on its batch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange

SUMS = {"reassoc", "contract", "nsz"}
"""What sums may do: run in lanes and fuse products; the order is then that of the compiled loop, always."""


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
