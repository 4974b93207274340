"""Flat dataclasses as attributes of an operation, and back.

A record's field `x` is the attribute `x`: int → i64, float → f64, bool → i1, str → string,
tuple of int → array<i64>, tuple of str → array of strings.
"""

from dataclasses import fields
from typing import Any, TypeVar

from torch_mlir import ir

R = TypeVar("R")


def to_attribute(value: Any) -> ir.Attribute:
    """Turn one field's value into an attribute; needs a current MLIR context."""
    if isinstance(value, bool):
        return ir.BoolAttr.get(value)
    if isinstance(value, int):
        return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)
    if isinstance(value, float):
        return ir.FloatAttr.get(ir.F64Type.get(), value)
    if isinstance(value, str):
        return ir.StringAttr.get(value)
    if isinstance(value, tuple) and all(isinstance(v, str) for v in value):
        return ir.ArrayAttr.get([ir.StringAttr.get(v) for v in value])
    return ir.DenseI64ArrayAttr.get([int(v) for v in value])


def to_attributes(record: Any) -> dict[str, ir.Attribute]:
    """Turn a record into attributes, by field name."""
    return {f.name: to_attribute(getattr(record, f.name)) for f in fields(record)}


def to_value(attribute: ir.Attribute) -> Any:
    """Turn an attribute of a record back into a Python value."""
    if isinstance(attribute, ir.DenseI64ArrayAttr):
        return tuple(attribute)
    if isinstance(attribute, ir.ArrayAttr):
        return tuple(to_value(a) for a in attribute)
    return attribute.value


def from_operation(record: type[R], op: ir.OpView) -> R:
    """Read the record that an operation carries."""
    names = [f.name for f in fields(record)]  # type: ignore[arg-type]
    return record(**{name: to_value(op.attributes[name]) for name in names})
