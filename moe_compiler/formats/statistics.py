"""Routing that other systems recorded, read: which experts tokens chose, or how often each expert was chosen.

- SGLang's expert-distribution recorder (`.pt`, 0.5; python/sglang/srt/eplb/expert_distribution.py): `per_token` records
  with `topk_ids_of_layer` [decoder layer, token, k], or in its other modes `logical_count` [step, decoder layer,
  expert]. KTransformers writes and reads the same.
- The load matrix that EPLB balances: `.npz` or `.pt` with one array [layer, expert], or [step, layer, expert].
- CSV with a header, a row a token and layer (columns `token`, `layer` and either `expert0`, `expert1`, … or `experts`
  separated by spaces), or a row a choice (`token`, `layer`, `expert`).
- JSON lines: an object a token and layer (`token`, `layer`, `experts`), or a token (`experts`, [layer][k]).

Pickles are not executed: of a `.pt`, PyTorch's own restricted loader (`weights_only`) reads tensors and plain
containers, after the archive was found to be of a size that can be unpacked.
"""

import csv
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from moe_passes.plan.errors import InputError

from moe_compiler.paths import names_of, read_arrays, read_text

IntArray = npt.NDArray[np.int64]
MOST_BYTES = 2 * 1024**3
"""Of an archive, unpacked, and of a tensor in it."""
MOST_PICKLE_BYTES = 16 * 1024**2
"""Of the pickle in it, which says what the tensors are: beyond any recorder's."""
MOST_TEXT_BYTES = 1024**3
MOST_ROWS = 50_000_000
MOST_RECORDS = 200_000
MOST_NUMBER = 2**53
"""Of a count, a token or a layer: up to there, floating point tells whole numbers apart."""
MOST_EXPERT = 2**16 - 1
COUNTS = ("logical_count", "load", "weight", "counts")
"""Names of arrays that are counts."""
NUMBERED = re.compile(r"(?:e|expert)_?(\d{1,6})")
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
TOKEN = ("token", "pos", "position", "token_index")


@dataclass(frozen=True)
class Routing:
    """Recorded routing: one of the two.

    Attributes:
        chosen: [token, row, k], experts that each token chose; None where only counts are known.
        counts: [row, expert], how often each was chosen.
        rows: layer of each row, as the file numbers them.
        experts: of a layer, where the file says so; else 0.
    """

    chosen: IntArray | None
    counts: IntArray | None
    rows: tuple[int, ...]
    experts: int = 0


