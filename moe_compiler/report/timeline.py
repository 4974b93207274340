"""The timelines of a compile, predicted and measured, as figures and as rows to search."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from moe_compiler.backend.phases import PHASES
from moe_compiler.backend.trace_file import Slice, read_trace

COLOURS = {
    "attention": "#9aa5b1",
    "head": "#5f6b7a",
    "draft-experts": "#4c9f70",
    "expert": "#2b6cb0",
    "gather": "#b7791f",
    "load": "#c05621",
    "write": "#7b341e",
    "wait": "#d69e2e",
    "draft": "#c6dccd",
    "verify": "#c3d4ea",
    "round": "#e2e8f0",
}
"""By kind of slice."""
OTHER = "#a0aec0"
MOST_SLICES = 20_000
"""Of a figure: of more, the first are shown."""
LANE_PIXELS, FRAME_PIXELS = 34, 150


@dataclass(frozen=True)
class Timeline:
    """Slices on tracks, and how many were left out."""

    tracks: list[str]
    slices: list[Slice]
    left_out: int


def read_timeline(path: Path) -> Timeline | None:
    """Read a trace of ours; None where there is none.

    Raises:
        InputError: it is no trace, or too large.
    """
    if not path.is_file():
        return None
    tracks, slices = read_trace(path)
    slices.sort(key=lambda part: (part.start, part.end))
    shown = slices[:MOST_SLICES]
    return Timeline(
        [name for name in tracks if any(part.track == name for part in shown)], shown, len(slices) - len(shown)
    )


def figure(of: Timeline, title: str) -> go.Figure:
    """Draw a timeline: a lane a track, a bar a slice."""
    lanes = {name: number for number, name in enumerate(of.tracks)}
    drawn = go.Figure()
    for kind in dict.fromkeys(part.kind for part in of.slices):
        drawn.add_trace(_bars(kind, [part for part in of.slices if part.kind == kind], lanes))
    drawn.update_layout(
        title=title,
        meta=max((part.end for part in of.slices), default=0) * 1e-6,
        barmode="overlay",
        bargap=0.12,
        height=FRAME_PIXELS + LANE_PIXELS * max(2, len(lanes)),
        margin={"l": 160, "r": 20, "t": 40, "b": 40},
        xaxis={"title": "milliseconds", "rangemode": "tozero"},
        yaxis={"tickvals": list(lanes.values()), "ticktext": list(lanes), "autorange": "reversed", "fixedrange": True},
        legend={"orientation": "h", "y": -0.25},
        dragmode="zoom",
    )
    return drawn


def _bars(kind: str, slices: Sequence[Slice], lanes: dict[str, int]) -> go.Bar:
    starts, ends = (np.array([getattr(part, end) for part in slices]) * 1e-6 for end in ("start", "end"))
    is_phase = all(part.track == PHASES for part in slices)
    return go.Bar(
        name=kind,
        orientation="h",
        base=starts,
        x=ends - starts,
        y=np.array([lanes[part.track] for part in slices], dtype=np.int16),
        marker={"color": COLOURS.get(kind, OTHER), "line": {"width": 0, "color": "white"}},
        text=[part.name for part in slices] if is_phase else None,
        textposition="inside" if is_phase else None,
        hovertext=[_hover(part) for part in slices],
        hovertemplate="%{hovertext}<br>%{base:.6f} ms, %{x:.6f} ms long<extra></extra>",
    )


def _hover(part: Slice) -> str:
    details = dict(part.details)
    moved = details.get("external_read_bytes") or details.get("bytes")
    said = [f"task {details['task']}"] if "task" in details else []
    said += [f"{moved:,} bytes"] if isinstance(moved, int) and moved else []
    said += ["nothing was computed with it"] if details.get("wasted") == "true" else []
    return escaped("<br>".join([part.name, *said]))


def escaped(text: str) -> str:
    """Keep what a stranger named from being read as markup by the plotting library; line breaks are ours."""
    parts = text.split("<br>")
    return "<br>".join(part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for part in parts)


def search_rows(of: Timeline) -> list[list[Any]]:
    """Return a row a task: name, number, start and length in milliseconds; once, whatever lanes it has."""
    found: dict[int, list[Any]] = {}
    for part in of.slices:
        task = dict(part.details).get("task")
        if isinstance(task, int) and task not in found:
            found[task] = [part.name, task, round(part.start * 1e-6, 6), round((part.end - part.start) * 1e-6, 6)]
    return [found[task] for task in sorted(found)]
