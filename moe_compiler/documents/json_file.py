"""Strict JSON on disk: no NaN, no key twice, and one wording of what is wrong with a document."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moe_passes.plan.errors import InputError
from pydantic import ValidationError

from moe_compiler.paths import read_text

HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: str | Path, where: str, parse_float: Callable[[str], Any] = float) -> Any:
    """Read a document; `where` is how messages name it.

    Raises:
        InputError: it cannot be read, or is not JSON.
    """
    try:
        text = read_text(path)
        found = json.loads(text, parse_float=parse_float, parse_constant=_no_constant, object_pairs_hook=_unique)
        check_letters(text)
        return found
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{where}: cannot be read: {str(error)[:200]}") from None


def check_letters(text: str) -> None:
    """Refuse halves of characters (`\\ud800`), which no output could hold.

    Raises:
        ValueError: there is one.
    """
    if HALF.search(text):
        try:
            json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"half of a character, {error.object[error.start : error.end]!a}") from None


def malformed(error: ValidationError, where: str) -> InputError:
    """Word the first thing that is wrong with a document."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "file"
    return InputError(f"{where}: {field}: {first['msg']}; it is {str(first['input'])[:60]}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(n for n in names if names.count(n) > 1)}' stands twice in one object")
    return found