def read_statistics(path: Path) -> Routing:
    """Read a file that another system wrote, by its name's ending.

    Raises:
        InputError: no such file, not of a known form, damaged, or too large.
    """
    kinds: dict[str, Callable[[Path], Routing]] = {
        ".pt": _torch, ".pth": _torch, ".npz": _arrays, ".csv": _csv, ".jsonl": _lines, ".ndjson": _lines,
    }  # fmt: skip
    if path.suffix not in kinds:
        raise InputError(f"{path}: ends with '{path.suffix[:20]}'; valid: {', '.join(kinds)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return kinds[path.suffix](path)


def _torch(path: Path) -> Routing:
    _check_archive(path)
    import torch

    try:
        with warnings.catch_warnings():
            # What it does not know it refuses; that it might is for its own developers.
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The loader raises many things over what is no tensor: a global that is not allowed, an opcode, a bad size; and
        # its advice is to load the file without it.
        named = GLOBAL.search(str(error))
        what = f" ({named[1][:80]})" if named else f" ({type(error).__name__})"
        raise InputError(f"{path}: holds more than tensors{what}, or is damaged; nothing in it was run") from None
    if isinstance(found, torch.Tensor):
        return _counted(_numpy(found, path), path)
    if isinstance(found, dict) and isinstance(found.get("records"), list):
        return _per_token(found, path)
    if isinstance(found, dict):
        name = next((name for name in COUNTS if isinstance(found.get(name), torch.Tensor)), None)
        if name is not None:
            return _counted(_numpy(found[name], path), path)
    names = ", ".join(map(str, found))[:200] if isinstance(found, dict) else type(found).__name__
    raise InputError(f"{path}: holds {names}; valid: records with topk_ids_of_layer, or one of {', '.join(COUNTS)}")


def _check_archive(path: Path) -> None:
    """Refuse what is no archive of torch.save, or would not fit unpacked.

    Raises:
        InputError: it is one.
    """
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: is no archive of torch.save (PyTorch 1.6 or later), or was cut off")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    total = sum(member.file_size for member in members)
    pickles = [member for member in members if member.filename.endswith(".pkl")]
    if total > MOST_BYTES or any(member.file_size > MOST_PICKLE_BYTES for member in pickles):
        raise InputError(
            f"{path}: {total:,} bytes unpacked, {sum(m.file_size for m in pickles):,} of them a pickle; valid: at most "
            f"{MOST_BYTES:,} and {MOST_PICKLE_BYTES:,}"
        )


def _numpy(tensor: Any, path: Path) -> IntArray:
    """Return a tensor as whole numbers; one that only claims to be large is refused before it is made so."""
    _check_size(tensor.numel(), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = tensor.detach().to("cpu").numpy()
    except (TypeError, RuntimeError, NotImplementedError):
        # Sparse, nested, quantised, without data, of a type that NumPy does not know.
        raise InputError(f"{path}: a tensor of {tensor.dtype}, {tensor.layout}; valid: whole numbers") from None
    return _whole(values, path, least=-1)


def _check_size(numbers: int, path: Path) -> None:
    if numbers * 8 > MOST_BYTES:
        raise InputError(f"{path}: tensors of {numbers:,} numbers; valid: at most 2 GiB, eight bytes each")


def _whole(values: npt.NDArray[Any], path: Path, least: int) -> IntArray:
    """Return numbers as whole ones.

    Raises:
        InputError: one is none, or out of range.
    """
    if values.dtype.kind not in "iuf":
        raise InputError(f"{path}: numbers of {values.dtype}; valid: whole numbers")
    is_count = np.isfinite(values) & (values >= least) & (values <= MOST_NUMBER)
    if values.dtype.kind == "f":
        is_count &= values == np.floor(values)
    if not is_count.all():
        wrong = values[~is_count].ravel()[0]
        raise InputError(f"{path}: holds {wrong:.6g}; valid: whole numbers from 0 to {MOST_NUMBER}")
    return np.asarray(values, dtype=np.int64)


def _per_token(found: dict[str, Any], path: Path) -> Routing:
    """Read `per_token` records: each has the choices of the tokens of one step of one rank."""
    import torch

    parts, numbers = [], 0
    if len(found["records"]) > MOST_RECORDS:
        raise InputError(f"{path}: {len(found['records']):,} records; valid: at most {MOST_RECORDS:,}")
    for number, record in enumerate(found["records"]):
        ids = record.get("topk_ids_of_layer") if isinstance(record, dict) else None
        if not isinstance(ids, torch.Tensor) or ids.dim() != 3:
            raise InputError(
                f"{path}: record {number} has no topk_ids_of_layer [layer, token, k]; valid: a recorder in the mode "
                "per_token, or stat"
            )
        # Records may share the bytes of one tensor: the archive's size says nothing of theirs.
        numbers += ids.numel()
        _check_size(numbers, path)
        parts.append(_numpy(ids, path).transpose(1, 0, 2))
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) != 1:
        raise InputError(
            f"{path}: records of shapes {sorted(shapes)[:4]}; valid: one number of layers and experts a token"
        )
    chosen = _logical(np.concatenate(parts), found.get("last_physical_to_logical_map"), path)
    # Rows of dense layers hold no choice at all; tokens that padded a batch hold none in any layer.
    routed = np.flatnonzero((chosen >= 0).any(axis=(0, 2)))
    kept = chosen[:, routed]
    return Routing(kept[(kept >= 0).all(axis=(1, 2))], None, tuple(routed.tolist()))


def _logical(chosen: IntArray, mapping: Any, path: Path) -> IntArray:
    """Turn ids of physical slots into those of experts."""
    import torch

    if not isinstance(mapping, torch.Tensor):
        return chosen
    table = _numpy(mapping, path)
    if table.ndim != 2 or table.shape[0] != chosen.shape[1] or (chosen >= table.shape[1]).any():
        raise InputError(f"{path}: last_physical_to_logical_map is {table.shape}; valid: [layer, slot] of the records")
    rows = np.arange(chosen.shape[1])[None, :, None]
    return np.where(chosen >= 0, table[rows, np.maximum(chosen, 0)], -1)


def _arrays(path: Path) -> Routing:
    names = names_of(path)
    if "experts" in names:
        raise InputError(f"{path}: is a profile already (it holds 'experts'); valid: --profile {path} as it is")
    wanted = next((name for name in COUNTS if name in names), names[0] if len(names) == 1 else "")
    if not wanted:
        raise InputError(f"{path}: holds {', '.join(names)[:200] or 'nothing'}; valid: one of {', '.join(COUNTS)}")
    return _counted(_whole(read_arrays(path, {wanted})[wanted], path, least=0), path)


def _counted(counts: IntArray, path: Path) -> Routing:
    """Read counts [layer, expert] or [step, layer, expert]; steps of one token each are its choices."""
    if counts.ndim not in (2, 3) or not counts.size or not counts.any() or counts.min() < 0:
        raise InputError(
            f"{path}: counts of shape {counts.shape}; valid: [layer, expert] or [step, layer, expert], from 0 and "
            "not all 0"
        )
    steps = counts[None] if counts.ndim == 2 else counts
    routed = np.flatnonzero(steps.any(axis=(0, 2)))
    kept = steps[:, routed]
    kept = kept[kept.any(axis=(1, 2))]
    width = kept.sum(axis=2)
    rows = tuple(routed.tolist())
    is_token = counts.ndim == 3 and kept.max() == 1 and (width == width[0, 0]).all()
    if is_token:
        top_k = int(width[0, 0])
        chosen = np.argsort(-kept, axis=2, kind="stable")[:, :, :top_k]
        return Routing(np.sort(chosen, axis=2), None, rows, counts.shape[-1])
    return Routing(None, kept.sum(axis=0), rows, counts.shape[-1])


def _csv(path: Path) -> Routing:
    reader = csv.DictReader(_text(path).splitlines())
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    token = next((name for name in TOKEN if name in names), None)
    numbered = sorted((int(match[1]), name) for name in names if (match := NUMBERED.fullmatch(name)))
    single = "experts" if "experts" in names else "expert" if "expert" in names else None
    if token is None or "layer" not in names or not (numbered or single):
        raise InputError(
            f"{path}:1: columns {', '.join(names)[:200] or 'none'}; valid: token, layer, and expert0, expert1, … or "
            "experts or expert"
        )

    def choices() -> Iterator[tuple[int, int, list[int]]]:
        for line, row in enumerate(reader, 2):
            cells = (
                [row[name] for _, name in numbered]
                if numbered
                else re.split(r"[\s;|]+", (row[single or ""] or "").strip())
            )
            yield _row(path, line, [row[token], row["layer"], *cells])

    try:
        return _gathered(choices(), path)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _lines(path: Path) -> Routing:
    def choices() -> Iterator[tuple[int, int, list[int]]]:
        for line, text in enumerate(_text(path).splitlines(), 1):
            if not text.strip():
                continue
            try:
                entry = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}:{line}: not JSON: {str(error)[:100]}") from None
            experts = entry.get("experts") if isinstance(entry, dict) else None
            if not isinstance(experts, list):
                raise InputError(f"{path}:{line}: no 'experts'; valid: token, layer and experts, or experts [layer][k]")
            if experts and isinstance(experts[0], list):
                for layer, row in enumerate(experts):
                    yield _row(path, line, [line, layer, *(row if isinstance(row, list) else [row])])
            else:
                yield _row(path, line, [entry.get("token"), entry.get("layer"), *experts])

    return _gathered(choices(), path)


