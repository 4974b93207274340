"""Trace the draft step and the verify step of one model and import both as torch dialect."""

from typing import Any

import torch
from moe_passes.ir.module import append, stamp
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ModelShape
from torch import Tensor, nn
from torch_mlir import ir
from torch_mlir.extras.fx_importer import FxImporter

from moe_compiler.frontend import operators
from moe_compiler.frontend.functional import functionalise
from moe_compiler.frontend.models import ModelSource, transformers_config
from moe_compiler.runtime.huggingface import quiet_transformers

INT8_BITS = 8.5
"""INT8 with an FP16 scale per 32 weights."""
INT8_MSB_BITS = 4.5
"""The top nibble with the same scale."""
MXFP4_BITS = 4.25
"""MXFP4 with an 8-bit scale per 32 weights; it is not cut into slices."""
LONGEST_WIDTH = 4096


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

    Args:
        source: the model.
        batch: sequences decoded together.
        ctx: a context from `moe_passes.ir.dialects.context()`.

    Raises:
        InputError: the model cannot be built or traced, or has no routed experts.
    """
    model = build_on_meta(source)
    importer = FxImporter(context=ctx)
    with ctx, ir.Location.unknown():
        for name, width in (("draft_step", 1), ("verify_step", None)):
            _import(importer, _export(source, model, batch, width), name)
        module = importer.module
    stamp(module)
    append(module, _shape(source, model))
    return module


def build_on_meta(source: ModelSource) -> nn.Module:
    """Build the model without weights, its attention and experts replaced by our operators."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(operators.NAME, operators.traced_experts)
    ALL_ATTENTION_FUNCTIONS.register(operators.NAME, operators.traced_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(operators.NAME, lambda *args, **options: None)
    config = transformers_config(source)
    try:
        with torch.device("meta"), quiet_transformers():
            model = AutoModelForCausalLM.from_config(
                config,
                experts_implementation=operators.NAME,
                attn_implementation=operators.NAME,
                dtype=torch.bfloat16,
            )
    except Exception as error:
        raise InputError(f"{source.name}: transformers cannot build the model: {_first_line(error)}") from None
    result: nn.Module = model.eval()
    return result


def _export(source: ModelSource, model: nn.Module, batch: int, width: int | None) -> Any:
    example = torch.zeros(batch, width or 4, dtype=torch.long, device="meta")
    dimension = torch.export.Dim("width", min=2, max=LONGEST_WIDTH)
    shapes = None if width else ({1: dimension}, {1: dimension})
    try:
        with torch.no_grad():
            program = torch.export.export(Step(model), (example, example), dynamic_shapes=shapes, strict=False)
            functionalise(program.graph)
            return program
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{source.name}: torch.export cannot trace the model: {_first_line(error)}") from None


def _import(importer: FxImporter, program: Any, name: str) -> None:
    """Import one exported step; parameters become arguments that carry their name as `moe.parameter`."""
    function = importer.import_stateless_graph(program.graph, func_name=name)
    names = program.graph_signature.inputs_to_parameters
    attributes = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            parameter = names.get(node.name)
            entry = {"moe.parameter": ir.StringAttr.get(parameter.removeprefix("model."))} if parameter else {}
            attributes.append(ir.DictAttr.get(entry))
    function.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes)


def _shape(source: ModelSource, model: nn.Module) -> ModelShape:
    config: Any = model.config
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    return ModelShape(
        name=source.name,
        architecture=type(model).__name__,
        hidden=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        vocabulary=int(config.vocab_size),
        total_parameters=sum(p.numel() for p in model.parameters()),
        embedding_parameters=embedding.weight.numel(),
        expert_bits=MXFP4_BITS if source.is_mxfp4 else INT8_BITS,
        msb_bits=MXFP4_BITS if source.is_mxfp4 else INT8_MSB_BITS,
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
