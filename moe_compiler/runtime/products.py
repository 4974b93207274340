"""Products with packed weights: loops that Numba compiles, around vectors that are written in LLVM's language.

Of loops over 32 weights LLVM makes products one after the other: they are unrolled before loops become vectors, and
what would make vectors of the products (`NUMBA_SLP_VECTORIZE`) Numba leaves off, for it has compiled wrongly. Vectors
that a machine does not have, LLVM cuts into those that it has.

Loops and vectors are in one file: Numba compiles loops anew only if their own file has changed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange
from numba.core import cgutils, types
from numba.extending import intrinsic

from moe_compiler.runtime.compiled import natively
from moe_compiler.runtime.quantise import GROUP

OUTPUTS = 16
"""Outputs that a thread computes at a time."""
POWERS = np.array([2.0**-24, *(2.0 ** (exponent - 25) for exponent in range(1, 31)), np.inf], dtype=np.float32)
"""What the last place of a float16 is worth, by the bits of its exponent."""
LANES = GROUP // 2
"""Weights that are scaled at once: they are of one group, wherever the middle of a row lies."""
SUMMED = 2 * GROUP
"""Lanes that products are summed up in: several to a vector unit, for a sum takes some cycles."""
CONTRACT = ("contract",)
"""A product and a sum may be one instruction, always the same one."""
INDEX, FLOAT = ir.IntType(32), ir.FloatType()
UNDEFINED = ir.Constant(ir.VectorType(FLOAT, LANES), ir.Undefined)
allocated: Callable[..., Any] = cgutils.alloca_once_value
counted: Callable[..., Any] = cgutils.for_range


def _filling(count: int) -> Any:
    def fill(typing: Any, weights: Any, at: Any, nibbles: Any, factors: Any) -> Any:
        if not _are_contiguous((weights, factors, *nibbles)):
            return None

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            into, scales = _array(context, builder, weights, values[0]), _array(context, builder, factors, values[3])
            parts = [builder.extract_value(values[2], place) for place in range(len(nibbles))]
            arrays = [_array(context, builder, kind, part) for kind, part in zip(nibbles, parts, strict=True)]
            packed = _unpacked(builder, *(_loaded(builder, array, values[1], count, 1) for array in arrays))
            half = builder.lshr(builder.extract_value(into.shape, 0), values[1].type(1))
            for first, some in zip((values[1], builder.add(half, values[1])), packed, strict=True):
                _scale_into(builder, into, scales, first, some)
            return context.get_dummy_value()

        return types.void(weights, at, nibbles, factors), generate

    return intrinsic(fill)


fill_group: Any = _filling(GROUP)
"""Dequantise 32 bytes of a row's nibbles and so twice as many weights: (weights, at, nibbles, factors).

