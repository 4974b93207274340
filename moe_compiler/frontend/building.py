"""Build a model on the `meta` device, with operators in the place of what is not traced itself."""

from typing import Any

import torch
from moe_passes.plan.errors import InputError
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from moe_compiler.frontend import operators
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

PROBED_TOKENS = 8


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
        raise InputError(f"{type(model).__name__}: cannot be run on the meta device: {first_line(error)}") from None
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
        raise InputError(f"{source.name}: transformers cannot build the model: {first_line(error)}") from None
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


def first_line(error: Exception) -> str:
    """Return what went wrong in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
