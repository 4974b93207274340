"""The kernels that a model runs on, each of them batch-invariant, and the step that they run in.

The model's own code runs unchanged. Every `linear` in it is caught and computed on packed weights (processor.py);
attention and routed experts are called through transformers' registries, which model.py connects to this module. In a
replay, the plan says which experts a row is routed to and in which order they are computed.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moe_compiler.runtime.processor import CPU, Processor
from moe_compiler.runtime.quantise import WHOLE_ACTIVATION_BITS, Packed, quantise, rounded
from moe_compiler.runtime.replay import Replay
from moe_compiler.runtime.store import WHOLE, ExpertStore
from moe_compiler.runtime.uncaught import uncaught

NOBODY = -1


@dataclass
class Step:
    """The step that is running.

    Attributes:
        is_draft: whether experts are restricted to residents.
        positions: [sequence, width], position of every row's token.
        sequences: number of the sequence of each row of `positions`, which names its cache.
        number: of the draft step, or γ for verify.
        engine: rule by which verify computes experts: `free` or `first`.
    """

    is_draft: bool
    positions: Tensor
    sequences: list[int]
    number: int = 0
    engine: str = "first"


@dataclass
class Kernels:
    """State of all kernels of one model.

    Attributes:
        store: the experts.
        sequences: how many have a cache.
        capacity: tokens in each cache.
        dense: every matrix that was met and its packed weights, by its identity.
        embeddings: rows of those that are not in memory, by the identity of their parameters.
        routers: decoder layer of every router, by the identity of its weight.
        experts_layer: decoder layer of every experts module, by its identity.
        top_k: experts of a token, by decoder layer.
        keys: KV cache: keys [sequence, heads, position, dim] by decoder layer.
        values: likewise.
        step: what is running.
        replay: the planned round that is run, if one is.
        activation_bits: of what packed matrices are multiplied with: 32, or 8.
        processor: what computes.
        routed: what hears the choices of every router: layer, whether it is a draft's, [row, k]; or None.
    """

    store: ExpertStore
    sequences: int
    capacity: int
    dense: dict[int, tuple[Tensor, Packed]] = field(default_factory=dict)
    embeddings: Mapping[int, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    routers: dict[int, int] = field(default_factory=dict)
    experts_layer: dict[int, int] = field(default_factory=dict)
    top_k: dict[int, int] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    step: Step | None = None
    replay: Replay | None = None
    activation_bits: int = WHOLE_ACTIVATION_BITS
    processor: Processor = CPU
    routed: Callable[[int, bool, Tensor], None] | None = None

    @uncaught
    def linear(self, rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute a dense layer or a router, row by row independent."""
        is_slice = self.step is not None and self.step.is_draft and self.store.plan.dense_bits < WHOLE
        if id(weight) not in self.dense:
            self.dense[id(weight)] = (weight, quantise(weight.detach().cpu()).to(weight.device))
        result = self._multiply(rows.reshape(-1, rows.shape[-1]), self.dense[id(weight)][1], is_slice)
        if bias is not None:
            result = result + bias.to(torch.float32)
        result = result.reshape(*rows.shape[:-1], weight.shape[0])
        layer = self.routers.get(id(weight))
        return result if layer is None else self._route(layer, result)

    def _multiply(self, rows: Tensor, packed: Packed, is_slice: bool) -> Tensor:
        rows = rows if self.activation_bits == WHOLE_ACTIVATION_BITS else rounded(rows)
        return self.processor.multiply(rows, packed, is_slice)

    def _route(self, layer: int, scores: Tensor) -> Tensor:
        """In the draft: prefetch what the router asks for, then restrict it to residents."""
        assert self.step is not None
        if not self.step.is_draft or self.replay is not None:
            return scores
        asked = torch.topk(scores.reshape(-1, scores.shape[-1]), self.top_k[layer]).indices
        if self.routed is not None:
            self.routed(layer, True, asked)
        self.store.asked(layer, asked.flatten().tolist())
        masked = torch.full_like(scores, -torch.inf)
        residents = sorted(self.store.hot_set.resident.get(layer, ()))
        masked[..., residents] = scores[..., residents]
        return masked

    def experts(self, module: Any, hidden: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        """Run the routed experts of a layer: hidden [row, hidden], index and weight [row, k]."""
        assert self.step is not None
        layer = self.experts_layer[id(module)]
        if self.replay is not None:
            index = self.replay.routing(self.step.number, layer)
        if self.routed is not None and not self.step.is_draft:
            self.routed(layer, False, index)
        record = self.store.record
        record.so_far("attention", layer)
        chosen = _chosen(index)
        experts = [expert for expert in chosen if expert != NOBODY]
        parts: list[Part] = []
        for expert in self._in_order(layer, experts, index):
            places, rows = chosen[expert]
            parts.append((places, self._expert(module, layer, expert, _of_rows(hidden, rows))))
            if self.replay is not None and not self.step.is_draft:
                self.replay.ran("expert", self.step.number, layer, expert)
        if self.replay is not None:
            self.replay.computed(self.step.number, layer, bool(experts))
        # A draft of which nothing is resident has no weights.
        total = _summed(parts, hidden, torch.nan_to_num(weight) if self.step.is_draft else weight)
        record.so_far("draft-experts" if self.step.is_draft else "gather", layer)
        return total

    def _in_order(self, layer: int, experts: list[int], index: Tensor) -> Iterable[int]:
        """Return the experts of a layer in the order in which they are to be computed."""
        assert self.step is not None
        if self.replay is not None:
            return self.replay.experts(self.step.number, layer, experts)
        if self.step.is_draft:
            residents = [expert for expert in experts if self.store.is_resident(layer, expert)]
            self.store.dispatch(layer, residents)
            return residents
        self.store.decided(layer, index.tolist())
        return self.store.arriving(layer, experts, self.step.engine)

    def _expert(self, module: Any, layer: int, expert: int, rows: Tensor) -> Tensor:
        assert self.step is not None
        is_slice = self.step.is_draft and self.store.plan.draft_bits < WHOLE
        with self._weights(layer, expert) as (first, down):
            if not self.step.is_draft:
                self.store.record.mark()
            gate_up = self._multiply(rows, first, is_slice)
            if module.has_bias:
                gate_up = gate_up + module.gate_up_proj_bias[expert]
            result = self._multiply(module._apply_gate(gate_up), down, is_slice)
            if not self.step.is_draft:
                self.store.record.so_far("expert", layer, expert)
        return result + module.down_proj_bias[expert] if module.has_bias else result

    def _weights(self, layer: int, expert: int) -> AbstractContextManager[tuple[Packed, ...]]:
        if self.step is not None and self.step.is_draft:
            return nullcontext(self.store.drafted(layer, expert))
        if self.replay is not None:
            return nullcontext(self.replay.weights(layer, expert))
        return self.store.verified(layer, expert)

    def attention(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int, sinks: Tensor | None
    ) -> Tensor:
        """Attend, every row over its cache up to its own position.

        Args:
            module: the attention module; its `layer_idx` names the cache.
            query: [batch, heads, width, dim].
            key: [batch, kv heads, width, dim].
            value: [batch, kv heads, width, value dim].
            scaling: of the scores.
            window: attention window, 0 for all of the context.
            sinks: [heads], extra scores that take part in the softmax only.

        Returns:
            [batch, width, heads, value dim].
        """
        assert self.step is not None
        if self.replay is not None:
            self.replay.reached(self.step.number, int(module.layer_idx))
        batch, heads, width, _ = query.shape
        keys, values = self._cache(module.layer_idx, key, value)
        caches = torch.tensor(self.step.sequences, device=key.device)[:, None].expand(batch, width)
        places = self.step.positions.expand(batch, width)
        keys[caches, :, places], values[caches, :, places] = key.transpose(1, 2), value.transpose(1, 2)
        rows = caches.flatten(), places.flatten()
        asked = query.transpose(1, 2).reshape(batch * width, heads, -1)
        found = self.processor.attend(asked, (keys, values), rows, window, scaling, sinks)
        return found.reshape(batch, width, heads, -1)

    def _cache(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self.keys:
            heads = key.shape[1]
            for cache, dim in ((self.keys, key.shape[3]), (self.values, value.shape[3])):
                cache[layer] = torch.zeros(self.sequences, heads, self.capacity, dim, device=key.device)
        return self.keys[layer], self.values[layer]


Part = tuple[Tensor, Tensor]
"""Where an expert was chosen, as places of [row, k] counted through, and its result: [place], [place, hidden]."""


@uncaught
def _chosen(index: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Return where in [row, k] each expert was chosen, ascending: its places, counted through, and their rows."""
    chosen, places = torch.sort(index.flatten(), stable=True)
    experts, counts = torch.unique_consecutive(chosen, return_counts=True)
    sizes = counts.tolist()
    rows = torch.split_with_sizes(torch.div(places, index.shape[1], rounding_mode="floor"), sizes)
    return dict(zip(experts.tolist(), zip(torch.split_with_sizes(places, sizes), rows, strict=True), strict=True))


@uncaught
def _of_rows(hidden: Tensor, rows: Tensor) -> Tensor:
    return hidden.index_select(0, rows)


@uncaught
def _summed(parts: list[Part], hidden: Tensor, weight: Tensor) -> Tensor:
    """Sum the choice of every row slot by slot: the order is the row's own."""
    results = torch.zeros(weight.numel(), hidden.shape[1], dtype=torch.float32, device=hidden.device)
    for places, result in parts:
        results.index_copy_(0, places, result)
    results = results.view(*weight.shape, hidden.shape[1])
    weights, total = weight.to(torch.float32), torch.zeros_like(hidden, dtype=torch.float32)
    for slot in range(weight.shape[1]):
        total = total + results[:, slot] * weights[:, slot, None]
    return total.to(hidden.dtype)


class CaughtLinear(TorchFunctionMode):
    """Send `linear` and embeddings to our kernels, and what the processor computes in another way to that."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """Catch what `CaughtLinear` says; leave everything else alone."""
        if function is nn.functional.linear:
            return self.kernels.linear(*args, **(options or {}))
        if function is nn.functional.embedding:
            look_up = self.kernels.embeddings.get(id(args[1]))
            return look_up(args[0]) if look_up else function(*args, **(options or {}))
        ours = self.kernels.processor.functions.get(getattr(function, "__name__", ""))
        if ours and args:
            return ours(function, *args, **(options or {}))
        return function(*args, **(options or {}))


ACTIVE: list[Kernels] = []
"""The kernels of the model that is running; the innermost counts."""
