"""The `moe` and `sched` dialects, defined through torch-mlir's Python dialect support.

`context()` gives an MLIR context in which they live next to torch-mlir's own dialects; `irdl()` prints the
definition that makes other tools (`torch-mlir-opt --irdl-file=…`) understand our IR.
"""

import re
from collections.abc import Iterator
from typing import NoReturn

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
_OURS = re.compile(r"(?<![@%\w.$-])(?:moe|sched)\.")
_OUR_OPERATIONS = re.compile(r'"(?:moe|sched)\.\w+"\s*\(')
"""Operations, types and attributes of our dialects, and operations in MLIR's generic form; others' names are theirs."""
_NESTING = re.compile(r"->|[\[({<\])}>]|\n")
_ESCAPES = re.compile(r"\\\\|((?:\\[89A-Fa-f][0-9A-Fa-f])+)")
"""Backslashes, and bytes that MLIR writes in hexadecimal."""
_MENTION = re.compile(r"[#!](?:\d+|[A-Za-z_$][\w$-]*)")
_ALIAS = re.compile(rf"({_MENTION.pattern})\s*=(?!=)")
_GOES_ON = re.compile(r"(?:^|->|[:,=])\s*$")
"""What is before the end of a line, where an attribute or a type is not complete."""
_BEGINS = re.compile(r"\s*(?:[\w\"%#!{]|$)")
"""What is after the end of a line, where something else begins."""
LONGEST_BLANK = 100
"""Letters that are looked at, to see whether a line is complete."""
MOST_EXPANDED_LETTERS = 2**26
"""Of a text whose aliases are written out."""
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
    _check_aliases(bare, name)
    _check_texts(text, name)
    is_ours = _OURS.search(bare) is not None or _OUR_OPERATIONS.search(text) is not None
    _check_version(bare, is_ours, name)
    try:
        module = _parse(text, ctx)
        said = module.operation.attributes
        if VERSION_ATTRIBUTE not in said and not is_ours:
            # Another compiler's: what of ours is put into it is of this version.
            with ctx:
                said[VERSION_ATTRIBUTE] = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), VERSION)
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
    line = 1
    for found, depth in _depths(bare, 0, len(bare)):
        line += found.group() == "\n"
        if depth > DEEPEST_NESTING:
            raise InputError(f"{name}:{line}: nested more than {DEEPEST_NESTING} deep")


def _depths(bare: str, start: int, end: int) -> Iterator[tuple[re.Match[str], int]]:
    """Yield brackets, arrows and ends of lines, and how many brackets are open after each."""
    depth = 0
    for found in _NESTING.finditer(bare, start, end):
        if found.group() not in ("\n", "->"):
            depth = depth + 1 if found.group() in "[({<" else max(0, depth - 1)
        yield found, depth


def _check_aliases(bare: str, name: str) -> None:
    """An alias of aliases is short, and may stand for more than any machine holds, nested deeper than any stack."""
    found = list(_ALIAS.finditer(bare))
    ends = [*(later.start() for later in found), len(bare)][1:]
    definitions = {alias.group(1): alias for alias in found}
    bodies = {alias.group(1): _body(bare, alias.end(), end) for alias, end in zip(found, ends, strict=True)}
    known: dict[str, tuple[int, int]] = {}
    pending: set[str] = set()

    def refuse(alias: str, what: str) -> NoReturn:
        line = bare.count("\n", 0, definitions[alias].start()) + 1
        raise InputError(f"{name}:{line}: alias {alias} {what}")

    def measure(alias: str, above: int) -> tuple[int, int]:
        """Return the letters and the nesting that an alias stands for."""
        if alias in pending:
            refuse(alias, "is defined by itself")
        if alias not in known:
            pending.add(alias)
            if above > DEEPEST_NESTING:
                refuse(alias, f"is nested more than {DEEPEST_NESTING} deep")
            inner = [measure(m, above + 1) for m in _MENTION.findall(bodies[alias]) if m in definitions]
            letters = len(bodies[alias]) + sum(size for size, _ in inner)
            own = max((depth for _, depth in _depths(bodies[alias], 0, len(bodies[alias]))), default=0)
            deep = 1 + own + max((depth for _, depth in inner), default=0)
            pending.discard(alias)
            if deep > DEEPEST_NESTING:
                refuse(alias, f"is nested more than {DEEPEST_NESTING} deep")
            known[alias] = letters, deep
        return known[alias]

    expanded = 0
    for alias in _MENTION.findall(bare):
        if alias in definitions:
            expanded += measure(alias, 0)[0]
            if expanded > MOST_EXPANDED_LETTERS:
                refuse(alias, f"makes more than {MOST_EXPANDED_LETTERS:,} letters of the text, written out")


def _body(bare: str, start: int, end: int) -> str:
    """Return what is defined from `start` on: to the end of a line at which all is closed again and complete."""
    for found, depth in _depths(bare, start, end):
        if found.group() == "\n" and depth == 0 and _is_end(bare, start, found):
            return bare[start : found.start()]
    return bare[start:end]


def _is_end(bare: str, start: int, line_end: re.Match[str]) -> bool:
    said = bare[max(start, line_end.start() - LONGEST_BLANK) : line_end.start()]
    return not _GOES_ON.search(said) and _BEGINS.match(bare, line_end.end()) is not None


def _check_texts(text: str, name: str) -> None:
    """MLIR lets any byte into a string, which Python reads as UTF-8, and takes a zero for the end of the text."""
    if "\0" in text:
        raise InputError(f"{name}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: a zero byte; valid: text")
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
