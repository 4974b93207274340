"""Trace the draft step and the verify step of one model and import both as torch dialect."""

import contextlib
from typing import Any

import torch
from moe_passes.ir.module import append, stamp
from moe_passes.ir.records import to_attribute
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ModelShape, TracedLayers
from torch import Tensor, nn
from torch_mlir import ir
from torch_mlir.extras.fx_importer import FxImporter

from moe_compiler.frontend.building import first_line, prepared
from moe_compiler.frontend.captured import Captured
from moe_compiler.frontend.functional import functionalise
from moe_compiler.frontend.layers import Layers, decoder_layers, one_of_each, representatives
from moe_compiler.frontend.models import ModelSource

LONGEST_WIDTH = 4096
FEW_TOKENS = 4
"""Width that stands for any where a model's own code needs a number."""


class Step(nn.Module):
    """One decoding step: token ids and positions in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Run [batch, width] tokens; the KV cache is the attention operator's state."""
        logits: Tensor = self.model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        return logits


def trace(source: ModelSource, batch: int, ctx: ir.Context) -> ir.Module:
    """Trace a model into a module with `@draft_step` ([batch, 1] tokens) and `@verify_step` ([batch, ?]).

    Of decoder layers that are alike one is traced (`layers.py`), where the model can be traced so.

    Args:
        source: the model.
        batch: sequences decoded together.
        ctx: a context from `moe_passes.ir.dialects.context()`.

    Raises:
        InputError: the model cannot be built or traced, or has no routed experts.
    """
    if source.captured is not None:
        return _imported(source, source.captured, ctx)
    model = prepared(source)
    found = decoder_layers(model)
    if found is None:
        raise InputError(f"{source.name}: {type(model).__name__} has no list of decoder layers")
    like = representatives(found[1], model.config)
    try:
        return _traced(source, model, found, like, batch, ctx)
    except InputError:
        if len(set(like)) == len(like):
            raise
    return _traced(source, model, found, tuple(range(len(like))), batch, ctx)


def _traced(
    source: ModelSource, model: nn.Module, of: Layers, like: tuple[int, ...], batch: int, ctx: ir.Context
) -> ir.Module:
    """Trace both phases with the layers that others are like."""
    importer = FxImporter(context=ctx)
    shape, (name, layers) = shape_of(source, model), of
    with ctx, ir.Location.unknown(), one_of_each(layers, like):
        for phase, width in (("draft_step", 1), ("verify_step", None)):
            _import(importer, _export(source, model, batch, width), phase, name)
        module = importer.module
    stamp(module)
    append(module, shape)
    append(module, TracedLayers(like))
    return module


def _imported(source: ModelSource, of: Captured, ctx: ir.Context) -> ir.Module:
    """Import a captured graph as both phases: it has as many tokens as it has, and a plan needs shapes of weights."""
    importer = FxImporter(context=ctx)
    with ctx, ir.Location.unknown():
        for phase in ("draft_step", "verify_step"):
            function = importer.import_stateless_graph(of.graph, func_name=phase)
            placeholders = of.graph.find_nodes(op="placeholder")
            entries = [
                _entry(f"model.{of.names[n.name]}" if n.name in of.names else None, of.layers) for n in placeholders
            ]
            function.attributes["arg_attrs"] = ir.ArrayAttr.get([ir.DictAttr.get(entry) for entry in entries])
        module = importer.module
    stamp(module)
    sizes = (of.hidden, of.layer_count, of.vocabulary, of.parameters, of.embedding_parameters)
    append(module, _shape(source, "captured", *sizes))
    append(module, TracedLayers(tuple(range(of.layer_count))))
    return module


def _export(source: ModelSource, model: nn.Module, batch: int, width: int | None) -> Any:
    """Export one step; where a model refuses a width that is open, one of a few tokens stands for it."""
    if width is None:
        dimension = torch.export.Dim("width", min=2, max=LONGEST_WIDTH)
        with contextlib.suppress(InputError):
            return _exported(source, model, batch, FEW_TOKENS, ({1: dimension}, {1: dimension}))
    return _exported(source, model, batch, width or FEW_TOKENS, None)


def _exported(source: ModelSource, model: nn.Module, batch: int, width: int, dynamic: Any) -> Any:
    example = torch.zeros(batch, width, dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            program = torch.export.export(Step(model), (example, example), dynamic_shapes=dynamic, strict=False)
            functionalise(program.graph)
            return program
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{source.name}: torch.export cannot trace the model: {first_line(error)}") from None


def _import(importer: FxImporter, program: Any, name: str, layers: str) -> None:
    """Import one exported step; parameters become arguments with their name and layer as attributes."""
    function = importer.import_stateless_graph(program.graph, func_name=name)
    names = program.graph_signature.inputs_to_parameters
    tensors = [id(program.state_dict.get(parameter)) for parameter in names.values()]
    attributes = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            parameter = names.get(node.name)
            # Of tied weights, the graph uses one; the other would be counted twice.
            is_twin = parameter and not node.users and tensors.count(id(program.state_dict.get(parameter))) > 1
            attributes.append(ir.DictAttr.get({} if is_twin else _entry(parameter, layers)))
    function.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes)


def _entry(parameter: str | None, layers: str) -> dict[str, ir.Attribute]:
    if not parameter:
        return {}
    name = parameter.removeprefix("model.")
    _, inside, rest = name.partition(f"{layers}.")
    layer = {"moe.layer": to_attribute(int(rest.partition(".")[0]))} if inside else {}
    return {"moe.parameter": ir.StringAttr.get(name), **layer}


def _cached_layers(model: nn.Module) -> list[int]:
    """Return the layer numbers that modules with a cache of their own go by."""
    return [int(m.layer_idx) for m in model.modules() if isinstance(getattr(m, "layer_idx", None), int)]  # type: ignore[arg-type]


def shape_of(source: ModelSource, model: nn.Module) -> ModelShape:
    """Return the shape of a model that was built."""
    config: Any = model.config
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    return _shape(
        source,
        getattr(model, "architecture", type(model).__name__),
        int(config.hidden_size),
        max(int(config.num_hidden_layers), 1 + max(_cached_layers(model), default=0)),
        int(config.vocab_size),
        sum(p.numel() for p in model.parameters()),
        embedding.weight.numel(),
    )


def _shape(
    source: ModelSource, architecture: str, hidden: int, layers: int, vocabulary: int, parameters: int, embedding: int
) -> ModelShape:
    """Return a shape with the bits of the format that the weights are in."""
    of = source.weights
    return ModelShape(
        name=source.name,
        architecture=architecture,
        hidden=hidden,
        layers=layers,
        vocabulary=vocabulary,
        total_parameters=parameters,
        embedding_parameters=embedding,
        expert_bits=float(of.experts),
        msb_bits=float(of.sliced or of.experts),
        dense_bits=float(of.dense),
        dense_msb_bits=float(of.dense_sliced or of.dense),
        kv_bits=float(of.kv),
        embedding_bits=float(of.embedding),
        format=of.name,
    )
