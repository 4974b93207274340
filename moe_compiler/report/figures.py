"""What a compile decided, drawn: memories and banks, experts, draft lengths, roofline, energy."""

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
from moe_passes.plan.decisions import RESIDENCY
from plotly.subplots import make_subplots

from moe_compiler.documents.folder import CompiledFolder
from moe_compiler.documents.plan import DispatchedLayer
from moe_compiler.explanation.draft import best_by_length
from moe_compiler.explanation.energy import layer_name
from moe_compiler.report.timeline import escaped

LEVEL_COLOURS = {"none": "#edf2f7", "msb": "#63b3ed", "all": "#2c5282", "deep": "#cbd5e0"}
PARTS = {"dense_bytes": "#5f6b7a", "kv_bytes": "#b7791f", "staging_bytes": "#c05621", "expert_bytes": "#2b6cb0"}
MARGIN = {"l": 80, "r": 30, "t": 60, "b": 60}
Metric = Callable[[DispatchedLayer, int], np.ndarray]


def _replicas(layer: DispatchedLayer, banks: int, worth: Callable[[int, int], float]) -> np.ndarray:
    """Add up, by bank, what each shard is worth: `worth` of an expert and the number of its replicas."""
    found = np.zeros(banks)
    for expert, copies in enumerate(layer.placement):
        for copy in copies:
            found[copy] += worth(expert, len(copies)) / len(copy)
    return found


def _kept_bytes(layer: DispatchedLayer, expert: int) -> int:
    sizes = layer.expert_bytes
    return 0 if sizes is None else {"msb": sizes.msb, "all": sizes.all}.get(layer.residency[expert], 0)


def _bytes(layer: DispatchedLayer, banks: int) -> np.ndarray:
    return _replicas(layer, banks, lambda expert, copies: _kept_bytes(layer, expert)) / 1e6


def _reads(layer: DispatchedLayer, banks: int) -> np.ndarray:
    def worth(expert: int, copies: int) -> float:
        return layer.needed_permille[expert] / 1000 * _kept_bytes(layer, expert) / copies

    return _replicas(layer, banks, worth) / 1e6


def _shards(layer: DispatchedLayer, banks: int, least_replicas: int = 1) -> np.ndarray:
    held = [bank for copies in layer.placement if len(copies) >= least_replicas for copy in copies for bank in copy]
    return np.bincount(np.array(held, dtype=np.int64), minlength=banks).astype(float)


def _doubles(layer: DispatchedLayer, banks: int) -> np.ndarray:
    return _shards(layer, banks, least_replicas=2)


METRICS: dict[str, Metric] = {
    "MB of experts": _bytes,
    "expected MB read by verify a round (replicas share)": _reads,
    "shards": _shards,
    "shards of experts with several replicas": _doubles,
}
"""What the heat map of banks shows, by title."""


def banks(of: CompiledFolder) -> go.Figure:
    """Draw what lies in each bank and is read there, by layer."""
    layers, count = of.plan.layers, of.plan.banks
    maps = {title: np.stack([metric(layer, count) for layer in layers]) for title, metric in METRICS.items()}
    drawn = go.Figure()
    for number, (title, values) in enumerate(maps.items()):
        drawn.add_trace(
            go.Heatmap(
                z=values.astype(np.float32),
                y=[str(layer.layer) for layer in layers],
                visible=number == 0,
                colorscale="Blues",
                zmin=0,
                zmax=float(values.max()) or 1.0,
                hovertemplate="layer %{y}, bank %{x}: %{z:.4g}<extra></extra>",
                name=title,
            )
        )
    buttons = [
        {
            "label": title,
            "method": "update",
            "args": [{"visible": [other == title for other in maps]}, {"title.text": title}],
        }
        for title in maps
    ]
    drawn.update_layout(
        title=next(iter(maps)),
        height=max(320, 120 + 9 * len(layers)),
        margin=MARGIN,
        xaxis={"title": "bank"},
        yaxis={"title": "layer", "type": "category"},
        updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.12}],
    )
    return drawn


