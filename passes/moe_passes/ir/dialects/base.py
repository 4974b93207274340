"""What both dialects are built on: operations that check the kind, the type and the range of each of their attributes.

IRDL checks that an attribute is there and of which class it is. The rest is checked here, before anything reads it:
integers are 64 bits wide and floats are finite, numbers lie in their range, symbols name something that exists.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, get_args

from torch_mlir import ir
from torch_mlir.dialects import ext

VERSION = 6
"""Of the dialects; a module says it as `moe.version`."""
LARGEST = 1e18
"""Of every number in a module: beyond any machine, and products of two stay finite."""
I64 = ir.IntegerAttr
F64 = ir.FloatAttr
Symbol = ir.FlatSymbolRefAttr


class I64Array(ir.Attribute):
    """Constraint `array<i64>`: the binding's own class does not tell its IRDL name."""

    attr_name = "builtin.dense_array"


class WrongError(Exception):
    """An attribute is not what it should be; becomes MLIR's diagnostic of the operation."""


def value(attribute: ir.Attribute | None, what: str, low: float = -LARGEST, high: float = LARGEST) -> Any:
    """Return a number, a string or an array of integers as a Python value.

    Raises:
        WrongError: another kind of attribute, another width, not finite, or out of range.
    """
    found = None if attribute is None else attribute.maybe_downcast()
    if isinstance(found, ir.StringAttr | ir.FlatSymbolRefAttr) and isinstance(found.value, str):
        return found.value
    if isinstance(found, ir.DenseI64ArrayAttr):
        numbers = tuple(found)
        for number in numbers:
            _in_range(number, what, low, high)
        return numbers
    if isinstance(found, ir.IntegerAttr) and str(found.type) == "i64":
        return _in_range(found.value, what, low, high)
    if isinstance(found, ir.FloatAttr) and str(found.type) == "f64":
        if math.isnan(found.value):
            raise WrongError(f"{what} is not a number")
        return found.value if math.isinf(found.value) and high == math.inf else _in_range(found.value, what, low, high)
    if isinstance(found, ir.BoolAttr):
        return found.value
    raise WrongError(f"{what} is {str(attribute)[:60]}; valid: a 64-bit number, a text, a symbol or an array")


def _in_range(number: Any, what: str, low: float, high: float) -> Any:
    if not low <= number <= high:
        raise WrongError(f"{what} is {number}; valid: {low:g} to {high:g}")
    return number


def integer(attribute: ir.Attribute | None, what: str, low: float, high: float) -> int:
    """Return an integer in a range.

    Raises:
        WrongError: it is not one.
    """
    found = value(attribute, what, low, high)
    if isinstance(found, bool) or not isinstance(found, int):
        raise WrongError(f"{what} is {str(attribute)[:60]}; valid: an integer of 64 bits")
    return found


def integers(attribute: ir.Attribute | None, what: str, low: float, high: float) -> tuple[int, ...]:
    """Return integers in a range.

    Raises:
        WrongError: it is no array of them.
    """
    found = value(attribute, what, low, high)
    if not isinstance(found, tuple):
        raise WrongError(f"{what} is {str(attribute)[:60]}; valid: array<i64: …>")
    return found


def array(attribute: ir.Attribute | None, what: str) -> Iterator[Any]:
    """Iterate over the elements of an array attribute.

    Raises:
        WrongError: it is none.
    """
    found = None if attribute is None else attribute.maybe_downcast()
    if not isinstance(found, ir.ArrayAttr):
        raise WrongError(f"{what} is {str(attribute)[:60]}; valid: an array")
    return (element.maybe_downcast() for element in found)


def entries(attribute: ir.Attribute | None, what: str, names: Mapping[str, Any]) -> dict[str, ir.Attribute]:
    """Return the entries of a dictionary attribute.

    Raises:
        WrongError: it is none, or has a key that is not among `names`.
    """
    found = None if attribute is None else attribute.maybe_downcast()
    if not isinstance(found, ir.DictAttr):
        raise WrongError(f"{what} is {str(attribute)[:60]}; valid: a dictionary")
    result = {named.name: named.attr for named in found}
    unknown = sorted(set(result) - set(names))
    if unknown:
        raise WrongError(f"{what} has an entry '{unknown[0]}'; valid: {', '.join(names)}")
    return result


def one_of(names: Iterable[str]) -> str:
    """Word the valid texts of an attribute."""
    return " or ".join(f'"{name}"' for name in names)


def fail(op: ir.OpView, message: str) -> bool:
    """Emit MLIR's diagnostic for an operation."""
    op.location.emit_error(f"'{op.operation.name}' op {message}")
    return False


def module_of(op: ir.OpView) -> ir.OpView:
    """Return the module that an operation is in."""
    at = op.operation.parent
    while at is not None and at.operation.name != "builtin.module":
        at = at.operation.parent
    if at is None:
        raise WrongError("stands in no module")
    return at


def symbol(op: ir.OpView, name: str) -> ir.OpView | None:
    """Return the top-level operation of the module that has a symbol name."""
    symbols = ir.SymbolTable(module_of(op).operation)
    return symbols[name] if name in symbols else None  # noqa: SIM401 (it has no get)


def _check_class(op: ir.OpView, name: str, constraint: Any) -> None:
    if name not in op.attributes:
        raise WrongError(f"requires attribute '{name}'")
    if constraint in (Any, I64Array):
        return
    kinds = get_args(constraint) or (constraint,)
    found = op.attributes[name].maybe_downcast()
    if not isinstance(found, kinds):
        valid = " or ".join(getattr(kind, "attr_name", kind.__name__) for kind in kinds)
        raise WrongError(f"attribute '{name}' is {str(found)[:60]}; valid: {valid}")


def checked(op: ir.OpView, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check the class of every attribute that an operation declares, and the range of plain ones.

    Raises:
        WrongError: one is not what it should be.
    """
    for field in type(op)._fields:
        if isinstance(field, ext.AttributeDef):
            _check_class(op, field.name, field.constraint)
        if field.constraint is I64:
            integer(op.attributes[field.name], f"attribute '{field.name}'", *ranges.get(field.name, (0, LARGEST)))
        elif field.constraint is I64Array:
            integers(op.attributes[field.name], f"attribute '{field.name}'", *ranges.get(field.name, (0, LARGEST)))
        elif field.constraint is F64:
            value(op.attributes[field.name], f"attribute '{field.name}'", *ranges.get(field.name, (0, LARGEST)))


class Moe(ext.Dialect, name="moe"):
    """Mixture-of-experts models, machines and plans."""


class Sched(ext.Dialect, name="sched"):
    """A round as a scheduling problem, and its solution."""


def _verify(op: ir.OpView) -> bool:
    """Check plain attributes against `RANGES`, then what `check` says; what is wrong becomes MLIR's diagnostic."""
    try:
        checked(op, op.RANGES)
        op.check()
    except WrongError as error:
        return fail(op, str(error))
    return True


def _nothing(op: ir.OpView) -> None:
    """Check nothing that concerns more than one attribute."""


class MoeOperation(Moe.Operation):
    """An operation of `moe`. Its plain attributes lie within `RANGES` (0 to `LARGEST` where it has none)."""

    RANGES = MappingProxyType({})
    verify_invariants = _verify
    check = _nothing


class SchedOperation(Sched.Operation):
    """An operation of `sched`; see `MoeOperation`."""

    RANGES = MappingProxyType({})
    verify_invariants = _verify
    check = _nothing


class Open(Moe.Attribute, name="open"):
    """Not decided yet."""
