"""A graph that `torch.compile` captured, brought to the form that a traced model has.

Dynamo hands over what a model computes, however its code says it. Attention is a call of PyTorch's
`scaled_dot_product_attention`. Routed experts are what lies between a router's choice and the sum over a token's
experts: the stacks of expert weights (parameters of three dimensions) are where it is found, the latest choice of k
experts a token before them is the routing, and the first value of the residual stream's shape behind them, which all of
it goes through, is the result. Both become the operators that a trace has, and the passes see no difference.
"""

import copy
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from moe_passes.plan.errors import InputError
from torch import Tensor, fx

import moe_compiler.frontend.operators  # noqa: F401 (registers moe::attention and moe::experts)
from moe_compiler.frontend.functional import functionalise

ATTENTION = torch.nn.functional.scaled_dot_product_attention
PARAMETER = re.compile(r"_(?:modules|parameters)\['([^']+)'\]")
LISTED = re.compile(r"^(.*?)\.(\d+)\.")
MOVED = ("view", "_unsafe_view", "reshape", "expand", "clone", "unsqueeze", "repeat_interleave", "contiguous")
"""Operators through which heads of a key are only repeated."""


@dataclass(frozen=True)
class Captured:
    """A captured model.

    Attributes:
        graph: of ATen operators, attention and routed experts as operators of ours.
        names: of the parameter behind each placeholder that is one.
        layers: name of the list of decoder layers; empty where parameters are in none.
        batch: sequences.
        hidden: width of the residual stream.
        layer_count: decoder layers.
        vocabulary: rows of the embedding.
        parameters: of the whole model.
        embedding_parameters: of the embedding.
    """

    graph: fx.Graph
    names: dict[str, str]
    layers: str
    batch: int
    hidden: int
    layer_count: int
    vocabulary: int
    parameters: int
    embedding_parameters: int

    @property
    def shape(self) -> tuple[int, ...]:
        """What tells the model from others, whatever tokens it was captured with."""
        return (self.layer_count, self.hidden, self.vocabulary, self.parameters)


def capture(module: fx.GraphModule) -> Captured | None:
    """Bring a captured graph to the form of a trace; None where it has no embedding or no routed experts.

    Raises:
        InputError: it has both, and attention or routing cannot be told apart.
    """
    copied = copy.deepcopy(module.graph)
    names = _parameter_names(module.graph)
    if not any(len(_shape(node)) == 3 for node in module.graph.nodes if node.name in names):
        return None
    _attention_as_operator(copied)
    graph = _aten(module, fx.GraphModule(module, copied))
    functionalise(graph)
    names = dict(
        zip(
            _placeholders(graph),
            (names.get(n.name, "") for n in module.graph.find_nodes(op="placeholder")),
            strict=True,
        )
    )
    names = {node: name for node, name in names.items() if name}
    embedding = next((n for n in graph.nodes if n.target is torch.ops.aten.embedding.default), None)
    if embedding is None:
        return None
    if not any(node.target is torch.ops.moe.attention.default for node in graph.nodes):
        raise InputError(
            "torch.compile: the captured graph calls no scaled_dot_product_attention; valid: a model with "
            "attn_implementation='sdpa'"
        )
    _experts_as_operators(graph, names, _shape(embedding)[-1])
    graph.eliminate_dead_code()
    graph.lint()
    return _captured(graph, names, embedding)


def _captured(graph: fx.Graph, names: dict[str, str], embedding: fx.Node) -> Captured:
    table, tokens = embedding.args[:2]
    assert isinstance(table, fx.Node)
    assert isinstance(tokens, fx.Node)
    listed = [match for name in names.values() if (match := LISTED.match(name))]
    prefix = max((match[1] for match in listed), key=[m[1] for m in listed].count, default="")
    sizes = [math.prod(_shape(node)) for node in graph.nodes if node.name in names]
    return Captured(
        graph=graph,
        names=names,
        layers=prefix,
        batch=_shape(tokens)[0],
        hidden=_shape(embedding)[-1],
        layer_count=1 + max((int(match[2]) for match in listed if match[1] == prefix), default=0),
        vocabulary=_shape(table)[0],
        parameters=sum(sizes),
        embedding_parameters=math.prod(_shape(table)),
    )


