"""What was measured of a draft's acceptance: `--alpha`, `--accepted-lengths`, or arrays of a profile."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from moe_passes.plan.errors import InputError
from moe_passes.plan.request import AUTO_LENGTH, DRAFT_LENGTH, MeasuredAcceptance

from moe_compiler.documents.json_file import read_json
from moe_compiler.paths import names_of, read_arrays

ARRAYS = ("accepted_lengths", "draft_configurations")
USUAL_LENGTH = 6
"""Draft length that an α is taken to be of where none is asked for: that of the published ones."""
MOST_CONFIGURATIONS = 64
BITS = (4, 8)


def of_rate(rate: object, draft_length: int) -> MeasuredAcceptance:
    """Take an α that was measured: of the draft length that is asked for, or of 6 where that is left open.

    Raises:
        InputError: no share.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise InputError(f"--alpha {rate}; valid: accepted over drafted tokens, a number from 0 to 1")
    length = USUAL_LENGTH if draft_length in (AUTO_LENGTH, 0) else draft_length
    source = f"given: --alpha {rate:g} at {length} drafted tokens"
    return MeasuredAcceptance(0, 0, 0.0, float(rate), length, (), source)


def of_file(path: str) -> tuple[MeasuredAcceptance, ...]:
    """Read accepted lengths from a JSON document or an .npz (docs/profiles.md).

    Raises:
        InputError: it cannot be read, or is malformed.
    """
    where = f"--accepted-lengths {path}"
    if Path(path).suffix == ".npz":
        return of_profile(path, where) or _lacking(where, names_of(Path(path)))
    document = read_json(path, where)
    if not isinstance(document, dict) or ARRAYS[0] not in document:
        return _lacking(where, list(document) if isinstance(document, dict) else [])
    return of_arrays({name: _array(document[name], where, name) for name in ARRAYS if name in document}, where)


def of_profile(path: str, where: str) -> tuple[MeasuredAcceptance, ...]:
    """Read accepted lengths from an .npz; none where it holds none."""
    return of_arrays(read_arrays(Path(path), set(ARRAYS)), where)


def of_arrays(arrays: dict[str, npt.NDArray[Any]], where: str) -> tuple[MeasuredAcceptance, ...]:
    """Take `accepted_lengths` [configuration, length] and `draft_configurations` [configuration, 3].

    Raises:
        InputError: wrong shapes or numbers.
    """
    if ARRAYS[0] not in arrays:
        return ()
    counts = arrays[ARRAYS[0]]
    counts = counts[None] if counts.ndim == 1 else counts
    most = DRAFT_LENGTH.high + 1
    if counts.ndim != 2 or not 2 <= counts.shape[1] <= most or not 1 <= len(counts) <= MOST_CONFIGURATIONS:
        raise InputError(
            f"{where}: 'accepted_lengths' has shape {counts.shape}; valid: [draft configuration, length], at most "
            f"{MOST_CONFIGURATIONS} by 2 to {most}"
        )
    if counts.dtype.kind not in "iu" or (counts < 0).any() or (counts > 2**40).any() or not counts.sum(axis=1).all():
        raise InputError(f"{where}: 'accepted_lengths' must count rounds: whole numbers, some in every row")
    configurations = _configurations(arrays.get(ARRAYS[1]), len(counts), where)
    source = f"measured: {Path(where).name}"
    return tuple(_measured(row, of, source) for row, of in zip(counts, configurations, strict=True))


def _measured(counts: npt.NDArray[Any], of: tuple[int, int, float], source: str) -> MeasuredAcceptance:
    reached = counts[::-1].cumsum()[::-1]
    survival = tuple(round(1e6 * int(n) / int(reached[0])) for n in reached[1:])
    rate = sum(survival) / 1e6 / len(survival)
    return MeasuredAcceptance(of[0], of[1], of[2], rate, len(survival), survival, source)


def _configurations(found: npt.NDArray[Any] | None, rows: int, where: str) -> list[tuple[int, int, float]]:
    if found is None:
        if rows > 1:
            raise InputError(
                f"{where}: {rows} rows of 'accepted_lengths' without 'draft_configurations' to tell them apart"
            )
        return [(0, 0, 0.0)]
    valid = "[configuration, 3]: bits of experts, bits of dense weights (4 or 8), share of resident experts (0 to 1)"
    if found.shape != (rows, 3) or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise InputError(f"{where}: 'draft_configurations' has shape {found.shape}; valid: numbers {valid}")
    rows_found = [(float(a), float(b), float(share)) for a, b, share in found.tolist()]
    if any(a not in BITS or b not in BITS or not 0 <= share <= 1 for a, b, share in rows_found):
        raise InputError(f"{where}: 'draft_configurations' holds {rows_found[:3]}; valid: {valid}")
    return [(int(a), int(b), share) for a, b, share in rows_found]


def _array(value: object, where: str, name: str) -> npt.NDArray[Any]:
    try:
        found = np.array(value)
    except (ValueError, OverflowError, TypeError):
        found = np.array(None)
    if found.dtype.kind not in "iuf":
        raise InputError(f"{where}: '{name}' is no array of numbers; valid: rows of one length")
    return found


def _lacking(where: str, names: list[str]) -> tuple[MeasuredAcceptance, ...]:
    found = ", ".join(map(str, names))[:200] or "nothing"
    raise InputError(f"{where}: holds no 'accepted_lengths'; it holds: {found}")
