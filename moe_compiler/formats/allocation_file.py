"""Allocation problems in MiniMalloc's CSV: `id,lower,upper,size`, optional `alignment`, optional fixed `offset`."""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from moe_passes.plan.errors import InputError
from moe_passes.solve.allocation.problem import Lifetime

from moe_compiler.paths import read_text

REQUIRED, OPTIONAL = ("id", "lower", "upper", "size"), ("alignment", "offset")
LARGEST = 2**53
_INTEGER = re.compile(r"[0-9]{1,16}")


@dataclass(frozen=True)
class Table:
    """A file's content.

    Attributes:
        ids: of the buffers, in the order of the file.
        buffers: the same order.
        columns: of the file, without `offset`.
        rows: cells of those columns, as they stand.
    """

    ids: tuple[str, ...]
    buffers: tuple[Lifetime, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def with_offsets(self, offsets: tuple[int, ...]) -> str:
        """Return the file with a column `offset`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow((*self.columns, "offset"))
        writer.writerows((*row, offset) for row, offset in zip(self.rows, offsets, strict=True))
        return text.getvalue()


def read(path: Path) -> Table:
    """Read a CSV.

    Raises:
        InputError: the message names file, line, column, value and what would be valid.
    """
    try:
        lines = list(csv.reader(io.StringIO(read_text(path, encoding="utf-8-sig"), newline=""), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {str(error)[:200]}") from None
    numbered = [(number, cells) for number, cells in enumerate(lines, 1) if any(cell.strip() for cell in cells)]
    if not numbered:
        raise InputError(
            f"{path}: is empty; valid: a line with the columns {', '.join(REQUIRED)}, then a buffer a line"
        )
    (first, header), *body = numbered
    columns = [cell.strip() for cell in header]
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in REQUIRED + OPTIONAL]
    if missing or unknown or len(set(columns)) < len(columns):
        raise InputError(
            f"{path}:{first}: columns {', '.join(columns)[:200]}; "
            f"valid: {', '.join(REQUIRED)} once each, and at most {', '.join(OPTIONAL)}"
        )
    seen: dict[str, int] = {}
    buffers = [_buffer(f"{path}:{number}", columns, cells, seen, number) for number, cells in body]
    kept = [place for place, name in enumerate(columns) if name != "offset"]
    rows = tuple(tuple(cells[place].strip() for place in kept) for _, cells in body)
    return Table(tuple(seen), tuple(buffers), tuple(columns[place] for place in kept), rows)


def _buffer(where: str, columns: list[str], cells: list[str], seen: dict[str, int], line: int) -> Lifetime:
    if len(cells) != len(columns):
        raise InputError(f"{where}: {len(cells)} cells; valid: {len(columns)}")
    cell = {name: text.strip() for name, text in zip(columns, cells, strict=True)}
    name = cell["id"]
    if not name or name in seen:
        again = f" is the id of line {seen[name]}, too" if name else ""
        raise InputError(f"{where}: id '{name}'{again}; valid: one of its own for every buffer")
    seen[name] = line
    lower, upper = _integer(where, "lower", cell["lower"], 0), _integer(where, "upper", cell["upper"], 0)
    if upper < lower:
        raise InputError(f"{where}: upper {upper} is before lower {lower}; valid: at least {lower}")
    alignment = _integer(where, "alignment", cell["alignment"], 1) if cell.get("alignment") else None
    fixed = _integer(where, "offset", cell["offset"], 0) if cell.get("offset") else None
    if fixed is not None and fixed % (alignment or 1):
        raise InputError(f"{where}: offset {fixed}; valid: a multiple of the alignment, {alignment}")
    return Lifetime(lower, upper, _integer(where, "size", cell["size"], 1), alignment, fixed)


def _integer(where: str, column: str, text: str, least: int) -> int:
    if not _INTEGER.fullmatch(text) or not least <= int(text) < LARGEST:
        raise InputError(f"{where}: {column} '{text[:40]}'; valid: an integer from {least} to 2**53 - 1")
    return int(text)
