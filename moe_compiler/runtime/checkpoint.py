"""Weights from a folder of safetensors: every tensor that is missing, unexpected or of another shape is named."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from moe_compiler.runtime.huggingface import quiet_transformers

Shape = tuple[int, ...]
FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of tensors, as safetensors writes them, that are weights as they stand: others need a scale."""
MOST_LINES = 20


def load(factory: Any, folder: Path, settings: Any, options: dict[str, Any]) -> nn.Module:
    """Load a model's weights, all of them and nothing else.

    Args:
        factory: transformers' class of models.
        folder: holds `*.safetensors`.
        settings: transformers' configuration.
        options: further arguments of `from_pretrained`.

    Raises:
        ValueError: the folder has no weights, or others than this model's.
    """
    from transformers import GenerationConfig

    found, _ = _floats(folder)
    options = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quiet_transformers():
            model, info = factory.from_pretrained(
                folder,
                config=settings,
                use_safetensors=True,
                local_files_only=True,
                generation_config=GenerationConfig(),
                **options,
            )
        error = ""
    except Exception as exception:
        model, info, error = None, {}, str(exception)
    faults = [*info.get("missing_keys", ()), *info.get("unexpected_keys", ()), *info.get("mismatched_keys", ())]
    if model is not None and not faults:
        return _finite(model, folder)
    lines = _differences(_expected(factory, settings), found) or [error or str(faults[0])]
    raise ValueError(_refusal(folder, lines))


def check(factory: Any, folder: Path, settings: Any) -> dict[str, str]:
    """Refuse a folder whose tensors are not this model's, by their headers alone; returns the type of each.

    Raises:
        ValueError: the folder has no weights, or others than this model's.
    """
    found, codes = _floats(folder)
    lines = _differences(_expected(factory, settings), found)
    if lines:
        raise ValueError(_refusal(folder, lines))
    return codes


def _floats(folder: Path) -> tuple[dict[str, Shape], dict[str, str]]:
    if not folder.is_dir() or not list(folder.glob("*.safetensors")):
        raise ValueError(f"--weights {folder}: valid: a folder with *.safetensors")
    found, codes = _tensors(folder)
    wrong = {name: code for name, code in codes.items() if code not in FLOATS}
    if wrong:
        raise ValueError(
            f"--weights {folder}: {_compress(wrong)[0]} holds {next(iter(wrong.values()))}; "
            f"valid: tensors of {', '.join(FLOATS)}"
        )
    return found, codes


def _refusal(folder: Path, lines: list[str]) -> str:
    cut = [f"… and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return "\n  ".join([f"--weights {folder}: not this model's weights", *lines[:MOST_LINES], *cut])


def _finite(model: nn.Module, folder: Path) -> nn.Module:
    names = _compress(name for name, tensor in model.named_parameters() if not tensor.isfinite().all())
    if names:
        raise ValueError(f"--weights {folder}: {names[0]} holds numbers that are not finite; valid: finite weights")
    return model


def _tensors(folder: Path) -> tuple[dict[str, Shape], dict[str, str]]:
    """Return the shape and the type of every tensor of a folder, by name."""
    from safetensors import SafetensorError, safe_open

    shapes, codes = {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        if not path.is_file():
            raise ValueError(f"--weights {path}: is no regular file")
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (not a mapping)
                    tensor = file.get_slice(name)
                    shapes[name] = tuple(tensor.get_shape())
                    codes[name] = str(tensor.get_dtype())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"--weights {path}: cannot be read: {error}") from None
    return shapes, codes


def _expected(factory: Any, settings: Any) -> dict[str, Shape]:
    """Return the shape of every tensor of this model's checkpoints by name, as transformers saves them."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    with quiet_transformers(), torch.device("meta"):
        model = factory.from_config(settings)
        names = revert_weight_conversion(model, dict(model.state_dict()))
    tied = model.all_tied_weights_keys if settings.tie_word_embeddings else {}
    return {name: tuple(tensor.shape) for name, tensor in names.items() if name not in tied}


def _differences(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """Return a line for every group of tensors that differs."""
    shapes: dict[tuple[Shape, Shape], list[str]] = defaultdict(list)
    for name in expected.keys() & found.keys():
        if expected[name] != found[name]:
            shapes[found[name], expected[name]].append(name)
    return [
        *(f"missing: {line}" for line in _compress(expected.keys() - found.keys())),
        *(f"unexpected: {line}" for line in _compress(found.keys() - expected.keys())),
        *(
            f"shape {list(pair[0])}, valid: {list(pair[1])}: {line}"
            for pair, names in sorted(shapes.items())
            for line in _compress(names)
        ),
    ]


def _compress(names: Iterable[str]) -> list[str]:
    """Write names that differ in numbers only as one: `layers.{0-3}.experts.{0,2}.up`; each line is a product."""
    groups: dict[tuple[str, ...], set[tuple[int, ...]]] = defaultdict(set)
    for name in names:
        parts = re.split(r"(?<=\.)(\d{1,6})(?=\.)", name)
        groups[tuple(parts[::2])].add(tuple(map(int, parts[1::2])))
    lines = []
    for texts, numbers in sorted(groups.items()):
        for ranges in _products(numbers):
            written = [_ranges(values) for values in ranges]
            lines.append("".join(text + number for text, number in zip(texts, [*written, ""], strict=True)))
    return lines


def _products(tuples: set[tuple[int, ...]]) -> list[tuple[frozenset[int], ...]]:
    """Split a set of tuples into products of sets: tuples with the same tails share their first numbers."""
    if tuples == {()}:
        return [()]
    tails: dict[int, set[tuple[int, ...]]] = defaultdict(set)
    for first, *rest in tuples:
        tails[first].add(tuple(rest))
    firsts: dict[frozenset[tuple[int, ...]], set[int]] = defaultdict(set)
    for first, rests in tails.items():
        firsts[frozenset(rests)].add(first)
    ordered = sorted(firsts.items(), key=lambda item: min(item[1]))
    return [(frozenset(numbers), *product) for rests, numbers in ordered for product in _products(set(rests))]


def _ranges(values: frozenset[int]) -> str:
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    text = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
    return text if len(values) == 1 else f"{{{text}}}"
