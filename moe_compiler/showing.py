"""`moec show`: every file of ours in lines for people, and the same as values."""

import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_passes.plan.errors import InputError

from moe_compiler.backend.trace_file import read_trace
from moe_compiler.documents.base import Document
from moe_compiler.documents.cost import CostDocument
from moe_compiler.documents.folder import CompiledFolder, read, read_folder
from moe_compiler.documents.held_out import HeldOutDocument
from moe_compiler.documents.json_file import read_json
from moe_compiler.documents.measured import MeasuredDocument
from moe_compiler.documents.plan import PlanDocument
from moe_compiler.documents.record import CompileDocument
from moe_compiler.explanation.summary import summary_rows
from moe_compiler.explanation.words import figure, seconds, size
from moe_compiler.paths import is_file, names_of, read_arrays, read_text
from moe_compiler.runtime.store_file import MAGIC, StoreFile

MODEL_EXPLORER = "model_explorer."
MOST_TEXT_BYTES = 64 * 1024**2
"""Of a program or a page."""
SHOWN = 8
"""Entries of a list of numbers that are shown."""
Row = tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """What a file says.

    Attributes:
        kind: what it is.
        rows: for people, of equally many columns.
        content: the same as values, all of it.
    """

    kind: str
    rows: list[Row]
    content: Any


def show_ir(text: str, where: str, names: Sequence[str] = ()) -> Shown:
    """Show IR: an operation or task a line.

    Args:
        text: the module.
        where: how messages name it.
        names: of the operations to show; none: all.

    Raises:
        InputError: it is no module, or has no such operation.
    """
    from moe_passes.ir.dialects import context, parse
    from moe_passes.ir.show import lines

    rows = lines(parse(text, where, context()), names)
    content = [dict(zip(("where", "operation", "line", "says"), row, strict=True)) for row in rows]
    return Shown("IR", [tuple(row) for row in rows], content)


def is_ir(path: Path) -> bool:
    """Say whether a file is to be read as IR: what is nothing else of ours."""
    return not path.is_dir() and path.suffix not in KINDS and not _is_store(path)


def show(path: Path) -> Shown:
    """Show a file or folder of ours other than IR.

    Raises:
        InputError: it is none, of another version, or damaged.
    """
    if path.is_dir():
        return _folder(read_folder(path))
    if not is_file(path):
        raise InputError(f"{path}: no such file or folder")
    return _store(path) if _is_store(path) else KINDS[path.suffix](path)


def _is_store(path: Path) -> bool:
    if not is_file(path):
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _folder(of: CompiledFolder) -> Shown:
    rows: list[Row] = list(summary_rows(of))
    files = sorted(path for path in of.path.rglob("*") if path.is_file())
    rows += [(f"file {path.relative_to(of.path)}", size(path.stat().st_size)) for path in files]
    return Shown("compiled folder", rows, {row[0]: row[1] for row in rows})


def _json(path: Path) -> Shown:
    content = read_json(path, str(path))
    keys = set(content) if isinstance(content, dict) else set()
    for key, (kind, lines) in DOCUMENTS.items():
        if key in keys:
            document = read(path, kind)
            return Shown(kind.__name__.removesuffix("Document").lower(), list(lines(document)), document.content())
    if path.name.startswith(MODEL_EXPLORER):
        return Shown("Model Explorer", list(_flattened("", content)), content)
    if {"layers", "banks"} <= keys:
        from moe_compiler.documents.placement import parse

        placement = parse(content, str(path))
        return Shown("placement", list(_placement(placement)), placement.content())
    raise InputError(f"{path}: is no document of ours: it has none of {', '.join(DOCUMENTS)}")


def _plan_rows(plan: PlanDocument) -> Iterator[Row]:
    yield ("model", plan.model)
    yield ("target", " ".join([plan.target, *plan.overrides]))
    for name, part in (("draft", plan.draft), ("near", plan.hb), ("hot set", plan.hot_set)):
        yield (name, ", ".join(f"{key} {_worded(key, value)}" for key, value in part.content().items()))
    yield from _layers(plan.layers)
    for solver in plan.solvers:
        value, bound = figure(solver.objective, solver.unit), figure(solver.lower_bound, solver.unit)
        said = f"{solver.status} {value}, bound {bound}, gap {solver.gap:.1%}"
        yield (f"solver {solver.pass_name}", f"{solver.instance}: {said}{', ' + solver.limit if solver.limit else ''}")
    for setting in plan.weighed:
        took = "not dispatched" if setting.seconds is None else seconds(setting.seconds)
        yield (
            f"weighed, {setting.role}",
            f"γ {setting.length}, {setting.bits} bits: {took}, closed form {seconds(setting.estimate_seconds)}",
        )
    for task in plan.round.tasks:
        of = "" if task.expert is None else f" expert {task.expert}"
        when = f"starts {seconds(task.start_seconds)}, takes {seconds(task.seconds)}"
        yield (
            f"task {task.id}",
            f"step {task.step}, {task.kind} of layer {task.layer}{of}: {when} on {', '.join(task.uses)}",
        )


def _layers(layers: Sequence[Any]) -> Iterator[Row]:
    for layer in layers:
        levels = Counter(layer.residency)
        copies = sum(len(replicas) for replicas in layer.placement)
        kept = ", ".join(f"{levels[level]} {level}" for level in ("all", "msb", "none") if levels[level])
        yield (f"layer {layer.layer}", f"{kept}; {copies} replicas")


