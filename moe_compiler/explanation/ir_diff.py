"""What a pass changed in the text of a module: pairs of lines before and after, cut to where they differ."""

import difflib
import re
from collections.abc import Iterator
from typing import NamedTuple

ALIKE_LETTERS = 24
"""A line becomes another if so many letters at their starts are the same (or all of the shorter one)."""
WINDOW = 60
"""Lines that are looked through for what a line became."""
LOCATIONS = re.compile(r" loc\(#loc\d*\)$|^#loc\d* = .*\n", re.MULTILINE)
HEAD, MOST_LETTERS = 60, 240
"""Letters of a long line that are shown: at its start, and in all."""


class Change(NamedTuple):
    """A line before and after; None where there was none."""

    before: str | None
    after: str | None


def changes(before: str, after: str) -> list[Change]:
    """Return the lines that differ, in order, without what they say of lines of the model."""
    old, new = (LOCATIONS.sub("", text).splitlines() for text in (before, after))
    # What comes before and after all changes is most of a module, and found at once.
    start = _alike(old, new)
    end = _alike(old[start:][::-1], new[start:][::-1])
    old, new = old[start : len(old) - end], new[start : len(new) - end]
    found: list[Change] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new).get_opcodes():
        if kind != "equal":
            found += _paired(old[a:b], new[c:d])
    return found


def shortened(change: Change) -> Change:
    """Cut a change to the start of its lines and what differs."""
    alike = _alike(change.before or "", change.after or "")
    lines = (None if line is None else _cut(line, alike) for line in change)
    return Change(*lines)


def _cut(line: str, alike: int) -> str:
    text = line.strip()
    alike = max(0, alike - (len(line) - len(line.lstrip())))
    if alike > 2 * HEAD:
        text = f"{text[:HEAD]} … {text[alike - HEAD :]}"
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} …"


def _paired(old: list[str], new: list[str]) -> Iterator[Change]:
    """Pair each line with what it became, in order; what has no such line stands alone."""
    place = 0
    for line in old:
        window = range(place, min(place + WINDOW, len(new)))
        became = next((at for at in window if _becomes(line, new[at])), None)
        if became is None:
            yield Change(line, None)
            continue
        yield from (Change(None, added) for added in new[place:became])
        yield Change(line, new[became])
        place = became + 1
    yield from (Change(None, added) for added in new[place:])


def _becomes(old: str, new: str) -> bool:
    a, b = old.strip(), new.strip()
    return _alike(a, b) >= min(ALIKE_LETTERS, len(a), len(b))


def _alike(old: str | list[str], new: str | list[str]) -> int:
    """Return how many letters or lines at the start of both are the same."""
    shorter = min(len(old), len(new))
    return next((n for n in range(shorter) if old[n] != new[n]), shorter)
