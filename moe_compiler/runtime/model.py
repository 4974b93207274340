"""Build a transformers model that runs on `moe_compiler.runtime`: its weights packed, its experts in a far memory."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moe_compiler.runtime import checkpoint
from moe_compiler.runtime.far import FarMemory
from moe_compiler.runtime.host_memory import HostMemory
from moe_compiler.runtime.huggingface import configuration, quiet_transformers
from moe_compiler.runtime.kernels import ACTIVE
from moe_compiler.runtime.processor import CPU, Processor
from moe_compiler.runtime.quantise import WHOLE_ACTIVATION_BITS, Packed, quantise
from moe_compiler.runtime.store_file import StoreFile

NAME = "moe_compiler_runtime"
MOST_PARAMETERS = 1_000_000_000
"""Random weights beyond this are refused: they are made in float32."""


@dataclass(frozen=True)
class ExpertModule:
    """An experts module of a model: its layer, the router's weight, and how many experts a token takes of how many."""

    layer: int
    module: nn.Module
    router: Tensor
    top_k: int
    experts: int


@dataclass(frozen=True)
class Executable:
    """A model that can be run.

    Attributes:
        module: what transformers runs; matrices in it that are packed have no values of their own.
        experts: where its experts are.
        dense: each packed matrix with the parameter that it stands for, by the identity of that.
        far: the experts' weights.
        embeddings: rows of each embedding that is not in memory, by the identity of its parameter: ids to [.., hidden].
        activation_bits: of what matrices are multiplied with: 32, or 8.
        processor: what it is computed on.
    """

    module: nn.Module
    experts: tuple[ExpertModule, ...]
    dense: Mapping[int, tuple[Tensor, Packed]]
    far: FarMemory[Any]
    embeddings: Mapping[int, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    activation_bits: int = WHOLE_ACTIVATION_BITS
    processor: Processor = CPU


def register() -> dict[str, Any]:
    """Connect transformers to our kernels; returns the options with which a model is built on them."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, _experts)
    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, lambda *args, **options: None)
    return {"experts_implementation": NAME, "attn_implementation": NAME, "dtype": torch.float32}


def build(config: dict[str, Any], weights: Path | None, seed: int) -> Executable:
    """Build the model of a `config.json` with weights from a folder, or with seeded random ones.

    Raises:
        ValueError: the weights cannot be read, or the model is too large for random weights.
    """
    from transformers import AutoModelForCausalLM

    options, settings = register(), configuration(config)
    with quiet_transformers():
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(settings, **options).parameters())
        if weights is not None:
            model = checkpoint.load(AutoModelForCausalLM, weights, settings, options)
        elif size > MOST_PARAMETERS:
            raise ValueError(
                f"the model has {size / 1e9:.1f} B parameters, random weights are for up to "
                f"{MOST_PARAMETERS / 1e9:.0f} B; valid: --weights FOLDER, or a smaller model"
            )
        else:
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(settings, **options)
            _randomise(model, seed)
    return _packed(model.eval())


def skeleton(config: dict[str, Any]) -> Any:
    """Build the model of a `config.json` without weights."""
    from transformers import AutoModelForCausalLM

    options, settings = register(), configuration(config)
    with quiet_transformers(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(settings, **options).eval()


def from_store(store: StoreFile, far: FarMemory[Any] | None = None, processor: Processor = CPU) -> Executable:
    """Build the model of a store: dense matrices packed in memory, experts in the store.

    Args:
        store: the weights.
        far: where experts are; None: in the store.
        processor: what the model is computed on.

    Raises:
        ValueError: a tensor is damaged, or the store is not of this model.
    """
    model = skeleton(store.entries.config)
    check_store(model, store)
    dense: dict[int, tuple[Tensor, Packed]] = {}
    embeddings: dict[int, Callable[[Tensor], Tensor]] = {}
    for name in store.entries.dense:
        owner, last = _owner(model, name)
        kept = _let_go(owner, last)
        dense[id(kept)] = (kept, store.dense(name).to(processor.device))
    for name in store.entries.raw:
        owner, last = _owner(model, name)
        if isinstance(owner, nn.Embedding):
            # A token needs one row of it, so it stays where it is.
            store.check_rows(name)
            embeddings[id(_let_go(owner, last))] = partial(_rows, store, name, processor.device)
            continue
        values = store.raw(name).to(torch.float32)
        if not values.isfinite().all():
            raise ValueError(f"{store.path}: {name} holds numbers that are not finite; pack the model again")
        if last in owner._parameters:
            setattr(owner, last, nn.Parameter(values.to(processor.device), requires_grad=False))
        else:
            owner._buffers[last] = values
    _compute_buffers(model, processor.device)
    experts = tuple(find_experts(model))
    return Executable(model, experts, dense, far or store, embeddings, processor=processor)


def _rows(store: StoreFile, name: str, device: torch.device, ids: Tensor) -> Tensor:
    return store.rows(name, ids).to(device)


def _owner(model: nn.Module, name: str) -> tuple[Any, str]:
    path, _, last = name.rpartition(".")
    return model.get_submodule(path), last


def check_store(model: nn.Module, store: StoreFile) -> None:
    """Refuse a store that does not hold exactly the parameters of its model, each of its shape.

    Raises:
        ValueError: something is missing, too much, or of another shape.
    """
    found = find_experts(model)
    stacked = {id(parameter) for part in found for parameter in part.module.parameters() if parameter.dim() == 3}
    kept = model.state_dict(keep_vars=True)
    expected = {name: tuple(tensor.shape) for name, tensor in kept.items() if id(tensor) not in stacked}
    held = {name: tuple(entry["shape"]) for name, entry in store.entries.dense.items()}
    held |= {name: tuple(entry["shape"]) for name, entry in store.entries.raw.items()}
    for name in sorted({*expected, *held}):
        if expected.get(name) != held.get(name):
            have, want = (list(of[name]) if name in of else "nothing" for of in (held, expected))
            raise ValueError(f"{store.path}: {name} is {have}; its model has {want}; pack the model again")
    layers = {part.layer: part for part in found}
    if set(layers) != set(store.entries.experts):
        raise ValueError(
            f"{store.path}: has experts of layers {sorted(store.entries.experts)}; valid: {sorted(layers)}"
        )
    for layer, entry in store.entries.experts.items():
        part = layers[layer]
        shapes = [list(matrix.shape) for matrix in matrices(part.module, 0)]
        if len(entry["pieces"]) != part.experts or [list(shape) for shape in entry["shapes"]] != shapes:
            raise ValueError(f"{store.path}: the experts of layer {layer} are not those of its model; pack it again")


def _compute_buffers(model: Any, device: torch.device) -> None:
    """Let the model compute, on a CPU, what follows from its configuration, rotary frequencies for example."""
    for module in model.modules():
        empty = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name in empty:
            module._buffers[name] = torch.zeros_like(module._buffers[name], device="cpu")
        if empty:
            model._init_weights(module)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


def _packed(model: nn.Module) -> Executable:
    """Pack the matrices of a model that has its weights, and let go of what they were."""
    far, found = HostMemory(), find_experts(model)
    for part in found:
        for expert in range(part.experts):
            far.add(part.layer, expert, tuple(map(quantise, matrices(part.module, expert))))
        for name in ("gate_up_proj", "down_proj"):
            _let_go(part.module, name)
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    dense: dict[int, tuple[Tensor, Packed]] = {}
    for owner, name, weight in list(dense_matrices(model, found)):
        packed = quantise(weight.detach())
        kept = weight if id(weight) in looked_up else _let_go(owner, name)
        dense[id(kept)] = (kept, packed)
    return Executable(model, tuple(find_experts(model)), dense, far)


def _let_go(owner: nn.Module, name: str) -> nn.Parameter:
    """Replace a parameter by one of its shape that has no values."""
    shape = getattr(owner, name).shape
    empty = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
    setattr(owner, name, empty)
    return empty


def dense_matrices(model: nn.Module, experts: list[ExpertModule]) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield the matrices that `linear` multiplies with, routers among them: (module, name there, parameter)."""
    routers = {id(part.router) for part in experts}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_linear = isinstance(module, nn.Linear) and name == "weight"
            if is_linear or id(parameter) in routers:
                yield module, name, parameter


def _randomise(model: nn.Module, seed: int) -> None:
    """Give matrices a normal distribution wide enough that tokens differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 1.5 / parameter.shape[-1] ** 0.5, generator=generator)


def find_experts(model: nn.Module) -> list[ExpertModule]:
    """Find experts modules, and beside each the router: the module whose matrix has a row for every expert.

    Raises:
        ValueError: there are none of the kind that this runtime computes.
    """
    found = []
    for name, parent in model.named_modules():
        experts: Any = getattr(parent, "experts", None)
        if not isinstance(experts, nn.Module) or not hasattr(experts, "gate_up_proj"):
            continue
        stacked: Any = experts.gate_up_proj
        count = int(stacked.shape[0])
        routers = [
            p
            for n, p in parent.named_parameters()
            if not n.startswith("experts.") and p.dim() == 2 and p.shape[0] == count
        ]
        numbers = [part for part in name.split(".") if part.isdigit()]
        if not routers or not numbers or not hasattr(experts, "is_transposed"):
            raise _unsupported(model, "its experts, or their router, are of a kind of their own")
        found.append(ExpertModule(int(numbers[0]), experts, routers[0], _top_k(model), count))
    if not found:
        raise _unsupported(model, "it has no experts that transformers stacks")
    return found


def _unsupported(model: Any, reason: str) -> ValueError:
    return ValueError(
        f"{model.config.model_type} cannot be run here: {reason}; it can be compiled and estimated. Valid: a model of "
        "attention layers with stacked experts, qwen3_moe for example"
    )


def _top_k(model: nn.Module) -> int:
    config: Any = model.config
    for name in ("num_experts_per_tok", "moe_topk", "top_k_experts", "moe_num_active_primary_experts"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    raise _unsupported(model, "how many experts a token takes is not where it is expected")


def matrices(module: Any, expert: int) -> tuple[Tensor, Tensor]:
    """Return the matrices of an expert as [out, in]: gate and up one below the other, then down."""
    first, down = module.gate_up_proj[expert].detach(), module.down_proj[expert].detach()
    return (first.T, down.T) if module.is_transposed else (first, down)


def _experts(module: nn.Module, hidden: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    return ACTIVE[-1].experts(module, hidden, index, weight)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    kernels, window = ACTIVE[-1], int(options.get("sliding_window") or 0)
    scaling = options.get("scaling")
    if scaling is None:
        scaling = query.shape[3] ** -0.5
    return kernels.attention(module, query, key, value, float(scaling), window, options.get("s_aux")), None