def _placeholders(graph: fx.Graph) -> list[str]:
    return [node.name for node in graph.find_nodes(op="placeholder")]


def _parameter_names(graph: fx.Graph) -> dict[str, str]:
    """Return the names of parameters by placeholder: Dynamo says where in the model each came from."""
    found = {}
    for node in graph.find_nodes(op="placeholder"):
        source = getattr(getattr(node, "_dynamo_source", None), "name", "")
        path = source() if callable(source) else str(source)
        if "_parameters[" in path:
            found[node.name] = ".".join(PARAMETER.findall(path))
    return found


def _attention_as_operator(graph: fx.Graph) -> None:
    """Put the attention operator in the place of each call of PyTorch's."""
    for number, node in enumerate(n for n in list(graph.nodes) if n.target is ATTENTION):
        query, key, value = node.args[:3]
        with graph.inserting_after(node):
            operands: tuple[Any, ...] = (query, _unrepeated(key), _unrepeated(value), None, number, 0, 0, 0, [])
            attended = graph.call_function(torch.ops.moe.attention, operands)
        with graph.inserting_after(attended):
            # The operator puts heads behind tokens, as transformers does next.
            turned = graph.call_function(torch.transpose, (attended, 1, 2))
        node.replace_all_uses_with(turned)
        graph.erase_node(node)


def _unrepeated(heads: Any) -> Any:
    """Go back from keys or values that are repeated for groups of queries to what a cache keeps of them."""
    node, found = heads, heads
    while (
        isinstance(node, fx.Node) and node.op in ("call_function", "call_method") and _name(node) in {*MOVED, "getitem"}
    ):
        node = node.args[0]
        if isinstance(node, fx.Node) and len(_shape(node)) == 4 and _shape(node)[1] <= _shape(found)[1]:
            found = node
    return found


def _name(node: fx.Node) -> str:
    target: Any = node.target
    return target if isinstance(target, str) else str(getattr(target, "__name__", target)).partition(".")[0]


def _aten(module: fx.GraphModule, rewritten: fx.GraphModule) -> fx.Graph:
    """Break the graph down to ATen operators, on tensors without content."""
    from torch.fx.experimental.proxy_tensor import make_fx

    values = [node.meta.get("example_value") for node in module.graph.find_nodes(op="placeholder")]
    mode = next((value.fake_mode for value in values if hasattr(value, "fake_mode")), None)
    if mode is None:
        raise InputError("torch.compile: the captured graph takes no tensors")
    values = [int(value) if isinstance(value, torch.SymInt) else value for value in values]
    with torch.no_grad(), mode:
        lowered = make_fx(rewritten, tracing_mode="real", _allow_non_fake_inputs=True)(*values)
    return lowered.graph


def _experts_as_operators(graph: fx.Graph, names: dict[str, str], hidden: int) -> None:
    """Put the experts operator in the place of each layer's routed experts."""
    modules: dict[str, list[fx.Node]] = {}
    for node in graph.find_nodes(op="placeholder"):
        if node.name in names:
            modules.setdefault(names[node.name].rpartition(".")[0], []).append(node)
    for where, parameters in modules.items():
        if any(len(_shape(node)) == 3 for node in parameters):
            _replace(graph, _region(graph, where, parameters, hidden))


@dataclass(frozen=True)
class _Region:
    """The routed experts of a layer: what goes in, the weights, and what comes out."""

    activation: fx.Node
    index: fx.Node
    weight: fx.Node
    stacks: list[fx.Node]
    result: fx.Node


