"""The custom operators that stand for attention, other token mixers and routed experts in a traced graph.

They have no implementation: a trace runs on the `meta` device, where shapes are all there is. Registering them with
transformers under the name `moe_compiler`, or in place of a module's `forward` (`substitutes.py`), makes each layer
arrive in MLIR as one `torch.moe.attention` or `torch.moe.mixer`, and one `torch.moe.experts`.
"""

from typing import Any

import torch
from torch import Tensor, nn

NAME = "moe_compiler"


@torch.library.custom_op("moe::experts", mutates_args=())
def experts(hidden: Tensor, index: Tensor, weight: Tensor, parameters: list[Tensor]) -> Tensor:
    """Run the routed experts: hidden [row, hidden], index and weight [row, k] → [row, hidden]."""
    raise NotImplementedError("moe::experts exists for tracing on the meta device")


@experts.register_fake
def _(hidden: Tensor, index: Tensor, weight: Tensor, parameters: list[Tensor]) -> Tensor:
    return torch.empty_like(hidden)


@torch.library.custom_op("moe::attention", mutates_args=())
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    layer: int,
    window: int,
    latent_elements: int,
    index_elements: int,
    index_parameters: list[Tensor],
) -> Tensor:
    """Attend over the KV cache: query [batch, heads, width, dim] → [batch, width, heads, value dim].

    Args:
        query: of the step's own tokens, as are key and value; the cache is the operator's state.
        key: see query.
        value: see query.
        sinks: [heads], extra scores of the softmax, or None.
        layer: index of the decoder layer.
        window: attention window in tokens, 0 for all of the context.
        latent_elements: elements cached per token if the cache holds a latent (MLA), else 0.
        index_elements: elements cached per token by which tokens are chosen (sparse attention), else 0.
        index_parameters: weights of the indexer that chooses them.
    """
    raise NotImplementedError("moe::attention exists for tracing on the meta device")


@attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    layer: int,
    window: int,
    latent_elements: int,
    index_elements: int,
    index_parameters: list[Tensor],
) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


@torch.library.custom_op("moe::mixer", mutates_args=())
def mixer(hidden: Tensor, parameters: list[Tensor], layer: int, state_elements: int, width: int) -> Tensor:
    """Mix tokens by a recurrence or a convolution: hidden [batch, tokens, dim] → [batch, tokens, width].

    Args:
        hidden: of the step's own tokens.
        parameters: weights of the mixer, projections included.
        layer: index of the decoder layer.
        state_elements: elements that the mixer keeps of a sequence, however long it is.
        width: elements of the result, per token.
    """
    raise NotImplementedError("moe::mixer exists for tracing on the meta device")


@mixer.register_fake
def _(hidden: Tensor, parameters: list[Tensor], layer: int, state_elements: int, width: int) -> Tensor:
    return hidden.new_empty(*hidden.shape[:-1], width)


def traced_experts(module: nn.Module, hidden: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Stand in for the forward function of a transformers experts module."""
    result: Tensor = torch.ops.moe.experts(hidden, index, weight, list(module.parameters()))
    return result


def traced_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """Stand in for transformers' attention function; masks decide nothing that a plan needs."""
    latent = 0
    if getattr(module, "kv_lora_rank", None):
        latent = int(module.kv_lora_rank) + int(module.qk_rope_head_dim)  # type: ignore[arg-type]
    layer, window = int(module.layer_idx), int(options.get("sliding_window") or 0)  # type: ignore[arg-type]
    indexer = getattr(module, "indexer", None)
    parameters = list(indexer.parameters()) if isinstance(indexer, nn.Module) else []
    kept = int(getattr(indexer, "index_head_dim", 0) or getattr(indexer, "head_dim", 0))
    operands = (query, key, value, options.get("s_aux"))
    return torch.ops.moe.attention(*operands, layer, window, latent, kept, parameters), None
