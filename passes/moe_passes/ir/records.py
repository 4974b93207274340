"""Flat dataclasses as attributes of an operation, and back.

A record's field `x` is the attribute `x`: int → i64, float → f64, str → string, tuple of int → array<i64>, tuple of str
→ array of strings. Where the operation has a symbol, the field `name` is its `sym_name`.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch_mlir import ir

R = TypeVar("R")


def to_attribute(value: Any) -> ir.Attribute:
    """Turn one field's value into an attribute; needs a current MLIR context."""
    if isinstance(value, int):
        return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)
    if isinstance(value, float):
        return ir.FloatAttr.get(ir.F64Type.get(), value)
    if isinstance(value, str):
        return ir.StringAttr.get(value)
    if isinstance(value, tuple) and value and all(isinstance(v, str) for v in value):
        return ir.ArrayAttr.get([ir.StringAttr.get(v) for v in value])
    return ir.DenseI64ArrayAttr.get([int(v) for v in value])


def tensor(values: npt.ArrayLike) -> ir.Attribute:
    """Turn an array of integers into `dense<…> : tensor<…xi64>`; needs a current MLIR context."""
    return ir.DenseElementsAttr.get(np.ascontiguousarray(values, dtype=np.int64))


def symbol_ref(name: str) -> ir.Attribute:
    """Return a reference to a symbol; needs a current MLIR context."""
    return ir.FlatSymbolRefAttr.get(name)


def array(attributes: Sequence[ir.Attribute]) -> ir.Attribute:
    """Return an array attribute; needs a current MLIR context."""
    return ir.ArrayAttr.get(list(attributes))


def to_attributes(record: Any, operation: type) -> dict[str, ir.Attribute]:
    """Turn a record into the attributes of an operation."""
    return {
        _attribute_name(f.name, operation): to_attribute(getattr(record, f.name))
        for f in fields(record)
        if _declares(operation, _attribute_name(f.name, operation))
    }


def from_operation(record: type[R], op: ir.OpView) -> R:
    """Read the record that an operation carries."""
    values = {}
    for f in fields(record):  # type: ignore[arg-type]
        attribute = op.attributes[_attribute_name(f.name, type(op))].maybe_downcast()
        if isinstance(attribute, ir.DenseI64ArrayAttr):
            values[f.name] = tuple(attribute)
        elif isinstance(attribute, ir.ArrayAttr):
            values[f.name] = tuple(a.maybe_downcast().value for a in attribute)
        else:
            values[f.name] = attribute.value
    return record(**values)


def _declares(operation: type, name: str) -> bool:
    return any(field.name == name for field in operation._fields)  # type: ignore[attr-defined]


def _attribute_name(field: str, operation: type) -> str:
    return "sym_name" if field == "name" and _declares(operation, "sym_name") else field
