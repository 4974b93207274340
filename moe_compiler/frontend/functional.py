"""Make an exported graph functional: in-place operators become values.

`ExportedProgram.run_decompositions({})` does this too, by tracing the whole graph again; at full size that takes
longer than the export itself (22 s of 34 s for Qwen3-30B-A3B), and decoders mutate in two ways only: an in-place
operator on a fresh tensor, and `copy_` into a slice of one.
"""

import torch
from moe_passes.plan.errors import InputError
from torch import fx

aten = torch.ops.aten
SLICE = aten.slice.Tensor
VIEWS = (
    aten.view.default,
    aten.reshape.default,
    aten.transpose.int,
    aten.permute.default,
    aten.expand.default,
    aten.select.int,
    aten.squeeze.dim,
    aten.unsqueeze.default,
)


def functionalise(graph: fx.Graph) -> None:
    """Replace every in-place operator of the graph, in place.

    Raises:
        InputError: an in-place operator writes through a view that is not a slice, or has no functional counterpart.
    """
    for node in list(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None and schema.is_mutable:
            _replace(graph, node)


def _replace(graph: fx.Graph, node: fx.Node) -> None:
    written = node.args[0]
    if not isinstance(written, fx.Node) or written.target in VIEWS:
        raise InputError(f"the traced graph writes through a view: {node.format_node()}")
    with graph.inserting_after(node):
        if written.target is SLICE:
            if node.target is not aten.copy_.default:
                raise InputError(f"the traced graph writes through a slice: {node.format_node()}")
            base, *bounds = written.args
            replaced = base
            value = graph.call_function(aten.slice_scatter.default, (base, node.args[1], *bounds))
        else:
            replaced = written
            value = graph.call_function(_functional(node), node.args, node.kwargs)
    assert isinstance(replaced, fx.Node)
    value.meta = dict(replaced.meta)
    _replace_later_uses(replaced, value, node)
    node.replace_all_uses_with(value)
    graph.erase_node(node)
    if not written.users and written.target is SLICE:
        graph.erase_node(written)


def _functional(node: fx.Node) -> torch._ops.OpOverload:
    name, overload = str(node.target).removeprefix("aten.").split(".")
    packet = getattr(aten, name.removesuffix("_"), None)
    if packet is None or overload not in packet.overloads():
        raise InputError(f"the traced graph has an in-place operator without a counterpart: {node.target}")
    functional: torch._ops.OpOverload = getattr(packet, overload)
    return functional


def _replace_later_uses(old: fx.Node, new: fx.Node, after: fx.Node) -> None:
    for user in list(old.users):
        if user is not new and user is not after and user > after:
            user.replace_input_with(old, new)
