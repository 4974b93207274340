"""MODEL on the command line and in Python: shipped names, `config.json`, transformers configs, modules."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_passes.plan.errors import InputError
from moe_passes.plan.formats import Format, of_quantization, parse_format
from moe_passes.plan.names import did_you_mean, nearest

from moe_compiler.frontend.architectures import material, resolve
from moe_compiler.paths import is_file, read_text
from moe_compiler.runtime.huggingface import causal_classes, configuration, is_causal, model_types

if TYPE_CHECKING:
    from moe_compiler.frontend.captured import Captured

LONGEST_NAME = 200
MOST_CONFIG_BYTES = 16 * 1024**2
LARGEST_COUNT = 4096
"""Layers or experts of a model: the largest published are some hundreds."""
LARGEST_LAYERS = 512
"""Four times the deepest model that is published."""
LARGEST_SIZE = 10_000_000
SIZE = re.compile(r"_size$|_dim$|_rank$|_heads$|_groups?$|^sliding_window$|_step$")
"""A field that is a width or a count of a model's own making."""
EXPERTS = re.compile(r"^(moe_)?num_(local_|routed_)?experts$|^n_(routed_)?experts$")
"""A field that says how many experts a layer has."""
LAYERS = re.compile(r"^(num_(hidden_)?|n_)layers$")
TOP_K = re.compile(r"experts?_per_tok|(?<!index_)top_?k(_experts)?$|^moe_k$")
"""A field that says how many experts a token uses."""
OTHER_SENSES = re.compile(r"vision|image|video|audio|speech|rope")
"""A section about what is not compiled, or changes nothing."""
MAY_BE_ZERO = re.compile(
    r"shared|^qk_|^v_head|_rank$|_per_layer_input|^moe_shared|^router|window|_group|^linear_|^mtp|_step$"
)
POSITIVE_FIELDS = ("rms_norm_eps",)


@dataclass(frozen=True)
class ModelSource:
    """A model to compile.

    Attributes:
        name: the name it was asked for by.
        config: its configuration, as transformers knows it.
        notes: what is to be said of how it was found.
        format: of the weights, as it was asked for; None for what the configuration says.
        captured: the graph that `torch.compile` captured, where that is all there is: then it has no configuration.
    """

    name: str
    config: dict[str, Any]
    notes: tuple[str, ...] = ()
    format: Format | None = None
    captured: "Captured | None" = None

    @property
    def weights(self) -> Format:
        """The format of the weights.

        Raises:
            InputError: the configuration names a quantisation that none of the formats stands for.
        """
        return self.format or of_quantization(self.quantization)

    @property
    def experts(self) -> int:
        """Routed experts of a layer, as the configuration states them."""
        return max((value for field, value in _numbers(self.config) if EXPERTS.search(field)), default=0)

    @property
    def top_k(self) -> int:
        """Experts that a token is routed to, as the configuration states them."""
        stated = (value for field, value in _numbers(self.config) if TOP_K.search(field) and "group" not in field)
        return max(stated, default=0)

    @property
    def quantization(self) -> str | None:
        """The method by which the published weights are quantised; None where the configuration says of none."""
        stated = self.config.get("quantization_config")
        if stated is not None and not isinstance(stated, dict):
            raise InputError(f"{self.name}: field 'quantization_config' is {repr(stated)[:40]}; valid: an object")
        method = stated.get("quant_method") if stated else None
        return str(method) if method is not None else None


def shipped_models() -> dict[str, Path]:
    """Return the shipped configurations by name, sorted."""
    folder = Path(__file__).resolve().parent.parent / "models"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def raw_config(model: Any) -> tuple[str, dict[str, Any]]:
    """Return a model's name and its configuration as given, unchecked.

    Raises:
        InputError: unknown name, missing or malformed file, or no model.
    """
    if isinstance(model, (str, Path)):
        name, path = _resolve(str(model))
        return name, _read(path)
    source = load_model(model)
    return source.name, source.config


