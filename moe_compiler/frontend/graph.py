"""Trace the draft step and the verify step of one model and import both as torch dialect."""

from typing import Any

import torch
from moe_passes.ir.module import append, stamp
from moe_passes.ir.records import to_attribute
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ModelShape, TracedLayers
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch_mlir import ir
from torch_mlir.extras.fx_importer import FxImporter

from moe_compiler.frontend import operators
from moe_compiler.frontend.functional import functionalise
from moe_compiler.frontend.layers import decoder_layers, one_of_each, representatives
from moe_compiler.frontend.models import ModelSource, transformers_config
from moe_compiler.frontend.substitutes import (
    Output,
    mixers,
    plain_rotary,
    record_outputs,
    replace_loops,
    replace_mixers,
)
from moe_compiler.runtime.huggingface import is_causal, quiet_transformers

LONGEST_WIDTH = 4096
FEW_TOKENS = 4
"""Width that stands for any where a model's own code needs a number."""
PROBED_TOKENS = 8


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
    model = prepared(source)
    found = decoder_layers(model)
    if found is None:
        raise InputError(f"{source.name}: {type(model).__name__} has no list of decoder layers")
    name, layers = found
    like = representatives(layers, model.config)
    try:
        return _traced(source, model, name, layers, like, batch, ctx)
    except InputError:
        if len(set(like)) == len(like):
            raise
    return _traced(source, model, name, layers, tuple(range(len(like))), batch, ctx)


def _traced(
    source: ModelSource,
    model: nn.Module,
    name: str,
    layers: nn.ModuleList,
    like: tuple[int, ...],
    batch: int,
    ctx: ir.Context,
) -> ir.Module:
    importer = FxImporter(context=ctx)
    shape = shape_of(source, model)
    with ctx, ir.Location.unknown(), one_of_each(layers, like):
        for phase, width in (("draft_step", 1), ("verify_step", None)):
            _import(importer, _export(source, model, batch, width), phase, name)
        module = importer.module
    stamp(module)
    append(module, shape)
    append(module, TracedLayers(like))
    return module


def prepared(source: ModelSource) -> nn.Module:
    """Build the model without weights, with operators in the place of what is not traced itself."""
    model = build_on_meta(source)
    replace_loops(model)
    outputs, states = _probed(model)
    replace_mixers(outputs, states)
    return model


def _probed(model: nn.Module) -> tuple[dict[nn.Module, Output], dict[int, int]]:
    """Run a model with token mixers once, for what they return and what transformers' own cache keeps of a sequence."""
    from transformers import DynamicCache

    if not mixers(model):
        return {}, {}
    outputs, hooks = record_outputs(model)
    try:
        # Fake tensors: transformers asks them no questions about values, as it does not while it is traced.
        with torch.no_grad(), quiet_transformers(), FakeTensorMode(allow_non_fake_inputs=True):
            tokens = torch.zeros(1, PROBED_TOKENS, dtype=torch.long, device="meta")
            try:
                cache = DynamicCache(config=model.config)
                model(input_ids=tokens, past_key_values=cache, use_cache=True)
            except ValueError:
                # Models with a cache class of their own make it themselves.
                cache = model(input_ids=tokens, use_cache=True).past_key_values
    except Exception as error:
        raise InputError(f"{type(model).__name__}: cannot be run on the meta device: {_first_line(error)}") from None
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, {n: _state_elements(cache, n) for n in range(len(cache.layers))}


def _state_elements(cache: Any, layer: int) -> int:
    """Return elements that a cache keeps of a sequence beside keys and values."""
    kept = vars(cache.layers[layer])
    found = [kept.get("conv_states"), kept.get("recurrent_states"), *getattr(cache, "linear_cache", [])[layer:][:1]]
    tensors = [t for value in found for t in (value.values() if isinstance(value, dict) else [value])]
    return sum(t.numel() for t in tensors if isinstance(t, Tensor))


