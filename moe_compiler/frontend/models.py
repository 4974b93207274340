"""MODEL on the command line and in Python: shipped names, `config.json`, transformers configs, modules."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_passes.plan.errors import InputError
from moe_passes.plan.names import did_you_mean, nearest

from moe_compiler.paths import is_file, read_text
from moe_compiler.runtime.huggingface import configuration, model_types

LONGEST_NAME = 200
MOST_CONFIG_BYTES = 16 * 1024**2
LARGEST_COUNT = 4096
"""Layers or experts of a model: the largest published are some hundreds."""
EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts")
SHAPE_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "num_experts_per_tok",
    "kv_lora_rank",
    "q_lora_rank",
    "head_dim",
    "max_position_embeddings",
    "sliding_window",
    "decoder_sparse_step",
)
COUNT_FIELDS = EXPERT_FIELDS
LARGEST_LAYERS = 512
"""Four times the deepest model that is published; each takes a fifth of a second to trace."""
TOP_K_FIELDS = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k", "top_k")
TOP_K = re.compile(r"experts?_per_tok|top_?k|^moe_k$")
"""A field that says how many experts a token uses."""
POSITIVE_FIELDS = ("rms_norm_eps", "rope_theta")


@dataclass(frozen=True)
class ModelSource:
    """A model to compile.

    Attributes:
        name: the name it was asked for by.
        config: content of its `config.json`.
    """

    name: str
    config: dict[str, Any]

    @property
    def experts(self) -> int:
        """Routed experts of a layer, as the configuration states them."""
        return next((int(self.config[f]) for f in EXPERT_FIELDS if self.config.get(f)), 0)

    @property
    def is_mxfp4(self) -> bool:
        """Whether the experts ship in MXFP4, which cannot be cut into slices."""
        quantization = self.config.get("quantization_config")
        return isinstance(quantization, dict) and quantization.get("quant_method") == "mxfp4"


def shipped_models() -> dict[str, Path]:
    """Return the shipped configurations by name, sorted."""
    folder = Path(__file__).resolve().parent.parent / "models"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def load_model(model: Any) -> ModelSource:
    """Resolve MODEL.

    Args:
        model: a shipped name, a folder with a `config.json`, such a file, a transformers configuration, or a
            transformers `nn.Module`.

    Raises:
        InputError: unknown name, missing or malformed file, or a model that is not a mixture of experts.
    """
    if isinstance(model, (str, Path)):
        name, path = _resolve(str(model))
        return _checked(ModelSource(name, _read(path)), str(path))
    config = getattr(model, "config", model)
    if not hasattr(config, "to_dict"):
        raise InputError(
            f"{type(model).__name__} is not a model that can be compiled; valid: a shipped name, a path, "
            "a transformers configuration, or a transformers model"
        )
    content = config.to_dict()
    return _checked(ModelSource(str(content.get("model_type", "model")), content), type(model).__name__)


def _resolve(text: str) -> tuple[str, Path]:
    shipped = shipped_models()
    if text in shipped:
        return text, shipped[text]
    path = Path(text)
    if len(text) > LONGEST_NAME:
        raise InputError(f"model '{text[:40]}…': a name of {len(text)} characters; valid: at most {LONGEST_NAME}")
    if path.is_dir():
        if not is_file(path / "config.json"):
            raise InputError(f"{path}: folder has no config.json")
        return path.resolve().name, path / "config.json"
    if is_file(path):
        return (path.resolve().parent.name if path.name == "config.json" else path.stem), path
    if path.suffix == ".json" or "/" in text:
        raise InputError(f"{text}: no such file or folder")
    raise InputError(f"unknown model '{text}'{nearest(text, shipped)}, a folder with a config.json, or such a file")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, MOST_CONFIG_BYTES))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None
    except (RecursionError, ValueError):
        raise InputError(f"{path}: nested too deeply, or a number of thousands of digits") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}:1: a config.json is an object")
    return content


def _checked(source: ModelSource, where: str) -> ModelSource:
    """Refuse what transformers would turn into a traceback."""
    config = source.config
    if not isinstance(config.get("model_type"), str):
        found = repr(config["model_type"])[:40] if "model_type" in config else "missing"
        raise InputError(f"{where}: field 'model_type' is {found}; valid: a string, for example \"qwen3_moe\"")
    for fields, largest in (
        (SHAPE_FIELDS, 10_000_000),
        (COUNT_FIELDS, LARGEST_COUNT),
        (("num_hidden_layers",), LARGEST_LAYERS),
    ):
        for field in fields:
            _check_integer(where, field, config.get(field), largest)
    for field in POSITIVE_FIELDS:
        _check_positive(where, field, config.get(field))
    _check_consistent(where, config)
    if not source.experts:
        raise InputError(
            f"{where}: '{config['model_type']}' is a dense model: none of {', '.join(EXPERT_FIELDS)} is set; "
            "valid: a mixture-of-experts model"
        )
    top_k = config.get("num_experts_per_tok")
    if top_k is not None and top_k > source.experts:
        raise InputError(
            f"{where}: field 'num_experts_per_tok' is {top_k}, but there are {source.experts} experts; "
            f"valid: 1 to {source.experts}"
        )
    return source


def _check_integer(where: str, field: str, value: Any, largest: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise InputError(f"{where}: field '{field}' is {str(value)[:40]}; valid: an integer from 1 to {largest:,}")


def _check_positive(where: str, field: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"{where}: field '{field}' is {str(value)[:40]}; valid: a finite number above 0")


def _check_consistent(where: str, config: dict[str, Any]) -> None:
    """Refuse fields that contradict each other."""
    heads, kv_heads = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if heads is not None and kv_heads is not None and heads % kv_heads:
        raise InputError(
            f"{where}: field 'num_key_value_heads' is {kv_heads}; valid: a divisor of num_attention_heads, {heads}"
        )
    counts = {field: config[field] for field in EXPERT_FIELDS if config.get(field) is not None}
    if len(set(counts.values())) > 1:
        stated = ", ".join(f"'{field}' is {value}" for field, value in counts.items())
        raise InputError(f"{where}: {stated}; valid: one number of experts")


def _check_top_k(source: ModelSource) -> None:
    """Refuse what transformers would fill in on its own: another model's number."""
    stated = [*source.config, *(k for v in source.config.values() if isinstance(v, dict) for k in v)]
    if not any(TOP_K.search(field) for field in stated):
        raise InputError(
            f"{source.name}: no field says how many experts a token uses; valid: one of {', '.join(TOP_K_FIELDS)}"
        )


def transformers_config(source: ModelSource) -> Any:
    """Build the transformers configuration.

    Raises:
        InputError: transformers does not know the model type, or refuses a field.
    """
    try:
        found = configuration(source.config)
        _check_top_k(source)
        return found
    except KeyError:
        name = source.config["model_type"]
        hint = did_you_mean(name, model_types())
        raise InputError(
            f"{source.name}: transformers has no model type '{name}'{f'; {hint}' if hint else ''}"
        ) from None
    except ValueError as error:
        raise InputError(f"{source.name}: transformers refuses the configuration: {error}") from None
