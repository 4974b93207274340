"""Reading IR that a command is given."""

import sys

from moe_passes.plan.errors import InputError

from moe_compiler import paths


def read_text(file: str) -> str:
    """Read a file, or stdin for `-`.

    Raises:
        InputError: it cannot be read as text.
    """
    if file == "-" and sys.stdin is None:
        raise InputError("-: stdin is closed")
    try:
        return paths.read_stream(sys.stdin.buffer) if file == "-" else paths.read_text(file)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as text: {str(error)[:200]}") from None


def title(file: str) -> str:
    """Return how messages name a file."""
    return "<stdin>" if file == "-" else file


def printable(text: str) -> str:
    """Write control characters as Python does: a terminal would do what they say."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
