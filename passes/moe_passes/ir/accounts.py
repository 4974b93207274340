"""What passes weighed, as module attributes: `moe.account.PASS = #moe.account<{…}>`, one a pass.

A dataclass of `plan/accounts.py` is a dictionary; a field of it is a number, a truth value, a text, an array of
integers, or a dataclass or a tuple of such again; what is None is left out.
"""

import types
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch_mlir import ir

from moe_passes.ir.dialects.base import LARGEST, WrongError, array, entries, integers, value
from moe_passes.ir.dialects.request import Account
from moe_passes.ir.records import to_attribute
from moe_passes.plan.errors import InputError

R = TypeVar("R")
PREFIX = "moe.account."


def write_account(module: ir.Module, pass_name: str, account: Any) -> None:
    """Say what a pass weighed, in place of what an earlier run of it said."""
    with module.context, ir.Location.unknown():
        module.operation.attributes[PREFIX + pass_name] = Account.get(_attribute(account))


def read_account(module: ir.Module, pass_name: str, kind: type[R]) -> R | None:
    """Return what a pass weighed; None where it did not say.

    Raises:
        InputError: an account is malformed.
    """
    name = PREFIX + pass_name
    if name not in module.operation.attributes:
        return None
    what = f"attribute '{name}'"
    found = module.operation.attributes[name].maybe_downcast()
    try:
        if not isinstance(found, Account):
            raise WrongError(f"{what} is {str(found)[:60]}; valid: #moe.account<{{…}}>")
        read: R = _read(found.says, kind, what)
        return read
    except WrongError as error:
        raise InputError(str(error)) from None


def _attribute(said: Any) -> ir.Attribute:
    if is_dataclass(said):
        parts = {f.name: getattr(said, f.name) for f in fields(said)}
        return ir.DictAttr.get({name: _attribute(part) for name, part in parts.items() if part is not None})
    if isinstance(said, bool):
        return ir.BoolAttr.get(said)
    if isinstance(said, tuple) and not all(isinstance(part, int) for part in said):
        return ir.ArrayAttr.get([_attribute(part) for part in said])
    return to_attribute(said)


def _read(attribute: ir.Attribute | None, hint: Any, what: str) -> Any:
    if isinstance(hint, types.UnionType):
        inner = next(kind for kind in typing.get_args(hint) if kind is not type(None))
        return None if attribute is None else _read(attribute, inner, what)
    if is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        found = entries(attribute, what, hints)
        return hint(**{name: _read(found.get(name), of, f"{what}, {name}") for name, of in hints.items()})  # type: ignore[operator]
    if typing.get_origin(hint) is tuple:
        return _tuple(attribute, typing.get_args(hint)[0], what)
    found = value(attribute, what)
    if type(found) is not hint:
        raise WrongError(f"{what} is {str(attribute)[:60]}; valid: a {hint.__name__}")
    return found


def _tuple(attribute: ir.Attribute | None, inner: Any, what: str) -> Sequence[Any]:
    if inner is int:
        return integers(attribute, what, -LARGEST, LARGEST)
    return tuple(_read(part, inner, what) for part in array(attribute, what))
