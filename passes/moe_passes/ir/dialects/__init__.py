"""The `moe` and `sched` dialects, defined through torch-mlir's Python dialect support.

`context()` gives an MLIR context in which they live next to torch-mlir's own dialects; `irdl()` prints the
definition that makes other tools (`torch-mlir-opt --irdl-file=…`) understand our IR.
"""

import re

from torch_mlir import ir
from torch_mlir._mlir_libs import _mlir
from torch_mlir.dialects import torch as torch_dialect

from moe_passes.ir.dialects import machine, model, request, sched
from moe_passes.ir.dialects.base import VERSION, Moe, Sched
from moe_passes.plan.errors import InputError

_LOCATION = re.compile(r" loc\((?:[^()]|\([^()]*\))*\)|^#loc\d* = .*$", re.MULTILINE)
DEEPEST_NESTING = 100
_TEXTS = re.compile(r'//[^\n]*|"(?:[^"\\\n]|\\.)*"')
"""Comments and strings."""
_NESTING = re.compile(r"->|[\[({<\])}>]|\n")
_ESCAPES = re.compile(r"\\\\|((?:\\[89A-Fa-f][0-9A-Fa-f])+)")
"""Backslashes, and bytes that MLIR writes in hexadecimal."""
VERSION_ATTRIBUTE = "moe.version"

__all__ = [
    "VERSION",
    "VERSION_ATTRIBUTE",
    "Moe",
    "Sched",
    "context",
    "irdl",
    "machine",
    "model",
    "parse",
    "request",
    "sched",
]

# Where MLIR finds no module of a dialect's name, it looks for one again at every operation that it hands to Python.
_mlir.globals.append_dialect_search_prefix(__name__)


def context() -> ir.Context:
    """Return a new MLIR context with the torch, moe and sched dialects loaded."""
    ctx = ir.Context()
    with ctx, ir.Location.unknown():
        torch_dialect.register_dialect(ctx)
        Moe.load()
        Sched.load()
    return ctx


def irdl() -> str:
    """Return the IRDL module of both dialects as text."""
    context()
    bodies = []
    for dialect in (Moe, Sched):
        text = str(dialect._mlir_module)
        bodies.append("\n".join(text.splitlines()[1:-1]))
    return "\n".join(["module {", *bodies, "}", ""])


def parse(text: str, name: str, ctx: ir.Context) -> ir.Module:
    """Parse and verify IR of this version of the dialects.

    Args:
        text: MLIR.
        name: file name for messages.
        ctx: a context from `context()`.

    Raises:
        InputError: with MLIR's own diagnostics (line, column, reason), or another version.
    """
    bare = _TEXTS.sub('""', text)
    _check_depth(bare, name)
    _check_texts(text, name)
    _check_version(bare, '"moe.' in text or '"sched.' in text, name)
    try:
        module = _parse(text, ctx)
        said = module.operation.attributes
        version = str(said[VERSION_ATTRIBUTE]) if VERSION_ATTRIBUTE in said else ""
        if version != f"{VERSION} : i64":
            raise InputError(_other_version(name, version[:40] or None))
        return module
    except ir.MLIRError as error:
        problem = error
    try:
        # Locations of the model would hide the line of the text.
        _parse(_LOCATION.sub("", text), ctx)
    except ir.MLIRError as error:
        problem = error
    details = "\n".join(f"  {line}" for line in diagnostics(problem, name))
    raise InputError(f"{name}: not valid IR\n{details}")


def _parse(text: str, ctx: ir.Context) -> ir.Module:
    with ctx:
        return ir.Module.parse(text)


def _check_version(bare: str, is_ours: bool, name: str) -> None:
    """Refuse IR of another version before its operations are refused for what has changed since."""
    found = re.search(rf"{re.escape(VERSION_ATTRIBUTE)} = (-?\d+)", bare)
    if found is None and not is_ours:
        return
    if found is None or int(found.group(1)) != VERSION:
        raise InputError(_other_version(name, found and found.group(1)))


def _other_version(name: str, version: str | None) -> str:
    which = "without a version, as before version 2" if version is None else f"of version {version}"
    return (
        f"{name}: IR {which}; valid: `module attributes {{{VERSION_ATTRIBUTE} = {VERSION} : i64}}`, which "
        "`moec compile` of this version writes"
    )


def _check_depth(bare: str, name: str) -> None:
    """MLIR's parser is recursive and would overflow its stack on hostile nesting."""
    depth, line = 0, 1
    for found in _NESTING.finditer(bare):
        mark = found.group()
        if mark == "\n":
            line += 1
        elif mark != "->":
            depth = depth + 1 if mark in "[({<" else max(0, depth - 1)
        if depth > DEEPEST_NESTING:
            raise InputError(f"{name}:{line}: nested more than {DEEPEST_NESTING} deep")


def _check_texts(text: str, name: str) -> None:
    """MLIR lets any byte into a string; Python reads strings as UTF-8."""
    for found in _ESCAPES.finditer(text):
        try:
            bytes.fromhex((found.group(1) or "").replace("\\", "")).decode()
        except UnicodeDecodeError:
            line = text.count("\n", 0, found.start()) + 1
            raise InputError(f"{name}:{line}: a text holds {found.group(1)[:40]}; valid: UTF-8") from None


def diagnostics(error: ir.MLIRError, name: str) -> list[str]:
    """Word MLIR's diagnostics as `file:line:column: message` lines, without the operation dumps."""
    lines = []
    for diagnostic in error.error_diagnostics:
        place = str(diagnostic.location).removeprefix("loc(").removesuffix(")").replace('"-"', name)
        lines.append(f"{place}: {diagnostic.message[:400]}")
    return lines or [str(error)[:400]]
