"""From a checkpoint in transformers' format to a store and back, a layer at a time."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moe_compiler.runtime import checkpoint
from moe_compiler.runtime.huggingface import configuration, quiet_transformers
from moe_compiler.runtime.model import check_store, dense_matrices, find_experts, matrices, register
from moe_compiler.runtime.quantise import Packed, quantise
from moe_compiler.runtime.store_file import DTYPES, LARGEST_TOKENIZER_FILE, TOKENIZER_FILES, StoreFile, StoreWriter

LAYER = re.compile(r"\blayers\.(\d+)\.")
STACKED = ("gate_up_proj", "down_proj")
Progress = Callable[[str], None]


def pack(config: dict[str, Any], folder: Path, output: Path, progress: Progress = lambda text: None) -> None:
    """Write a store from a folder of safetensors.

    Raises:
        ValueError: the folder has no weights, others than this model's, or numbers that are not finite.
        OSError: the store cannot be written; nothing is left of it.
    """
    from transformers import AutoModelForCausalLM

    options, settings = register(), configuration(config)
    found = checkpoint.check(AutoModelForCausalLM, folder, settings)
    dtype = torch.bfloat16 if set(found.values()) == {"BF16"} else torch.float32
    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, **{**options, "dtype": dtype})
    untie(model)
    with StoreWriter(output, config) as writer:
        for group in _groups(model, folder, list(found)):
            progress(group)
            _write(model, writer)
        for name in TOKENIZER_FILES:
            path = folder / name
            if path.is_file() and path.stat().st_size <= LARGEST_TOKENIZER_FILE:
                writer.add_file(name, path.read_bytes())


def untie(model: nn.Module) -> None:
    """Give a head that shares the embedding's matrix one of its own: it is packed, and the embedding is not."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is not None and head.weight is model.get_input_embeddings().weight:  # type: ignore[operator]
        head.weight = nn.Parameter(torch.empty_like(head.weight), requires_grad=False)


def _groups(model: nn.Module, folder: Path, names: list[str]) -> Iterator[str]:
    """Load the tensors of no layer, then those of each layer, as the model's own code converts them."""
    from safetensors import safe_open
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    groups: dict[int, list[str]] = defaultdict(list)
    for name in names:
        match = LAYER.search(name)
        groups[int(match.group(1)) if match else -1].append(name)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in sorted(folder.glob("*.safetensors"))]
        where = {name: file for file in files for name in file.keys()}  # noqa: SIM118  (not a mapping)
        for layer, group in sorted(groups.items()):
            slices = {name: where[name].get_slice(name) for name in group}
            if tied and layer < 0:
                # The head of a tied model is the embedding once more.
                source = model.get_input_embeddings().weight  # type: ignore[operator]
                name = next(n for n, parameter in model.named_parameters() if parameter is source)
                slices |= {other: where[name].get_slice(name) for other in tied if name in where}
            mapping = get_model_conversion_mapping(model)
            with quiet_transformers():
                convert_and_load_state_dict_in_model(
                    model,
                    slices,
                    LoadStateDictConfig(weight_mapping=mapping, dtype=next(model.parameters()).dtype),
                )
            yield "embedding, head" if layer < 0 else f"layer {layer}"


def _write(model: nn.Module, writer: StoreWriter) -> None:
    """Write every parameter that has values, and let go of them."""
    experts = find_experts(model)
    for part in experts:
        if getattr(part.module, STACKED[0]).is_meta:
            continue
        for expert in range(part.experts):
            what = f"expert {expert} of layer {part.layer}"
            writer.add_expert(part.layer, tuple(_packed(m, what) for m in matrices(part.module, expert)))
        for name in STACKED:
            _empty(part.module, name)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for owner, name, weight in list(dense_matrices(model, experts)):
        if not weight.is_meta:
            full = names[id(weight)]
            writer.add_dense(full, _packed(weight, full))
            _empty(owner, name)
    for path, module in model.named_modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        kept = module.state_dict(keep_vars=True).keys()
        for name, tensor in tensors:
            if not tensor.is_meta and name in kept:
                full = f"{path}.{name}" if path else name
                if not tensor.isfinite().all():
                    raise ValueError(f"{full} holds numbers that are not finite; valid: finite weights")
                writer.add_raw(full, tensor if tensor.dtype in DTYPES.values() else tensor.float())
                _empty(module, name)


def _packed(weight: Tensor, name: str) -> Packed:
    try:
        return quantise(weight.detach())
    except ValueError as error:
        raise ValueError(f"{name} holds numbers that are not finite, or too large ({error})") from None


def _empty(module: nn.Module, name: str) -> None:
    tensor = getattr(module, name)
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    if name in module._parameters:
        setattr(module, name, nn.Parameter(empty, requires_grad=False))
    else:
        module._buffers[name] = empty


def unpack(store: StoreFile, folder: Path, is_slice: bool, progress: Progress = lambda text: None) -> None:
    """Write the weights that are computed with as a checkpoint in float32, a file a layer.

    Args:
        store: the weights.
        folder: that is made.
        is_slice: whether to write the draft's weights instead of the target's.
        progress: hears what is written.
    """
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    config = {**store.entries.config, "tie_word_embeddings": False, "dtype": "float32"}
    for key in ("torch_dtype", "quantization_config"):
        config.pop(key, None)
    register()
    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(configuration(config))
    check_store(model, store)
    parts = _parts(model, store, is_slice)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    places: dict[str, str] = {}
    total = 0
    for number, (what, tensors) in enumerate(parts, 1):
        progress(what)
        file = f"model-{number:05}.safetensors"
        with quiet_transformers():
            written = revert_weight_conversion(model, tensors)
        written = {name: tensor.contiguous().clone() for name, tensor in written.items()}
        save_file(written, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(written, file)
        total += sum(tensor.numel() * 4 for tensor in written.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    for name in store.entries.files:
        (folder / name).write_bytes(store.file(name))


def _parts(model: nn.Module, store: StoreFile, is_slice: bool) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors of no layer, then those of each layer, under the model's own names."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name in [*store.entries.raw, *store.entries.dense]:
        match = LAYER.search(name)
        groups[int(match.group(1)) if match else -1].append(name)
    stacked = {part.layer: part for part in find_experts(model)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for layer, group in sorted(groups.items()):
        tensors = {
            name: store.dense(name).weights(is_slice) if name in store.entries.dense else store.raw(name).float()
            for name in group
        }
        if layer in stacked and layer in store.entries.experts:
            module: Any = stacked[layer].module
            each = [
                [packed.weights(is_slice) for packed in store.matrices(layer, expert)]
                for expert in range(stacked[layer].experts)
            ]
            for name, rows in zip(STACKED, zip(*each, strict=True), strict=True):
                joined = torch.stack(list(rows))
                tensors[names[id(getattr(module, name))]] = joined.transpose(1, 2) if module.is_transposed else joined
        yield ("embedding, head" if layer < 0 else f"layer {layer}"), tensors