def memories(of: CompiledFolder) -> go.Figure:
    """Draw how the near memory is shared out, and what of the experts lies where."""
    near, drawn = of.plan.hb, make_subplots(rows=1, cols=2, subplot_titles=("near memory", "experts, all layers"))
    for name, colour in PARTS.items():
        size = getattr(near, name) / 1e6
        label = name.removesuffix("_bytes").replace("expert", "experts").replace("kv", "KV cache")
        bar = go.Bar(x=[size], y=["near"], orientation="h", name=label, marker={"color": colour})
        drawn.add_trace(bar.update(hovertemplate=f"{label}: %{{x:.4g}} MB<extra></extra>"), row=1, col=1)
    for level in RESIDENCY:
        count = sum(kept == level for layer in of.plan.layers for kept in layer.residency)
        marker = {"color": LEVEL_COLOURS[level], "line": {"color": "#718096", "width": 1}}
        bar = go.Bar(x=[level], y=[count], marker=marker, showlegend=False)
        drawn.add_trace(bar.update(hovertemplate="%{x}: %{y} experts<extra></extra>"), row=1, col=2)
    deep = sum(len(layer.deep) for layer in of.plan.layers)
    if deep:
        drawn.add_trace(
            go.Bar(x=["deep"], y=[deep], marker={"color": LEVEL_COLOURS["deep"]}, showlegend=False), row=1, col=2
        )
    drawn.update_layout(barmode="stack", height=300, margin=MARGIN)
    drawn.update_xaxes(title="MB", row=1, col=1)
    return drawn


def experts(of: CompiledFolder) -> go.Figure:
    """Draw what is kept of every expert."""
    layers = of.plan.layers
    width = max(len(layer.residency) for layer in layers)
    levels = np.full((len(layers), width), np.nan, dtype=np.float32)
    said = [[""] * width for _ in layers]
    for row, layer in enumerate(layers):
        deep = set(layer.deep)
        for expert, level in enumerate(layer.residency):
            levels[row, expert] = RESIDENCY.index(level)
            tokens = f"{layer.popularity[expert]} training tokens<br>" if layer.popularity else ""
            said[row][expert] = (
                f"{layer.layer}.{expert}: {level}{', deep' if expert in deep else ''}<br>{tokens}"
                f"needed in {layer.needed_permille[expert]} ‰ of rounds<br>{len(layer.placement[expert])} replicas"
            )
    steps = [(n / 3, (n + 1) / 3, LEVEL_COLOURS[level]) for n, level in enumerate(RESIDENCY)]
    drawn = go.Figure(
        go.Heatmap(
            z=levels,
            y=[str(layer.layer) for layer in layers],
            text=said,
            hovertemplate="%{text}<extra></extra>",
            colorscale=[[at, colour] for low, high, colour in steps for at in (low, high)],
            zmin=-0.5,
            zmax=2.5,
            colorbar={"tickvals": [0, 1, 2], "ticktext": ["nothing", "slice", "whole"]},
            xgap=1 if width <= 64 else 0,
            ygap=1 if width <= 64 else 0,
        )
    )
    drawn.update_layout(
        title="what the near memory keeps of each expert (before the hot set follows)",
        height=max(320, 120 + 10 * len(layers)),
        margin=MARGIN,
        xaxis={"title": "expert"},
        yaxis={"title": "layer", "type": "category"},
    )
    return drawn


