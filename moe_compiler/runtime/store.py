"""Where expert weights live: slices in HB, the rest in external memory, prefetched slices in staging.

On a machine without HB both are ordinary memory; what stays true is who reads what: the draft reads resident slices
only, and verify waits for every slice that it needs. Loads run on a worker thread in the order that the plan says; what
verify's router turns out not to need is dropped.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_compiler.runtime.hot_set import HotSet, HotSetRule
from moe_compiler.runtime.loader import WAITED_FOR, Loader
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.prefetch import Prefetcher
from moe_compiler.runtime.quantise import Sliced, quantise

Matrices = tuple[Tensor, ...]
WHOLE = 8
NEVER = 1001
"""A likelihood in ‰ that no expert reaches."""


@dataclass(frozen=True)
class EngineRule:
    """How verify computes experts.

    Attributes:
        engine: `free`: as they arrive; `first`: in program order.
        most_far_tokens: of an expert that is computed where it lies, unless it is near or loaded ahead.
        late: of others that are neither near nor loaded ahead: `load` them into staging, or `stream` them past.
    """

    engine: str = "first"
    most_far_tokens: int = 0
    late: str = "load"


IN_ORDER = EngineRule()
"""In program order; what is not near is loaded."""


@dataclass(frozen=True)
class Expert:
    """The matrices of one expert, [out, in] each, sliced."""

    matrices: tuple[Sliced, ...]


class ExpertStore:
    """Experts of all layers, the resident set, and staging.

    Attributes:
        loads: (layer, expert) of every load, in order, for inspection.
        dispatched: steps of layers whose replicas were chosen.
        dispatch_seconds: what choosing took, in all.
        least_permille: what a draft router asks for is loaded if it is at least so likely to be needed.
        order: of loads.
        rule: how verify computes experts.
        computed_far: experts that were computed where they lie.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.hot_set = HotSet(plan.resident, plan.needed_permille)
        self.loads: list[tuple[int, int]] = []
        self.dispatched, self.dispatch_seconds = 0, 0.0
        self.least_permille, self.order = NEVER, "ready"
        self._external: dict[tuple[int, int], Expert] = {}
        self._draft: dict[tuple[int, int], Matrices] = {}
        self._staged: dict[tuple[int, int], Future[Matrices]] = {}
        self.rule, self.computed_far = IN_ORDER, 0
        self._whole = {(layer, expert) for layer, experts in plan.whole.items() for expert in experts}
        self._unstaged: dict[tuple[int, int], bool] = {}
        """What verify reads from external memory as it computes; whether it moves past the engine."""
        self._prefetcher = Prefetcher(plan.needed_permille, plan.likelihoods)
        self._loader: Loader[Matrices] = Loader(plan.staging_slots)

    def add(self, layer: int, expert: int, matrices: Sequence[Tensor]) -> None:
        """Quantise an expert and put it where the plan says."""
        self._external[layer, expert] = Expert(tuple(quantise(matrix) for matrix in matrices))
        if self.is_resident(layer, expert):
            self._keep(layer, expert)

    def sliced(self, layer: int, expert: int) -> tuple[Sliced, ...]:
        """Return an expert's slices in external memory."""
        return self._external[layer, expert].matrices

    def is_resident(self, layer: int, expert: int) -> bool:
        """Tell whether HB keeps an expert."""
        return expert in self.hot_set.resident.get(layer, ())

    def is_whole(self, layer: int, expert: int) -> bool:
        """Tell whether HB keeps all of an expert, so that verify has nothing to wait for."""
        return (layer, expert) in self._whole

    def dispatch(self, layer: int, experts: Sequence[int]) -> list[int]:
        """Choose the replica, and so the banks, that serve each expert of a draft step.

        Ordinary memory has one copy of everything, so here the choice is made, timed, and has no other effect.
        """
        if layer not in self.plan.dispatch or not experts:
            return [0] * len(experts)
        start = time.perf_counter()
        chosen = self.plan.dispatch[layer].choose(experts)
        self.dispatch_seconds += time.perf_counter() - start
        self.dispatched += 1
        return chosen

    def draft_weights(self, layer: int, expert: int) -> Matrices:
        """Return what the draft computes with; only residents have it."""
        return self._draft[layer, expert]

    def begin_round(self) -> None:
        """Begin a round: what verify used in the last one is recent now."""
        self._prefetcher.begin()

    def prefetch_sure(self, permille: int, order: str) -> None:
        """Start to load what was needed in at least so many of 1,000 training rounds."""
        for layer, expert, priority in self._prefetcher.sure(permille, order):
            self._prefetch((layer, expert), priority)

    def prefetch(self, experts: Iterable[tuple[int, int]]) -> None:
        """Start to load (layer, expert) in this order."""
        for priority, key in enumerate(experts, 1):
            self._prefetch(key, priority)

    def asked(self, layer: int, experts: Iterable[int]) -> None:
        """Hear what a draft router asks for, one entry a token, and start to load what verify will likely need."""
        chosen = list(experts)
        for _, expert, priority in self._prefetcher.asked(layer, chosen, self.least_permille, self.order):
            self._prefetch((layer, expert), priority)

    def decided(self, layer: int, experts: Iterable[int]) -> None:
        """Hear what verify's router chose, one entry a token: load that first, and drop what it does not need.

        What nothing has begun to load is computed where it lies, or streams past, as the rule says.
        """
        needed = list(experts)
        self._prefetcher.used(layer, needed)
        self.hot_set.used(layer, needed)
        for key in [key for key in self._staged if key[0] == layer and key[1] not in needed]:
            self._loader.release(self._staged.pop(key))
        for expert, tokens in Counter(needed).items():
            key = (layer, expert)
            is_far, passes = tokens <= self.rule.most_far_tokens, self.rule.late == "stream"
            if (is_far or passes) and key not in self._staged and not self.is_whole(*key):
                self._unstaged[key] = not is_far
            else:
                self._prefetch(key, WAITED_FOR)

    def arriving(self, layer: int, experts: Sequence[int], engine: str) -> Iterator[int]:
        """Iterate over the experts of a verify layer as they can be computed.

        Args:
            layer: the layer.
            experts: its experts in program order.
            engine: `free`: what has arrived first is computed first; `first`: in program order.
        """
        waiting = list(experts)
        while waiting:
            ready = [e for e in waiting if engine != "free" or self._has_arrived(layer, e)]
            if not ready:
                wait([self._staged[layer, e] for e in waiting], return_when=FIRST_COMPLETED)
                continue
            waiting.remove(ready[0])
            yield ready[0]

    def _has_arrived(self, layer: int, expert: int) -> bool:
        key = (layer, expert)
        return self.is_whole(*key) or key in self._unstaged or self._staged[key].done()

    def forget(self) -> None:
        """Forget what routers chose so far: the prompt is no round."""
        self._prefetcher = Prefetcher(self.plan.needed_permille, self.plan.likelihoods)
        self.hot_set = HotSet(self.plan.resident, self.plan.needed_permille)

    def _prefetch(self, key: tuple[int, int], priority: int) -> None:
        if self.is_whole(*key):
            return
        queued = self._staged.get(key)
        if queued is None or not (queued.running() or queued.done()):
            self._staged[key] = self._loader.submit(priority, lambda: self._load(key), queued)

    def verify_weights(self, layer: int, expert: int) -> Matrices:
        """Return an expert in full precision, once it is loaded, and give its slot back."""
        key = (layer, expert)
        if self.is_whole(*key):
            return self._draft[key] if self.plan.draft_bits >= WHOLE else self._exact(key)
        if key in self._unstaged:
            if self._unstaged.pop(key):
                return self._load(key)
            self.computed_far += 1
            return self._exact(key)
        future = self._staged.pop((layer, expert))
        try:
            return future.result()
        finally:
            self._loader.release(future)

    def update_hot_set(self, rule: HotSetRule, tokens: int) -> list[tuple[int, int, int]]:
        """Put what has become hotter than a resident in its place; returns (layer, expert, what it replaced)."""
        swaps = self.hot_set.update(rule, tokens)
        for layer, new, old in swaps:
            self.replace(layer, new, old)
        return swaps

    def replace(self, layer: int, new: int, old: int) -> None:
        """Write as much of an expert as HB keeps of another over that one."""
        self._draft.pop((layer, old), None)
        if (layer, old) in self._whole:
            self._whole.remove((layer, old))
            self._whole.add((layer, new))
        self._keep(layer, new)

    def _keep(self, layer: int, expert: int) -> None:
        full = self.plan.draft_bits >= WHOLE
        matrices = self._external[layer, expert].matrices
        self._draft[layer, expert] = tuple(m.verify_weights() if full else m.draft_weights() for m in matrices)

    def release_staging(self) -> None:
        """Free all of staging: the round is over."""
        for future in self._staged.values():
            self._loader.release(future)
        self._staged.clear()

    def close(self) -> None:
        """Stop the loader."""
        self._loader.close()

    def _load(self, key: tuple[int, int]) -> Matrices:
        self.loads.append(key)
        with torch.inference_mode():
            return self._exact(key)

    def _exact(self, key: tuple[int, int]) -> Matrices:
        return tuple(matrix.verify_weights() for matrix in self._external[key].matrices)