def _placement(placement: Any) -> Iterator[Row]:
    yield ("banks", str(placement.banks))
    yield from _layers(placement.layers)


def _worded(key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if key.endswith("bytes"):
        return size(value)
    return seconds(value) if key.endswith("seconds") else f"{value:.6g}" if isinstance(value, float) else f"{value:,}"


def _flat(document: Document) -> Iterator[Row]:
    """Yield a line for every figure of a document; long lists of numbers are cut."""
    yield from _flattened("", document.content())


def _flattened(at: str, value: Any) -> Iterator[Row]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flattened(f"{at}.{key}" if at else key, part)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, part in enumerate(value):
            yield from _flattened(f"{at}.{number}", part)
    elif isinstance(value, list | tuple):
        more = f", … {len(value)} in all" if len(value) > SHOWN else ""
        yield (at, ", ".join(str(part) for part in value[:SHOWN]) + more)
    else:
        yield (at, _worded(at.rpartition(".")[2], value))


def _held_out_rows(held: HeldOutDocument) -> Iterator[Row]:
    for number, round_ in enumerate(held.rounds):
        bound = f"bound {seconds(round_.lower_bound_seconds)} ({round_.limit})"
        wasted = ", ".join(f"{load.layer}.{load.expert}" for load in round_.wasted[:SHOWN])
        vain = f"; {len(round_.wasted)} loads in vain{': ' if wasted else ''}{wasted}"
        yield (f"round {number}", f"{seconds(round_.seconds)}, {len(round_.tasks.kind)} tasks, {bound}{vain}")


DOCUMENTS: dict[str, tuple[type[Document], Callable[[Any], Iterator[Row]]]] = {
    "hb": (PlanDocument, _plan_rows),
    "steady_state": (CostDocument, _flat),
    "solver_calls": (CompileDocument, _flat),
    "kinds": (HeldOutDocument, _held_out_rows),
    "kernel": (MeasuredDocument, _flat),
}
"""What tells a document from others (a key that it alone has), its model, and its lines."""


def _program(path: Path) -> Shown:
    lines = _text(path).splitlines()
    return Shown("program", [(line,) for line in lines], lines)


def _page(path: Path) -> Shown:
    title = re.search(r"<title>([^<]*)</title>", _text(path))
    name, length = html.unescape(title[1]) if title else "", path.stat().st_size
    rows: list[Row] = [("title", name), ("open it in a browser", size(length))]
    return Shown("page", rows, {"title": name, "bytes": length})


def _text(path: Path) -> str:
    try:
        return read_text(path, MOST_TEXT_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None


def _arrays(path: Path) -> Shown:
    names = names_of(path)
    found = read_arrays(path, set(names))
    rows: list[Row] = []
    content: dict[str, Any] = {}
    for name in sorted(found):
        array = found[name]
        flat = array.ravel()
        some = ", ".join(str(value)[:60] for value in flat[:SHOWN].tolist())
        rows.append((name, f"{array.dtype}", f"{list(array.shape)}", some + (", …" if flat.size > SHOWN else "")))
        content[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "first": flat[:SHOWN].tolist()}
    return Shown("arrays", rows, content)


def _trace(path: Path) -> Shown:
    tracks, slices = read_trace(path)
    rows: list[Row] = []
    content: dict[str, Any] = {}
    for track in tracks:
        of = [part for part in slices if part.track == track]
        busy = sum(part.end - part.start for part in of) * 1e-9
        kinds = Counter(part.kind for part in of)
        rows.append(
            (track, f"{len(of)} slices", seconds(busy), ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
        )
        content[track] = {"slices": len(of), "busy_seconds": busy, "kinds": dict(kinds)}
    return Shown("timeline", rows, content)


def _store(path: Path) -> Shown:
    try:
        store = StoreFile(path)
    except ValueError as error:
        raise InputError(str(error)) from None
    entries = store.entries
    store.close()
    rows: list[Row] = [("model", str(entries.config.get("model_type", "?")))]
    rows += [
        (f"experts of layer {la}", f"{len(entry['pieces'])} of {entry['shapes']}")
        for la, entry in entries.experts.items()
    ]
    rows += [(name, f"matrix {entry['shape']}") for name, entry in entries.dense.items()]
    rows += [(name, f"tensor {entry.get('shape')}") for name, entry in entries.raw.items()]
    rows += [(name, f"file of {size(piece[1])}") for name, piece in entries.files.items()]
    return Shown("store", rows, {row[0]: row[1] for row in rows})


def _target(path: Path) -> Shown:
    from moe_compiler.hardware.loader import load_target

    figures = load_target(str(path)).figures()
    rows: list[Row] = [(str(row["path"]), str(row["value"]), str(row["unit"]), str(row["source"])) for row in figures]
    return Shown("hardware file", rows, json.loads(json.dumps(figures)))


KINDS: dict[str, Callable[[Path], Shown]] = {
    ".json": _json,
    ".npz": _arrays,
    ".perfetto-trace": _trace,
    ".yaml": _target,
    ".yml": _target,
    ".py": _program,
    ".html": _page,
}
"""How a file is shown, by the ending of its name; a store is known by how it begins."""