def _text(path: Path) -> str:
    try:
        return read_text(path, MOST_TEXT_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None


def _row(path: Path, line: int, values: list[Any]) -> tuple[int, int, list[int]]:
    try:
        token, layer, *experts = map(_number, values)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{path}:{line}: {str(values)[:100]}; valid: whole numbers") from None
    least, most = min(token, layer, *experts), max(token, layer)
    if least < 0 or not experts or most > MOST_NUMBER or max(experts) > MOST_EXPERT:
        raise InputError(
            f"{path}:{line}: {str(values)[:100]}; valid: a token, a layer and experts, all from 0, and experts up to "
            f"{MOST_EXPERT}"
        )
    return token, layer, experts


def _number(value: Any) -> int:
    """Return a whole number, or text of one; a fraction or a truth is none."""
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError(value)
    return int(value)


def _gathered(choices: Iterator[tuple[int, int, list[int]]], path: Path) -> Routing:
    """Put choices together by token and layer, in the order of tokens."""
    found: dict[int, dict[int, list[int]]] = {}
    for count, (token, layer, experts) in enumerate(choices):
        if count > MOST_ROWS:
            raise InputError(f"{path}: more than {MOST_ROWS:,} rows")
        found.setdefault(token, {}).setdefault(layer, []).extend(experts)
    if not found:
        raise InputError(f"{path}: holds no rows")
    layers = sorted({layer for token in found.values() for layer in token})
    widths = {len(experts) for token in found.values() for experts in token.values()}
    short = next((token for token, rows in found.items() if len(rows) != len(layers)), None)
    if short is not None or len(widths) != 1:
        at = f"token {short} has {len(found[short])} of {len(layers)} layers" if short is not None else ""
        raise InputError(
            f"{path}: {at or f'choices of {sorted(widths)[:5]} experts'}; valid: one number of experts in all"
        )
    chosen = np.array([[found[token][layer] for layer in layers] for token in sorted(found)], dtype=np.int64)
    return Routing(chosen, None, tuple(layers))
