"""Loops that Triton compiles for a GPU: products with packed weights, attention, softmaxes and sums of rows.

Every program computes for one row of activations, in blocks whose sizes follow from the shape of a row alone: its
result does not depend on what else is computed. No pointer that depends on the batch is specialised on, because what
is known of an address changes how lanes share a sum.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["rows", "result"])  # type: ignore[untyped-decorator]
def multiply(
    top,
    low,
    scale,
    rows,
    result,
    outputs,
    half,
    IS_SLICE: tl.constexpr,
    OUTPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Multiply a row with OUTPUTS rows of a packed matrix; the grid is [row, block of outputs].

    Args:
        top: [out, half] uint8, two top nibbles m + 8 to a byte: inputs j and j + half.
        low: likewise the low nibbles l; not looked at where IS_SLICE.
        scale: [out, half / 16] float16, of every 32 inputs.
        rows: [row, 2 * half] float32, activations.
        result: [row, out] float32, is filled.
        outputs: of the matrix.
        half: of its inputs.
        IS_SLICE: whether to compute with 16·m + 8 instead of 16·m + l.
        OUTPUTS: computed at a time.
        COLUMNS: bytes of a row of the matrix that are looked at at a time.
    """
    row = tl.program_id(0).to(tl.int64)
    out = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_out = (out < outputs)[:, None]
    of_matrix, of_scale = out.to(tl.int64)[:, None] * half, out.to(tl.int64)[:, None] * (half // 16)
    activations = rows + row * 2 * half
    total = tl.zeros((OUTPUTS, COLUMNS), dtype=tl.float32)
    for first in range(0, half, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        is_column = column < half
        is_here = is_out & is_column[None, :]
        places = of_matrix + column[None, :]
        tops = tl.load(top + places, mask=is_here, other=0).to(tl.int32)
        if IS_SLICE:
            lows = tl.full((OUTPUTS, COLUMNS), 0x88, dtype=tl.int32)
        else:
            lows = tl.load(low + places, mask=is_here, other=0).to(tl.int32)
        before = (tops & 15) * 16 + (lows & 15) - 128
        behind = (tops >> 4) * 16 + (lows >> 4) - 128
        first_scale = tl.load(scale + of_scale + (column // 32)[None, :], mask=is_here, other=0.0)
        second_scale = tl.load(scale + of_scale + ((half + column) // 32)[None, :], mask=is_here, other=0.0)
        left = tl.load(activations + column, mask=is_column, other=0.0)
        right = tl.load(activations + half + column, mask=is_column, other=0.0)
        total += before.to(tl.float32) * first_scale.to(tl.float32) * left[None, :]
        total += behind.to(tl.float32) * second_scale.to(tl.float32) * right[None, :]
    tl.store(result + row * outputs + out, tl.sum(total, axis=1), mask=out < outputs)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["capacity", "window"], do_not_specialize_on_alignment=["query", "result", "of", "last"]
)
def attend(
    query,
    keys,
    values,
    of,
    last,
    sinks,
    result,
    scaling,
    heads,
    kv_heads,
    capacity,
    dim,
    value_dim,
    window,
    HAS_SINKS: tl.constexpr,
    PLACES: tl.constexpr,
    DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
):
    """Attend with one head of one row over its cache up to its own position; the grid is [row, head].

    Args:
        query: [row, heads, dim] float32.
        keys: [cache, kv heads, capacity, dim] float32.
        values: [cache, kv heads, capacity, value dim] float32.
        of: [row] int64, whose cache a row looks at.
        last: [row] int64, the position of a row.
        sinks: [heads] float32, scores that take part in the softmax only; not looked at without HAS_SINKS.
        result: [row, heads, value dim] float32, is filled.
        scaling: of the scores.
        heads: of a row.
        kv_heads: that they share.
        capacity: positions of a cache.
        dim: of a key.
        value_dim: of a value.
        window: positions that a row looks at, 0 for all.
        HAS_SINKS: whether there are such scores.
        PLACES: positions at a time.
        DIM: of a key, rounded up to a power of two.
        VALUE_DIM: likewise of a value.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cache = tl.load(of + row) * kv_heads + head // (heads // kv_heads)
    seen = tl.load(last + row).to(tl.int32) + 1
    at_key, at_value, places = tl.arange(0, DIM), tl.arange(0, VALUE_DIM), tl.arange(0, PLACES)
    is_key, is_value = (at_key < dim)[None, :], (at_value < value_dim)[None, :]
    asked = tl.load(query + (row * heads + head) * dim + at_key, mask=at_key < dim, other=0.0)
    key, value = keys + cache * capacity * dim, values + cache * capacity * value_dim
    highest, total = tl.full((), float("-inf"), tl.float32), tl.full((), 0.0, tl.float32)
    if HAS_SINKS:
        highest, total = tl.load(sinks + head), total + 1.0
    found = tl.zeros((VALUE_DIM,), dtype=tl.float32)
    begin = tl.where(window > 0, tl.maximum(seen - window, 0), 0)
    for first in range(begin, seen, PLACES):
        place = (first + places)[:, None]
        is_seen = place < seen
        read_keys = tl.load(key + place * dim + at_key[None, :], mask=is_seen & is_key, other=0.0)
        scores = tl.sum(read_keys * asked[None, :], axis=1) * scaling
        scores = tl.where(first + places < seen, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=0))
        fade, shares = tl.exp(highest - higher), tl.exp(scores - higher)
        read_values = tl.load(value + place * value_dim + at_value[None, :], mask=is_seen & is_value, other=0.0)
        total = total * fade + tl.sum(shares, axis=0)
        found = found * fade + tl.sum(shares[:, None] * read_values, axis=0)
        highest = higher
    tl.store(result + (row * heads + head) * value_dim + at_value, found / total, mask=at_value < value_dim)


@triton.jit(do_not_specialize_on_alignment=["values", "result"])  # type: ignore[untyped-decorator]
def softmax(values, result, columns, COLUMNS: tl.constexpr):
    """Fill [row, columns] float32 with the softmax of every row; COLUMNS is a power of two, no fewer."""
    place = tl.arange(0, COLUMNS)
    at = tl.program_id(0).to(tl.int64) * columns + place
    scores = tl.load(values + at, mask=place < columns, other=float("-inf"))
    shares = tl.exp(scores - tl.max(scores, axis=0))
    tl.store(result + at, shares / tl.sum(shares, axis=0), mask=place < columns)


@triton.jit(do_not_specialize_on_alignment=["values", "result"])  # type: ignore[untyped-decorator]
def add(values, result, columns, COLUMNS: tl.constexpr):
    """Fill [row] float32 with the sum of every row of [row, columns] float32, COLUMNS at a time."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    for first in range(0, columns, COLUMNS):
        place = first + tl.arange(0, COLUMNS)
        total += tl.load(values + row * columns + place, mask=place < columns, other=0.0)
    tl.store(result + row, tl.sum(total, axis=0))