def load_model(model: Any, format: str | None = None) -> ModelSource:
    """Resolve MODEL.

    Args:
        model: a shipped name, a folder with a `config.json`, such a file, a transformers configuration, a
            transformers `nn.Module`, or what is one already.
        format: of its weights; None for what the configuration says.

    Raises:
        InputError: unknown name, missing or malformed file, a model without experts, or no such format.
    """
    stated = None if format is None else parse_format(format)
    if isinstance(model, ModelSource):
        return replace(model, format=stated)
    if isinstance(model, (str, Path)):
        name, path = _resolve(str(model))
        return _checked(ModelSource(name, _read(path), format=stated), str(path))
    config = getattr(model, "config", model)
    if not hasattr(config, "to_dict"):
        raise InputError(
            f"{type(model).__name__} is not a model that can be compiled; valid: a shipped name, a path, "
            "a transformers configuration, or a transformers model"
        )
    content = config.to_dict()
    source = ModelSource(str(content.get("model_type", "model")), content, format=stated)
    return _checked(source, type(model).__name__)


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
        content = json.loads(read_text(path, MOST_CONFIG_BYTES).removeprefix("\ufeff"))
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
    """Refuse what transformers would turn into a traceback; find the language model."""
    config = source.config
    if not isinstance(config.get("model_type"), str):
        found = repr(config["model_type"])[:40] if "model_type" in config else "missing"
        raise InputError(f"{where}: field 'model_type' is {found}; valid: a string, for example \"qwen3_moe\"")
    resolved = resolve(config, is_causal)
    source = replace(source, config=resolved.content, notes=resolved.notes)
    _check_numbers(where, source.config)
    for field in POSITIVE_FIELDS:
        _check_positive(where, field, source.config.get(field))
    _check_consistent(where, source.config)
    if source.experts < 2:
        raise InputError(
            f"{where}: '{config['model_type']}' is a dense model: no field says that a layer has several experts "
            "(num_experts, num_local_experts, n_routed_experts, …); valid: a mixture-of-experts model"
        )
    for field, value in _numbers(source.config):
        if re.search(r"experts?_per_tok", field) and value > source.experts:
            raise InputError(
                f"{where}: field '{field}' is {value}, but there are {source.experts} experts; "
                f"valid: 1 to {source.experts}"
            )
    return source


def _numbers(content: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Iterate over whole numbers: (field, value), sections and lists of numbers (their largest) included."""
    for field, value in _named(content):
        if isinstance(value, dict) and not OTHER_SENSES.search(field):
            yield from _numbers(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield field, value
        elif isinstance(value, list) and value and all(type(v) is int for v in value):
            yield field, max(value, key=abs)


def _named(content: dict[Any, Any]) -> list[tuple[str, Any]]:
    """Return the fields of a section; what goes by numbers, labels of classes say, is none."""
    return [(field, value) for field, value in content.items() if isinstance(field, str)]


def _check_numbers(where: str, config: dict[str, Any], path: str = "") -> None:
    """Refuse sizes and counts that are none."""
    for field, value in _named(config):
        if isinstance(value, dict):
            if not OTHER_SENSES.search(field):
                _check_numbers(where, value, f"{path}{field}.")
            continue
        largest = LARGEST_LAYERS if LAYERS.search(field) else LARGEST_COUNT if EXPERTS.search(field) else LARGEST_SIZE
        if not any(kind.search(field) for kind in (SIZE, EXPERTS, LAYERS, TOP_K)):
            continue
        least = 0 if MAY_BE_ZERO.search(field) else 1
        for number in value if isinstance(value, list) else [value]:
            if number is None or (isinstance(number, bool) and TOP_K.search(field)):
                continue
            _check_integer(f"{where}: field '{path}{field}'", number, least, largest)


def _check_integer(what: str, value: Any, least: int, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
        raise InputError(f"{what} is {repr(value)[:40]}; valid: an integer from {least} to {largest:,}")


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
    counts = {field: value for field, value in config.items() if EXPERTS.search(field) and isinstance(value, int)}
    if len(set(counts.values())) > 1:
        stated = ", ".join(f"'{field}' is {value}" for field, value in counts.items())
        raise InputError(f"{where}: {stated}; valid: one number of experts")


def _check_top_k(source: ModelSource) -> None:
    """Refuse what transformers would fill in on its own: another model's number."""
    stated = [*source.config, *(k for v in source.config.values() if isinstance(v, dict) for k in v)]
    if not any(TOP_K.search(field) for field in stated):
        raise InputError(f"{source.name}: no field says how many experts a token uses; valid: num_experts_per_tok")


def transformers_config(source: ModelSource) -> Any:
    """Build the transformers configuration.

    Raises:
        InputError: transformers does not know the model type, or refuses a field.
    """
    try:
        found = configuration(material(source.config))
        _check_top_k(source)
        return found
    except KeyError:
        raise InputError(_unknown(source)) from None
    except ValueError as error:
        raise InputError(f"{source.name}: transformers refuses the configuration: {error}") from None


def _unknown(source: ModelSource) -> str:
    """Say what can be done about a model type that transformers does not know."""
    name, config = source.config["model_type"], source.config
    known = [kind for kind in config.get("architectures") or [] if kind in causal_classes()]
    if known:
        hint = f"'architectures' names {known[0]}: set model_type to '{causal_classes()[known[0]]}'"
    elif config.get("auto_map"):
        hint = (
            "it comes with code of its own (auto_map), which is never run; valid: the model_type of an architecture of "
            "the same shapes, with its field names"
        )
    else:
        hint = did_you_mean(name, model_types())
    return f"{source.name}: transformers has no model type '{name}'{f'; {hint}' if hint else ''}"