def build_on_meta(source: ModelSource) -> nn.Module:
    """Build the model without weights, its attention and experts replaced by our operators."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(operators.NAME, operators.traced_experts)
    ALL_ATTENTION_FUNCTIONS.register(operators.NAME, operators.traced_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(operators.NAME, _mask)
    config = transformers_config(source)
    with quiet_transformers():
        plain_rotary(config)
    try:
        with torch.device("meta"), quiet_transformers():
            model = _language_model(config)
    except Exception as error:
        raise InputError(f"{source.name}: transformers cannot build the model: {_first_line(error)}") from None
    result: nn.Module = model.eval()
    return result


def _language_model(config: Any) -> nn.Module:
    """Build a causal language model, or of a wrapper that has none of its own the one inside."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    options: dict[str, Any] = {
        "experts_implementation": operators.NAME,
        "attn_implementation": operators.NAME,
        "dtype": torch.bfloat16,
    }
    if is_causal(config.model_type):
        model: nn.Module = AutoModelForCausalLM.from_config(config, **options)
        return model
    return LanguageModel(AutoModelForImageTextToText.from_config(config, **options))


class LanguageModel(nn.Module):
    """The language model of a wrapper: its decoder and its head."""

    def __init__(self, wrapper: Any) -> None:
        super().__init__()
        self.model = wrapper.get_decoder()
        self.lm_head = wrapper.get_output_embeddings()
        self.config = self.model.config
        self.architecture = type(wrapper).__name__

    def get_input_embeddings(self) -> nn.Module:
        """Return the table that token ids are looked up in."""
        table: nn.Module = self.model.get_input_embeddings()
        return table

    def forward(self, **options: Any) -> Any:
        """Run the decoder and the head."""
        from transformers.modeling_outputs import CausalLMOutputWithPast

        result = self.model(**options)
        logits = self.lm_head(result.last_hidden_state)
        return CausalLMOutputWithPast(logits=logits, past_key_values=result.past_key_values)


def _mask(batch_size: int, q_length: int, kv_length: int, *args: Any, **options: Any) -> Tensor:
    """Return a mask of the right shape: sparse attention cuts pieces out of it, nothing else looks at it."""
    return torch.empty(batch_size, 1, q_length, kv_length, dtype=torch.bool, device="meta")


def _export(source: ModelSource, model: nn.Module, batch: int, width: int | None) -> Any:
    """Export one step; where a model refuses a width that is open, one of a few tokens stands for it."""
    example = torch.zeros(batch, width or FEW_TOKENS, dtype=torch.long, device="meta")
    dimension = torch.export.Dim("width", min=2, max=LONGEST_WIDTH)
    shapes = [None] if width else [({1: dimension}, {1: dimension}), None]
    for number, dynamic in enumerate(shapes):
        try:
            with torch.no_grad():
                program = torch.export.export(Step(model), (example, example), dynamic_shapes=dynamic, strict=False)
                functionalise(program.graph)
                return program
        except Exception as error:
            if number + 1 < len(shapes):
                continue
            if isinstance(error, InputError):
                raise
            raise InputError(f"{source.name}: torch.export cannot trace the model: {_first_line(error)}") from None
    raise AssertionError("unreachable")


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
    of = source.weights
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    return ModelShape(
        name=source.name,
        architecture=getattr(model, "architecture", type(model).__name__),
        hidden=int(config.hidden_size),
        layers=max(int(config.num_hidden_layers), 1 + max(_cached_layers(model), default=0)),
        vocabulary=int(config.vocab_size),
        total_parameters=sum(p.numel() for p in model.parameters()),
        embedding_parameters=embedding.weight.numel(),
        expert_bits=float(of.experts),
        msb_bits=float(of.sliced or of.experts),
        dense_bits=float(of.dense),
        dense_msb_bits=float(of.dense_sliced or of.dense),
        kv_bits=float(of.kv),
        embedding_bits=float(of.embedding),
        format=of.name,
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
