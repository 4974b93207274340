"""Progress on stderr, only where stderr is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.text import Text

from moe_compiler.cli.console import plain


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with the current step; silent where stderr is not a terminal."""
    console = plain(stderr=True)
    if not console.is_terminal:
        yield lambda message: None
        return
    with console.status(Text(title)) as status:
        yield lambda message: status.update(Text(f"{title}: {message}"))
