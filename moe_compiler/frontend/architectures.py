"""From the configuration that a model was published with to one that transformers builds: no code of its own is run.

Wrappers of several modalities are compiled for their language model. A model type that transformers knows under
another name goes by the table below. What changes nothing that a plan needs is left out before transformers looks at
it: rotary values, padding, data types, what a forward pass is to return. What was left out is said.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Content = dict[str, Any]

WRAPPED = ("text_config", "language_config", "llm_config")
"""Where wrappers keep the configuration of their language model."""
PREDICTED = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers", "num_mtp_modules", "mtp_num_layers")
"""Fields that count layers for multi-token prediction."""
IMMATERIAL = (
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rope_local_base_freq",
    "original_max_position_embeddings",
    "dtype",
    "torch_dtype",
    "output_router_logits",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "use_cache",
    "router_aux_loss_coef",
    "transformers_version",
    "bos_token_id",
    "eos_token_id",
)
"""Fields that decide no shape."""
MOST_POSITIONS = 2**20
"""Of what a cache of positions is made for: contexts are the request's, whatever a model was trained on."""


@dataclass(frozen=True)
class Alias:
    """What transformers calls a model type.

    Attributes:
        type: its model type there.
        reason: why they are one architecture, as far as shapes go.
        renamed: fields that have another name there.
        fixed: fields that are to be set.
        when: what the configuration must be like.
    """

    type: str
    reason: str
    renamed: dict[str, str] = field(default_factory=dict)
    fixed: Content = field(default_factory=dict)
    when: Callable[[Content], bool] = lambda content: True


def _has_no_latent(content: Content) -> bool:
    return not content.get("kv_lora_rank") or content.get("use_mla") is False


_PLAIN_DEEPSEEK = Alias(
    "glm4_moe",
    "grouped-query attention, dense first layers, shared experts beside routed ones",
    fixed={"use_qk_norm": False, "attention_bias": False, "n_group": 1, "topk_group": 1},
    when=_has_no_latent,
)
_LING = Alias(
    "glm4_moe",
    "grouped-query attention with normalised queries and keys, dense first layers, a shared expert beside routed ones",
    renamed={"num_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts"},
    fixed={"use_qk_norm": True, "attention_bias": False},
)
ALIASES = {
    "kimi_k2": Alias("deepseek_v3", "Kimi K2 is DeepSeek-V3 with more experts and fewer heads"),
    "deepseek": _PLAIN_DEEPSEEK,
    "deepseek_v2": _PLAIN_DEEPSEEK,
    "bailing_moe": _LING,
    "bailing_moe_v2": _LING,
    "qwen3_vl_moe_text": Alias("qwen3_moe", "the language model of Qwen3-VL is Qwen3-MoE with interleaved positions"),
    "qwen3_omni_moe_text": Alias("qwen3_moe", "the language model of Qwen3-Omni is Qwen3-MoE"),
    "glm4v_moe_text": Alias("glm4_moe", "the language model of GLM-4.5V is GLM-4.5-Air"),
}
"""By the model type of a configuration."""


@dataclass(frozen=True)
class Resolved:
    """A configuration that transformers knows, and what is to be said of the way there."""

    content: Content
    notes: tuple[str, ...]


def resolve(content: Content, is_causal: Callable[[str], bool]) -> Resolved:
    """Find the language model of a configuration, under the name that transformers has for it.

    Args:
        content: of a config.json.
        is_causal: says whether transformers has a causal language model of a model type.
    """
    notes: list[str] = []
    content = _language_model(content, is_causal, notes)
    content = _renamed(content, notes)
    predicted = next((content[name] for name in PREDICTED if isinstance(content.get(name), int) and content[name]), 0)
    if predicted:
        notes.append(f"{predicted} layers for multi-token prediction are left out: drafts are of the model itself")
    return Resolved(content, tuple(notes))


def _language_model(content: Content, is_causal: Callable[[str], bool], notes: list[str]) -> Content:
    for name in WRAPPED:
        inner = content.get(name)
        if not isinstance(inner, dict):
            continue
        kind = inner.get("model_type") or f"{content['model_type']}_text"
        if kind in ALIASES or is_causal(kind):
            notes.append(f"'{content['model_type']}' is compiled for its language model, '{kind}'")
            shared = {k: content[k] for k in ("tie_word_embeddings", "quantization_config") if k in content}
            return {**shared, **inner, "model_type": kind}
        notes.append(f"'{content['model_type']}' is compiled for its language model")
    return content


def _renamed(content: Content, notes: list[str]) -> Content:
    alias = ALIASES.get(content["model_type"])
    if alias is None or not alias.when(content):
        return content
    notes.append(f"'{content['model_type']}' is taken as '{alias.type}': {alias.reason}")
    renamed = {alias.renamed.get(key, key): value for key, value in content.items()}
    return {**renamed, **alias.fixed, "model_type": alias.type}


def material(content: Content) -> Content:
    """Leave out what decides no shape; a list that says one number for every layer is that number."""
    kept = {
        key: material(value) if key in WRAPPED and isinstance(value, dict) else _one_number(value)
        for key, value in content.items()
        if key not in IMMATERIAL and value is not None
    }
    positions = kept.get("max_position_embeddings")
    if not isinstance(positions, int) or not 0 < positions <= MOST_POSITIONS:
        kept.pop("max_position_embeddings", None)
    return kept | {"pad_token_id": 0}


def _one_number(value: Any) -> Any:
    is_uniform = isinstance(value, list) and value and all(type(v) is int and v == value[0] for v in value)
    return value[0] if is_uniform and len(value) > 1 else value
