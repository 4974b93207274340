"""Reading IR that a command is given."""

import sys
from pathlib import Path

from moe_passes.plan.errors import InputError


def read_text(file: str) -> str:
    """Read a file, or stdin for `-`.

    Raises:
        InputError: it cannot be read as text.
    """
    if file == "-" and sys.stdin is None:
        raise InputError("-: stdin is closed")
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as text: {error}") from None


def title(file: str) -> str:
    """Return how messages name a file."""
    return "<stdin>" if file == "-" else file