def _region(graph: fx.Graph, where: str, stacks: list[fx.Node], hidden: int) -> _Region:
    """Find what routed experts begin and end with.

    Raises:
        InputError: a part of it is not found.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    seeds = _first_uses(stacks)
    before = _reached(seeds, lambda node: node.all_input_nodes)
    index = _latest(before, order, lambda v: v.dim() == 2 and not v.is_floating_point() and v.dtype != torch.bool)
    if index is None:
        raise InputError(
            f"torch.compile: {where}: no choice of experts was found before it; valid: a router with top-k"
        )
    behind = _reached(seeds, lambda node: list(node.users)) | seeds
    rows, top_k = _shape(index)
    result = _joint(behind, order, rows * hidden, hidden)
    leading = _reached([result] if result is not None else [], lambda node: node.all_input_nodes) - behind
    weight = _latest(leading, order, lambda v: tuple(v.shape) == (rows, top_k) and v.is_floating_point())
    # Values flow into the experts past what was chosen and how much each choice counts.
    inside = {node for node in behind if result is not None and order[node] <= order[result]}
    inward = (
        _reached(inside, lambda node: [n for n in node.all_input_nodes if n is not weight and _is_real(n)]) - behind
    )
    activation = _latest(inward, order, lambda v: tuple(v.shape) == (rows, hidden))
    if result is None or weight is None or activation is None:
        raise InputError(f"torch.compile: {where}: its input, its routing's weights or its result are not in the graph")
    return _Region(activation, index, weight, stacks, result)


def _replace(graph: fx.Graph, of: _Region) -> None:
    order = {node: place for place, node in enumerate(graph.nodes)}
    with graph.inserting_after(max((of.activation, of.index, of.weight), key=lambda node: order[node])):
        made = graph.call_function(torch.ops.moe.experts.default, (of.activation, of.index, of.weight, of.stacks))
    made.meta = dict(of.result.meta) | {"val": of.activation.meta["val"]}
    with graph.inserting_after(made):
        shaped = graph.call_function(torch.ops.aten.view.default, (made, list(_shape(of.result))))
    shaped.meta = dict(of.result.meta)
    of.result.replace_all_uses_with(shaped)


def _first_uses(stacks: list[fx.Node]) -> set[fx.Node]:
    """Return where weights meet something else; casts and transposes of weights alone lie before."""
    alone, found = set(stacks), set()
    waiting = list(stacks)
    while waiting:
        for user in waiting.pop().users:
            if all(node in alone for node in user.all_input_nodes):
                alone.add(user)
                waiting.append(user)
            else:
                found.add(user)
    return found - alone


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return not isinstance(value, Tensor) or value.is_floating_point()


def _reached(start: Iterable[fx.Node], step: Callable[[fx.Node], list[fx.Node]]) -> set[fx.Node]:
    """Return what is reached from some nodes."""
    found: set[fx.Node] = set()
    waiting = [node for begin in start for node in step(begin)]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += step(node)
    return found


def _latest(nodes: Iterable[fx.Node], order: dict[fx.Node, int], fits: Callable[[Tensor], bool]) -> fx.Node | None:
    """Return the last of some computed values that fit."""
    computed = (n for n in nodes if n.op == "call_function" and isinstance(n.meta.get("val"), Tensor))
    return max((n for n in computed if fits(n.meta["val"])), key=lambda node: order[node], default=None)


def _joint(behind: set[fx.Node], order: dict[fx.Node, int], elements: int, hidden: int) -> fx.Node | None:
    """Return the first value of so many elements, rows of the residual stream, that all that is behind goes through."""
    pending: dict[fx.Node, int] = {}
    for node in sorted((n for n in behind if n.op != "output"), key=lambda n: order[n]):
        for used in node.all_input_nodes:
            if used in pending:
                pending[used] -= 1
        value = node.meta.get("val")
        is_shaped = isinstance(value, Tensor) and value.numel() == elements and value.shape[-1] == hidden
        if is_shaped and pending and not any(pending.values()):
            return node
        pending[node] = len(node.users)
    return None


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val", node.meta.get("example_value"))
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()