def draft(of: CompiledFolder) -> go.Figure:
    """Draw tokens a second over γ, and the acceptance that would break even beside the one that is expected."""
    best = best_by_length(of.plan.weighed)
    tried = {n: s for n, s in best.items() if s.seconds is not None}
    titles = ("tokens a second", "accepted share of drafted tokens")
    drawn = make_subplots(rows=1, cols=2, subplot_titles=titles)
    estimates = [1 / s.estimate_seconds for s in best.values()]
    drawn.add_trace(
        go.Scatter(x=list(best), y=estimates, mode="lines", name="closed form", line={"dash": "dot"}), row=1, col=1
    )
    rates = [1 / s.seconds for s in tried.values() if s.seconds]
    drawn.add_trace(
        go.Scatter(x=list(tried), y=rates, mode="markers", name="dispatched", marker={"size": 9}), row=1, col=1
    )
    chosen = of.cost.draft.length
    if chosen in tried:
        mark = {"size": 16, "symbol": "circle-open", "line": {"width": 3}}
        point = go.Scatter(x=[chosen], y=[1 / (tried[chosen].seconds or 1)], mode="markers", name="chosen", marker=mark)
        drawn.add_trace(point, row=1, col=1)
    plain = tried.get(0)
    if plain is not None and plain.seconds:
        drawn.add_hline(
            1 / plain.seconds, line={"dash": "dash", "width": 1}, row=1, col=1, annotation_text="plain decoding"
        )
        drafted = {n: s for n, s in best.items() if n}
        rounds = plain.seconds * plain.round_tokens
        even = [((s.seconds or s.estimate_seconds) * s.round_tokens / rounds - 1) / n for n, s in drafted.items()]
        drawn.add_trace(go.Scatter(x=list(drafted), y=even, mode="lines+markers", name="break-even α"), row=1, col=2)
        expected = [s.acceptance_rate for s in drafted.values()]
        drawn.add_trace(go.Scatter(x=list(drafted), y=expected, mode="lines+markers", name="expected α"), row=1, col=2)
    even_at = of.cost.draft.break_even_acceptance
    if even_at is not None:
        drawn.add_hline(
            even_at, line={"dash": "dash", "width": 1}, row=1, col=2, annotation_text="break-even of the plan"
        )
    drawn.update_xaxes(title="γ, drafted tokens a round", dtick=1 if len(best) < 20 else None)
    drawn.update_yaxes(rangemode="tozero")
    drawn.update_layout(height=420, margin=MARGIN, legend={"orientation": "h", "y": -0.25})
    return drawn


def roofline(of: CompiledFolder) -> go.Figure:
    """Draw the seconds each resource would need if nothing ever waited, beside the round."""
    cost = of.cost
    ranked = sorted(cost.roofline_seconds.items(), key=lambda pair: pair[1])
    drawn = go.Figure(
        go.Bar(
            x=[value * 1e3 for _, value in ranked],
            y=[name for name, _ in ranked],
            orientation="h",
            marker={"color": ["#c05621" if name == cost.limited_by else "#63b3ed" for name, _ in ranked]},
            hovertemplate="%{y}: %{x:.4g} ms<extra></extra>",
        )
    )
    marks = ((cost.round.lower_bound_seconds, "proved bound", "top left"), (cost.round.seconds, "round", "top right"))
    for value, text, place in marks:
        line = {"dash": "dash", "width": 1}
        drawn.add_vline(value * 1e3, line=line, annotation_text=text, annotation_position=place)
    drawn.update_layout(
        title=f"limited by {escaped(cost.limited_by)} ({escaped(cost.limited_by_field)})",
        xaxis={"title": "milliseconds of a round, if nothing ever waited", "rangemode": "tozero"},
        height=340,
        margin=MARGIN | {"l": 160},
    )
    return drawn


def energy(of: CompiledFolder) -> go.Figure | None:
    """Draw energy by part of the machine, and by layer and phase; None where it is not known."""
    if of.cost.joules_by_part is None:
        return None
    parts = sorted(of.cost.joules_by_part.items(), key=lambda pair: -pair[1])
    drawn = make_subplots(
        rows=1, cols=2, column_widths=[0.35, 0.65], subplot_titles=("by part", "by layer, static left out")
    )
    bar = go.Bar(x=[n for n, _ in parts], y=[v * 1e3 for _, v in parts], showlegend=False, marker={"color": "#5f6b7a"})
    drawn.add_trace(bar.update(hovertemplate="%{x}: %{y:.4g} mJ<extra></extra>"), row=1, col=1)
    for phase, colour in (("draft", "#4c9f70"), ("verify", "#2b6cb0")):
        of_phase = [entry for entry in of.cost.joules_by_layer or () if entry.phase == phase]
        if of_phase:
            x, y = [layer_name(of, entry.layer) for entry in of_phase], [entry.joules * 1e3 for entry in of_phase]
            drawn.add_trace(go.Bar(x=x, y=y, name=phase, marker={"color": colour}), row=1, col=2)
    drawn.update_yaxes(title="mJ a round", row=1, col=1)
    drawn.update_layout(barmode="stack", height=400, margin=MARGIN)
    return drawn