Fills weights[at:] and [n/2 + at:], [n] float32, with what lies in `nibbles` from byte `at` on, (top,) for 16·m + 8 or
(top, low) for 16·m + l, times the factors of their groups, [n/32] float32.
"""
fill_half: Any = _filling(LANES)
"""The same with 16 bytes: the last ones, where the middle of a row is the middle of a group."""


def _scale_into(builder: Any, into: Any, scales: Any, first: Any, packed: Any) -> None:
    """Write int8 weights as float32, times their factors, from place `first` on."""
    for lane in range(0, packed.type.count, LANES):
        at = builder.add(first, first.type(lane))
        whole = builder.sext(_taken(builder, packed, range(lane, lane + LANES)), ir.VectorType(INDEX, LANES))
        factor = builder.load(builder.gep(scales.data, [builder.udiv(at, at.type(GROUP))]))
        factors = _taken(builder, builder.insert_element(UNDEFINED, factor, INDEX(0)), [0] * LANES)
        product = builder.fmul(builder.sitofp(whole, ir.VectorType(FLOAT, LANES)), factors)
        builder.store(product, _place(builder, into, at, LANES), align=4)


def _unpacked(builder: Any, top: Any, low: Any = None) -> list[Any]:
    """Return int8 vectors of the weights whose nibbles lie in bytes: 16·m + l, or 16·m + 8 where no l are given."""

    def every(value: int) -> Any:
        return ir.Constant(top.type, [value] * top.type.count)

    tops = builder.shl(top, every(4)), builder.and_(top, every(0xF0))
    if low is None:
        return [builder.xor(part, every(0x88)) for part in tops]
    lows = builder.and_(low, every(0x0F)), builder.lshr(low, every(4))
    return [builder.xor(builder.or_(*parts), every(0x80)) for parts in zip(tops, lows, strict=True)]


def _summing(typing: Any, weights: Any, row: Any) -> Any:
    if not _are_contiguous((weights, row)):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pair = _array(context, builder, weights, values[0]), _array(context, builder, row, values[1])
        size = builder.extract_value(pair[0].shape, 0)
        step = size.type(SUMMED)
        total = allocated(builder, ir.Constant(ir.VectorType(FLOAT, SUMMED), [0.0] * SUMMED))
        with counted(builder, builder.udiv(size, step)) as loop:
            _add_products(builder, total, pair, builder.mul(loop.index, step))
        total = allocated(builder, _halved(builder, builder.load(total)))
        with builder.if_then(builder.icmp_unsigned("!=", builder.urem(size, step), size.type(0))):
            _add_products(builder, total, pair, builder.sub(size, size.type(GROUP)))
        found = builder.load(total)
        while found.type.count > 1:
            found = _halved(builder, found)
        return builder.extract_element(found, INDEX(0))

    return types.float32(weights, row), generate


sum_of_products: Any = intrinsic(_summing)
"""Return the float32 sum of the products of two arrays [n] float32, n a multiple of 32, in an order that n decides."""


def _add_products(builder: Any, total: Any, pair: Iterable[Any], at: Any) -> None:
    """Add products to the lanes of a total that lies in memory."""
    lanes = total.type.pointee.count
    product = builder.fmul(*(_loaded(builder, array, at, lanes, 4) for array in pair), flags=CONTRACT)
    builder.store(builder.fadd(builder.load(total), product, flags=CONTRACT), total)


def _halved(builder: Any, vector: Any) -> Any:
    """Add the second half of a vector to its first."""
    lanes = vector.type.count // 2
    return builder.fadd(*(_taken(builder, vector, range(first, first + lanes)) for first in (0, lanes)))


def _are_contiguous(arrays: Iterable[Any]) -> bool:
    return all(array.layout == "C" for array in arrays)


def _array(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value)


def _place(builder: Any, array: Any, at: Any, lanes: int) -> Any:
    """Return where a vector lies that begins at a place of an array."""
    kind = ir.VectorType(array.data.type.pointee, lanes)
    return builder.bitcast(builder.gep(array.data, [at]), kind.as_pointer())


def _loaded(builder: Any, array: Any, at: Any, lanes: int, align: int) -> Any:
    return builder.load(_place(builder, array, at, lanes), align=align)


def _taken(builder: Any, vector: Any, lanes: Iterable[int]) -> Any:
    """Return a vector of some lanes of another."""
    mask = list(lanes)
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(INDEX, len(mask)), mask))


@natively()
def _float(half: Any) -> Any:
    """Return the float32 that the bits of a finite float16 mean, exactly: Numba knows no float16 on a CPU."""
    exponent, digits = (half >> 10) & 31, half & 1023
    size = np.float32(digits + 1024 if exponent else digits) * POWERS[exponent]
    return -size if half & 32768 else size


@natively()
def _dequantise(nibbles: Any, scales: Any, factors: Any, weights: Any) -> None:
    """Fill [n] float32 with a row of a matrix: each product with a scale has at most 19 bits, so it is exact."""
    half = weights.shape[0] // 2
    for group in range(scales.shape[0]):
        factors[group] = _float(scales[group])
    for at in range(0, half - half % GROUP, GROUP):
        fill_group(weights, at, nibbles, factors)
    if half % GROUP:
        fill_half(weights, half - half % GROUP, nibbles, factors)


@natively()
def _room(size: int) -> Any:
    """Return [n] float32 at the beginning of a line of a cache: vectors that lie in two cost a tenth."""
    room = np.empty(size + LANES, np.float32)
    first = -(room.ctypes.data // 4) % LANES
    return room[first : first + size]


@natively()
def _outputs(block: int, top: Any, low: Any, scales: Any, rows: Any, result: Any) -> None:
    """Compute some outputs of every row: a row of the matrix is float32 at a time."""
    weights, factors = _room(rows.shape[1]), _room(scales.shape[1])
    for out in range(block * OUTPUTS, min(top.shape[0], (block + 1) * OUTPUTS)):
        if low.shape[1]:
            _dequantise((top[out], low[out]), scales[out], factors, weights)
        else:
            _dequantise((top[out],), scales[out], factors, weights)
        for row in range(rows.shape[0]):
            result[row, out] = sum_of_products(weights, rows[row])


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
