"""The page: tables, figures, and what a search goes through, put into one file."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from moe_compiler.documents.folder import CompiledFolder, read_folder, read_snapshot
from moe_compiler.explanation.answers import overview
from moe_compiler.explanation.ir_diff import changes, shortened
from moe_compiler.explanation.passes import account
from moe_compiler.explanation.summary import summary_rows
from moe_compiler.report import figures
from moe_compiler.report.timeline import figure, read_timeline, search_rows

MOST_CHANGES = 120
"""Of a pass, that are shown side by side; the whole IR lies beside the page."""
MOST_OPERATIONS = 20_000
LAYER = re.compile(r"(?:\blayer |@layer)(\d+)")
KINDS = {"moe.attention": "attention", "moe.router": "attention", "moe.head": "head"}
"""The tasks that an operation becomes, by kind; experts are drafted or verified."""


@dataclass(frozen=True)
class PassEntry:
    """What the page says of a pass."""

    name: str
    sentences: list[str]
    changes: list[tuple[str | None, str | None]]
    more: int
    file: str


def report(folder: str | Path) -> str:
    """Return the page of a compile.

    Raises:
        InputError: it is no compile of ours, or damaged.
    """
    of = read_folder(Path(folder))
    predicted = read_timeline(of.path / "timeline.perfetto-trace")
    measured = read_timeline(of.path / "measured.perfetto-trace")
    drawn = {
        "timeline": predicted and figure(predicted, "the scheduled training round, predicted"),
        "measured": measured and figure(measured, "a run, measured"),
        "memories": figures.memories(of),
        "banks": figures.banks(of) if of.plan.banks > 1 else None,
        "experts": figures.experts(of),
        "draft": figures.draft(of) if of.plan.weighed else None,
        "roofline": figures.roofline(of),
        "energy": figures.energy(of),
    }
    content = {name: json.loads(made.to_json()) for name, made in drawn.items() if made is not None}
    template = _environment().get_template("page.html.jinja")
    return template.render(
        title=f"{of.plan.model} for {of.plan.target}",
        summary=summary_rows(of),
        answers=overview(of),
        passes=list(_passes(of)),
        has=set(content),
        left_out=measured.left_out if measured else 0,
        plotly=get_plotlyjs(),
        figures=embedded(content),
        tasks=embedded(search_rows(predicted) if predicted else []),
        operations=embedded(list(_operations(of))),
        script=_part("page.js"),
        style=_part("page.css"),
    )


def embedded(content: Any) -> str:
    """Write values as JSON that may stand in a script: no text of it can end the script or begin a comment."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


def _part(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _passes(of: CompiledFolder) -> Iterator[PassEntry]:
    texts = [(name, path, read_snapshot(path)) for name, path in of.snapshots]
    for (_, _, before), (name, path, after) in pairwise(texts):
        found = changes(before, after)
        shown = [(change.before, change.after) for change in map(shortened, found[:MOST_CHANGES])]
        yield PassEntry(name, account(of, name), shown, len(found) - len(shown), path.name)


def _operations(of: CompiledFolder) -> Iterator[list[str]]:
    """Yield a row an operation of the two phases: function, name, line of the model, what it says, tasks behind it."""
    names = [name for name, _ in of.snapshots]
    at = names.index("select-draft") if "select-draft" in names else len(names) - 1
    if at < 0:
        return
    from moe_passes.ir.dialects import context, parse
    from moe_passes.ir.show import lines

    path = of.snapshots[at][1]
    for where, name, line, says in lines(parse(read_snapshot(path), str(path), context()))[:MOST_OPERATIONS]:
        if where.startswith("@") and name.startswith("moe."):
            yield [where, name, line, says[:160], _tasks_of(where, name, says)]


def _tasks_of(where: str, name: str, says: str) -> str:
    """Return how the names of an operation's tasks begin; empty where it has none of its own."""
    is_draft = where.startswith("@draft")
    kind = KINDS.get(name) or ({True: "draft-experts", False: "expert"}[is_draft] if name == "moe.experts" else "")
    layer = LAYER.search(says)
    if kind == "head":
        return "head (draft" if is_draft else "head (verify"
    return f"{kind} L{layer[1]}" if kind and layer else ""
