"""The two phases for Google's Model Explorer: the graph, and an overlay of what each operation costs.

`model_explorer.graph.json` opens in it as it is (`model-explorer model_explorer.graph.json`), and the overlay
`model_explorer.node_data.json` is loaded on top as custom node data: seconds that the scheduled round spends on each
operation, of a draft step the mean over all of them, loads of an expert with its layer's experts. What has no task of
its own (a router, an addition) is part of its layer's dense work, which stands with its attention.
"""

import json
from collections.abc import Iterator
from typing import Any

from moe_passes.ir.module import expert_stores, function, line_of, only
from moe_passes.ir.phases import DRAFT, VERIFY
from moe_passes.ir.round import Round
from moe_passes.plan.model import ModelShape
from torch_mlir import ir

NAME = "emit"
GRADIENT = [{"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#c05621"}]
WORK = {
    "moe.attention": ("attention",),
    "moe.mixer": ("attention",),
    "moe.experts": ("draft-experts", "load", "expert", "write", "gather"),
    "moe.head": ("head",),
}
"""The kinds of tasks that an operation becomes."""


def model_explorer(module: ir.Module, round_: Round) -> dict[str, bytes]:
    """Return the graph and the overlay, by file name."""
    spent = _seconds(round_)
    graphs, data = [], {}
    for phase in (DRAFT, VERIFY):
        nodes = list(_nodes(module, phase))
        graphs.append({"id": phase, "nodes": [node for node, _, _ in nodes]})
        costs = {
            node["id"]: sum(spent.get((phase, kind, layer), 0.0) for kind in WORK[op])
            for node, op, layer in nodes
            if op in WORK
        }
        results = {name: {"value": seconds} for name, seconds in costs.items() if seconds}
        data[phase] = {"name": "seconds", "results": results, "gradient": GRADIENT}
    return {
        "model_explorer.graph.json": json.dumps({"label": NAME, "graphs": graphs}).encode(),
        "model_explorer.node_data.json": json.dumps(data).encode(),
    }


def _seconds(round_: Round) -> dict[tuple[str, str, int], float]:
    """Add up the seconds of tasks by phase, kind and layer; of draft steps the mean."""
    schedule, length = round_.schedule(NAME), max((work.step for work in round_.work), default=0)
    found: dict[tuple[str, str, int], float] = {}
    for number, work in enumerate(round_.work):
        seconds = (schedule.end(round_.problem, number) - schedule.starts[number]) * 1e-9
        is_draft = work.step < length
        key = (DRAFT if is_draft else VERIFY, work.kind, work.layer)
        found[key] = found.get(key, 0.0) + seconds / (length if is_draft else 1)
    return found


def _nodes(module: ir.Module, phase: str) -> Iterator[tuple[dict[str, Any], str, int]]:
    """Yield the node of every operation, its name, and its layer; a layer's nodes are in one group."""
    made: dict[ir.Value, str] = {}
    layers = {store.name: store.layer for _, store in expert_stores(module, NAME)}
    layer, last = -1, max(layers.values(), default=0)
    for number, op in enumerate(function(module, phase, NAME).regions[0].blocks[0]):
        name = op.operation.name
        if name.endswith(".return"):
            continue
        if "layer" in op.attributes:
            layer = op.attributes["layer"].value
        elif "store" in op.attributes:
            layer = layers.get(op.attributes["store"].value, layer)
        of = only(module, ModelShape, NAME).layers if name == "moe.head" else layer
        node = {
            "id": f"{phase}/{number}",
            "label": name,
            "namespace": f"layer {layer}" if 0 <= layer <= last and name not in ("moe.head", "moe.embed") else "",
            "incomingEdges": [{"sourceNodeId": made[value]} for value in op.operation.operands if value in made],
            "attrs": [{"key": "line", "value": line_of(op)}, *_attributes(op)],
        }
        made.update((result, node["id"]) for result in op.operation.results)
        yield node, name, of


def _attributes(op: ir.OpView) -> list[dict[str, str]]:
    return [{"key": name, "value": str(op.attributes[name])[:80]} for name in op.attributes]
