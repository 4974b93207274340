"""A console that takes text as it is: names and notes of users may hold what rich would read as markup."""

from rich.console import Console


def plain(width: int | None = None, stderr: bool = False) -> Console:
    """Return a console without markup, emoji or highlighting; `width` is used where it is no terminal."""
    console = Console(markup=False, emoji=False, highlight=False, stderr=stderr)
    if width is None or console.is_terminal:
        return console
    return Console(markup=False, emoji=False, highlight=False, stderr=stderr, width=width)
