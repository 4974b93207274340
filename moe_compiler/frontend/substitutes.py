"""Stand-ins for modules whose own code cannot be traced, or would hide what a plan needs.

Three kinds: recurrent and convolutional token mixers, which become one operator each, as attention is; experts that
transformers computes by a loop over those that were hit, which become the experts operator; and rotary embeddings,
whose values change nothing that a plan needs, but whose long-context variants branch on data. A module is known by
what it is made of, not by its class's name, but for the few whose routing is written out in a way of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

MOST_VALUES = 2
"""Of a mixer: its result, and weights or a state that nobody takes. One that returns more is a part of an attention."""
STANDARD_EXPERTS = ("hidden_states", "top_k_index", "top_k_weights")
"""Parameters of `forward` of an experts module."""


@dataclass(frozen=True)
class Output:
    """What a module returned: how many values (0: one that is no tuple), and the width of the first."""

    values: int
    width: int


def record_outputs(model: nn.Module) -> tuple[dict[nn.Module, Output], list[Any]]:
    """Hook every token mixer so that a run of the model records what it returns; returns the record and the hooks."""
    found: dict[nn.Module, Output] = {}

    def hook(module: nn.Module, _: Any, result: Any) -> None:
        values = len(result) if isinstance(result, tuple) else 0
        found[module] = Output(values, int((result[0] if values else result).shape[-1]))

    return found, [module.register_forward_hook(hook) for module in mixers(model)]


def mixers(model: nn.Module) -> list[nn.Module]:
    """Return the recurrent and convolutional token mixers: modules with a convolution, or a decay over positions."""
    return [
        module
        for module in model.modules()
        if any(isinstance(child, nn.Conv1d) for child in module.children()) or hasattr(module, "slope_rate")
    ]


def replace_mixers(outputs: dict[nn.Module, Output], states: dict[int, int]) -> None:
    """Put the mixer operator in the place of each recorded mixer.

    Args:
        outputs: what each returns.
        states: elements that the mixers of a layer keep of a sequence, by layer; each layer's first mixer carries them.
    """
    for module, output in outputs.items():
        if output.values > MOST_VALUES:
            continue
        layer = int(getattr(module, "layer_idx", None) or 0)
        module.forward = MethodType(_mixer_forward(output, layer, states.pop(layer, 0)), module)


def _mixer_forward(output: Output, layer: int, state: int) -> Callable[..., Any]:
    def forward(self: nn.Module, *args: Any, **options: Any) -> Any:
        hidden = next(value for value in (*args, *options.values()) if isinstance(value, Tensor))
        mixed = torch.ops.moe.mixer(hidden, list(self.parameters()), layer, state, output.width)
        return (mixed, *[None] * (output.values - 1)) if output.values else mixed

    return forward


def replace_loops(model: nn.Module) -> None:
    """Put the experts operator in the place of loops over experts, and straight code in that of other loops."""
    for module in model.modules():
        forward = _straight(module)
        if forward is not None:
            module.forward = MethodType(forward, module)


def _straight(module: nn.Module) -> Callable[..., Any] | None:
    name = type(module).__name__
    if name in WRITTEN_OUT:
        return WRITTEN_OUT[name]
    if hasattr(module, "_is_expert_parallel") or tuple(signature(module.forward).parameters) != STANDARD_EXPERTS:
        return None
    _drop_unused_rows(module)
    return _standard_experts


def _standard_experts(self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    count = int(getattr(self, "num_routed_experts", None) or self.num_experts)  # type: ignore[arg-type]
    stacks = [p if p.dim() == 3 else p.view(count, -1, p.shape[-1]) for p in self.parameters()]
    flat = hidden_states.reshape(-1, hidden_states.shape[-1])
    # Of what is routed to experts that compute nothing, as many are left out as are on the mean.
    real = max(1, round(top_k_index.shape[-1] * count / int(getattr(self, "total_experts", None) or count)))
    top_k_index, top_k_weights = top_k_index[:, :real], top_k_weights[:, :real]
    routed: Tensor = torch.ops.moe.experts(flat, top_k_index, top_k_weights, stacks)
    return routed.view(hidden_states.shape)


def _drop_unused_rows(module: nn.Module) -> None:
    """Of experts that compute nothing (LongCat's "zero experts"), transformers allocates half of the weights."""
    count = getattr(module, "num_routed_experts", None)
    for name, parameter in list(module.named_parameters(recurse=False)):
        if count and parameter.dim() == 3 and parameter.shape[0] > count:
            setattr(module, name, nn.Parameter(parameter[:count]))


def _llama4(self: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
    flat = hidden_states.reshape(-1, self.hidden_dim)
    _, logits = self.router(flat)
    weight, index = torch.topk(logits, self.top_k, dim=-1)
    routed = torch.ops.moe.experts(flat, index, weight.sigmoid(), list(self.experts.parameters()))
    return self.shared_expert(flat) + routed, logits


def _jetmoe(self: Any, layer_input: Tensor) -> Tensor:
    flat = layer_input.reshape(-1, layer_input.shape[-1])
    weight, index = torch.topk(self.router.layer(flat), self.router.top_k, dim=-1)
    stacks = [self.input_linear.weight, self.output_linear.weight]
    routed = torch.ops.moe.experts(flat, index, weight.softmax(-1), stacks)
    result: Tensor = routed.view(layer_input.shape) + self.bias
    return result


def _every_token(self: nn.Module, hidden: Tensor, positions: Any, mask: Tensor, cache: Any) -> Tensor:
    """Choose every token: which of them an indexer chooses depends on their values, its weights are read anyway."""
    return mask


WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "Llama4TextMoe": _llama4,
    "JetMoeMoE": _jetmoe,
    "Qwen4ExpTextQSAIndexer": _every_token,
}
"""Modules that branch on values in a way of their own, by class."""


def plain_rotary(config: Any) -> None:
    """Make rotary embeddings plain ones, all through a configuration: long-context variants branch on positions."""
    for name in ("rope_parameters", "rope_scaling"):
        found = getattr(config, name, None)
        if isinstance(found, dict):
            setattr(config, name, _plain(found))


def _plain(rope: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(value, dict) for value in rope.values()):
        return {key: _plain(value) if isinstance(value, dict) else value for key, value in rope.items()}
    kept = {key: value for key, value in rope.items() if key in ("rope_theta", "partial_rotary_factor")}
    return {"rope_theta": 10_000.0, **kept, "rope_type": "default"}
