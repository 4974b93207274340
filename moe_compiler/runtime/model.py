"""Build a transformers model that runs on `moe_compiler.runtime`: real or seeded random weights, float32."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moe_compiler.runtime import checkpoint
from moe_compiler.runtime.decoder import Executable, ExpertModule
from moe_compiler.runtime.huggingface import configuration, quiet_transformers
from moe_compiler.runtime.kernels import ACTIVE

NAME = "moe_compiler_runtime"
MOST_PARAMETERS = 1_000_000_000
"""Random weights beyond this are refused: the runtime keeps them in float32 and float64."""


def build(config: dict[str, Any], weights: Path | None, seed: int) -> Executable:
    """Build the model of a `config.json` with weights from a folder, or with seeded random ones.

    Raises:
        ValueError: the weights cannot be read, or the model is too large for random weights.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, _experts)
    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, lambda *args, **options: None)
    settings = configuration(config)
    options: dict[str, Any] = {"experts_implementation": NAME, "attn_implementation": NAME, "dtype": torch.float32}
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
    return Executable(model.eval(), tuple(_find_experts(model)))


def _randomise(model: nn.Module, seed: int) -> None:
    """Give matrices a normal distribution wide enough that tokens differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 1.5 / parameter.shape[-1] ** 0.5, generator=generator)


def _find_experts(model: nn.Module) -> list[ExpertModule]:
    """Find experts modules, and beside each the router: the module whose matrix has a row for every expert."""
    found = []
    for name, parent in model.named_modules():
        experts: Any = getattr(parent, "experts", None)
        if not isinstance(experts, nn.Module) or not hasattr(experts, "gate_up_proj"):
            continue
        stacked: Any = experts.gate_up_proj
        count = int(stacked.shape[0])
        router = next(
            p
            for n, p in parent.named_parameters()
            if not n.startswith("experts.") and p.dim() == 2 and p.shape[0] == count
        )
        layer = int(next(part for part in name.split(".") if part.isdigit()))
        found.append(ExpertModule(layer, experts, router, _top_k(model), partial(_matrices, experts), count))
    return found


def _top_k(model: nn.Module) -> int:
    return int(model.config.num_experts_per_tok)  # type: ignore[union-attr, arg-type]


def _matrices(module: Any, expert: int) -> tuple[Tensor, Tensor]:
    first, down = module.gate_up_proj[expert].detach(), module.down_proj[expert].detach()
    return (first.T, down.T) if module.is_transposed else (first, down)


def _experts(module: nn.Module, hidden: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    return ACTIVE[-1].experts(module, hidden, index, weight)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    kernels, window = ACTIVE[-1], int(options.get("sliding_window") or 0)
    scaling = options.get("scaling")
    if scaling is None:
        scaling = query.shape[3] ** -0.5
    return kernels.attention(module, query, key, value, float(scaling), window, options.get("s_aux")), None
