"""Where expert weights live: residents in the near memory, the rest in the far one, prefetched pieces in staging.

The draft reads resident slices only; verify waits for every piece that it needs. Loads run beside what is computed, in
the order that the plan says; what verify's router turns out not to need is dropped.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from moe_compiler.runtime.far import FarMemory, read
from moe_compiler.runtime.hot_set import HotSet, HotSetRule
from moe_compiler.runtime.packing import REST, SLICE, Layout, padded
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.prefetch import Prefetcher
from moe_compiler.runtime.quantise import Packed
from moe_compiler.runtime.record import Record
from moe_compiler.runtime.staging import WAITED_FOR, Key, Staging

WHOLE = 8
NEVER = 1001
"""A likelihood in ‰ that no expert reaches."""
MOST_VIEWS = 256
"""Of staged experts that are kept: making one takes as long as a small product."""
PIECES_OF_ONE = 2
"""Slots that an expert takes at most: with fewer, nothing is staged."""


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


class Near:
    """The residents: for each a slice, and of some the rest.

    Attributes:
        bytes: of all of them.
    """

    def __init__(self, plan: Plan, far: FarMemory[Any]) -> None:
        self.far = far
        self._pieces: dict[Key, dict[str, Tensor]] = {}
        self._matrices: dict[Key, tuple[Packed, ...]] = {}
        near = [(layer, expert) for layer, experts in plan.resident.items() for expert in experts]
        kept = {(layer, e): self._sizes(layer, e in plan.whole.get(layer, ())) for layer, e in near}
        self.bytes = sum(sum(sizes.values()) for sizes in kept.values())
        # One piece of memory: an allocator rounds each of many up.
        arena = far.rooms(self.bytes)
        for key, sizes in kept.items():
            rooms = arena[: sum(sizes.values())].split_with_sizes(list(sizes.values()))
            self._pieces[key] = dict(zip(sizes, rooms, strict=True))
            arena = arena[sum(sizes.values()) :]
            read(far, *key, self._pieces[key])

    def _sizes(self, layer: int, is_whole: bool) -> dict[str, int]:
        """Return the bytes of what lies here of an expert, by piece."""
        layout = self.far.layouts[layer]
        return {SLICE: padded(layout.slice_bytes)} | ({REST: padded(layout.rest_bytes)} if is_whole else {})

    def experts(self) -> dict[int, set[int]]:
        """Return the residents of now, by decoder layer."""
        found: dict[int, set[int]] = {}
        for layer, expert in self._pieces:
            found.setdefault(layer, set()).add(expert)
        return found

    def pieces(self, key: Key) -> dict[str, Tensor]:
        """Return what lies here of an expert, by piece."""
        return self._pieces.get(key, {})

    def matrices(self, key: Key) -> tuple[Packed, ...]:
        """Return what lies here of an expert as it is computed with: its slice, and the rest where it is here."""
        if key not in self._matrices:
            pieces = self._pieces[key]
            self._matrices[key] = self.far.layouts[key[0]].views(pieces[SLICE], pieces.get(REST))
        return self._matrices[key]

    def replace(self, new: Key, old: Key) -> dict[str, Tensor]:
        """Give the place of one expert to another; returns the bytes to fill."""
        self._pieces[new] = self._pieces.pop(old)
        self._matrices.pop(old, None)
        return self._pieces[new]


class ExpertStore:
    """Experts of all layers, the resident set, and staging.

    Attributes:
        far: every expert, whole.
        near: the residents.
        staging: what is loaded.
        dispatched: steps of layers whose replicas were chosen.
        dispatch_seconds: what choosing took, in all.
        least_permille: what a draft router asks for is loaded if it is at least so likely to be needed.
        order: of loads.
        rule: how verify computes experts.
        following: how residents follow what verify computes; they stay until it is set.
        promoted: experts that took a resident's place.
        computed_far: experts that were computed where they lie.
        record: of what is done.
    """

    def __init__(self, plan: Plan, far: FarMemory[Any], near: Near | None = None) -> None:
        """Read the residents, unless they are there.

        Args:
            plan: what is resident at first, and how much is staged.
            far: every expert, whole.
            near: the residents, as an earlier store of this plan left them.
        """
        self.plan, self.far, self.record = plan, far, Record()
        self.near = Near(plan, far) if near is None else near
        self.hot_set = HotSet(self.near.experts(), plan.needed_permille)
        self.dispatched, self.dispatch_seconds = 0, 0.0
        self.least_permille, self.order = NEVER, "ready"
        self.rule, self.following = IN_ORDER, HotSetRule()
        self.promoted = self.computed_far = 0
        self._incoming: dict[int, int] = {}
        """Of the layer that is computed: what takes whose place as soon as both are computed."""
        self._uncomputed: set[int] = set()
        self._views: dict[tuple[Layout, int, int], tuple[Packed, ...]] = {}
        self._unstaged: dict[Key, bool] = {}
        """What verify reads from the far memory as it computes; whether it moves past the engine."""
        self._prefetcher = Prefetcher(plan.needed_permille, plan.likelihoods)
        self.staging = Staging(far, plan.half_slots, self.record)

    @property
    def loads(self) -> list[Key]:
        """(layer, expert) of every load, in order."""
        return self.staging.traffic.loads

    def is_resident(self, layer: int, expert: int) -> bool:
        """Tell whether HB keeps an expert."""
        return expert in self.hot_set.resident.get(layer, ())

    def is_whole(self, key: Key) -> bool:
        """Tell whether HB keeps all of an expert, so that verify has nothing to wait for."""
        return REST in self.near.pieces(key)

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

    def drafted(self, layer: int, expert: int) -> tuple[Packed, ...]:
        """Return what the draft computes with; only residents have it."""
        return self.near.matrices((layer, expert))

    def begin_round(self) -> None:
        """Begin a round: what verify used in the last one is recent now."""
        self._prefetcher.begin()

    def prefetch_sure(self, permille: int, order: str) -> None:
        """Start to load what was needed in at least so many of 1,000 training rounds."""
        self._load(((layer, e), priority) for layer, e, priority in self._prefetcher.sure(permille, order))

    def prefetch(self, experts: Iterable[Key]) -> None:
        """Start to load (layer, expert) in this order."""
        self._load((key, priority) for priority, key in enumerate(experts, 1))

    def asked(self, layer: int, experts: Iterable[int]) -> None:
        """Hear what a draft router asks for, one entry a token, and start to load what verify will likely need."""
        likely = self._prefetcher.asked(layer, list(experts), self.least_permille, self.order)
        self._load(((layer, expert), priority) for _, expert, priority in likely)

    def decided(self, layer: int, chosen: Sequence[Sequence[int]]) -> None:
        """Hear what verify's router chose for each token: load that first, and drop what it does not need.

        What nothing has begun to load is computed where it lies, or streams past, as the rule says, unless it is to
        become resident; and where staging has no room for an expert.
        """
        needed, loads = [expert for experts in chosen for expert in experts], []
        self._prefetcher.used(layer, needed)
        self._incoming = self.hot_set.follow(layer, needed, len(chosen), self.following)
        self._uncomputed = set(needed)
        self.staging.keep(layer, needed)
        for expert, tokens in sorted(Counter(needed).items()):
            key = (layer, expert)
            if self.is_whole(key):
                continue
            is_far = tokens <= self.rule.most_far_tokens and expert not in self._incoming
            passes = self.rule.late == "stream" and expert not in self._incoming
            if (is_far or passes or self.staging.slots < PIECES_OF_ONE) and not self.staging.holds(key):
                self._unstaged[key] = not is_far
            else:
                loads.append((key, WAITED_FOR))
        self._load(loads)

    def arriving(self, layer: int, experts: Sequence[int], engine: str) -> Iterator[int]:
        """Iterate over the experts of a verify layer as they can be computed.

        What becomes resident waits for what it replaces, so that it can be written when it is computed.

        Args:
            layer: the layer.
            experts: its experts in program order.
            engine: `free`: what has arrived first is computed first; `first`: in program order.
        """
        waiting = list(experts)
        while waiting:
            able = [expert for expert in waiting if self._incoming.get(expert) not in self._uncomputed]
            ready = next((e for e in able if engine != "free" or self._has_arrived((layer, e))), None)
            if ready is None:
                _, ready = self.staging.wait_for_any((layer, e) for e in able)
            waiting.remove(ready)
            yield ready

    def _has_arrived(self, key: Key) -> bool:
        return self.is_whole(key) or key in self._unstaged or self.staging.is_here(key)

    def forget(self) -> None:
        """Forget what is recent: the prompt is no round. The residents and their hotness stay."""
        self._prefetcher = Prefetcher(self.plan.needed_permille, self.plan.likelihoods)
        self.hot_set.count_anew()

    def _load(self, wanted: Iterable[tuple[Key, int]]) -> None:
        """Start to load what is missing of experts, by their priorities."""
        loads = [
            (key, priority, tuple(piece for piece in (SLICE, REST) if piece not in self.near.pieces(key)))
            for key, priority in wanted
        ]
        missing = [load for load in loads if load[2]]
        if missing and self.staging.slots >= PIECES_OF_ONE:
            self.staging.request(missing)

    @contextmanager
    def verified(self, layer: int, expert: int) -> Iterator[tuple[Packed, ...]]:
        """Hold an expert in full precision, once it is loaded; its slots may be taken afterwards."""
        key = (layer, expert)
        is_staged = key not in self._unstaged and not self.is_whole(key)
        if is_staged:
            self.staging.wait_for_any([key])
        try:
            yield self._staged(key) if is_staged else self._unloaded(key)
            self._computed(layer, expert)
        finally:
            if is_staged:
                self.staging.used(key)

    def _staged(self, key: Key) -> tuple[Packed, ...]:
        pieces = self.near.pieces(key) | self.staging.pieces(key)
        return self._matrices(key[0], pieces[SLICE], pieces[REST])

    def _unloaded(self, key: Key) -> tuple[Packed, ...]:
        return self._passing(key) if key in self._unstaged else self.near.matrices(key)

    def _computed(self, layer: int, expert: int) -> None:
        """Let what becomes resident take its place, now that both it and what it replaces are computed."""
        self._uncomputed.discard(expert)
        for new, old in [pair for pair in self._incoming.items() if self._uncomputed.isdisjoint(pair)]:
            del self._incoming[new]
            self.replace(layer, new, old)

    def _matrices(self, layer: int, piece: Tensor, rest: Tensor) -> tuple[Packed, ...]:
        """Return the matrices that lie in places of the near memory: places stay, what lies there changes."""
        layout, places = self.far.layouts[layer], (piece.data_ptr(), rest.data_ptr())
        if (found := self._views.get((layout, *places))) is None:
            if len(self._views) == MOST_VIEWS:
                self._views.clear()
            found = self._views[layout, *places] = layout.views(piece, rest)
        return found

    def _passing(self, key: Key) -> tuple[Packed, ...]:
        begun = self.record.now()
        matrices = self.far.matrices(*key)
        is_load = self._unstaged.pop(key)
        self._waited(key, (SLICE, REST), begun, is_load)
        self.computed_far += not is_load
        return matrices

    def _waited(self, key: Key, pieces: tuple[str, ...], begun: int, is_load: bool = True) -> None:
        """Count what was read while computation stood still; what is computed where it lies is no load."""
        size = self.far.layouts[key[0]].bytes_of(pieces)
        self.record.add("wait", begun, *key)
        span = self.record.add("load", begun, *key, size)
        seconds = (span.end - span.start) * 1e-9
        self.staging.traffic.add(key if is_load else None, size, seconds, seconds)

    def replace(self, layer: int, new: int, old: int) -> None:
        """Write as much of an expert as HB keeps of another over that one: from staging, or loaded once more."""
        self.promoted += 1
        key = (layer, new)
        for piece, into in self.near.replace(key, (layer, old)).items():
            begun = self.record.now()
            if not self.staging.copy(key, piece, into):
                read(self.far, layer, new, {piece: into})
                self._waited(key, (piece,), begun)
                begun = self.record.now()
            self.record.add("write", begun, *key)
        self.record.mark()

    def release_staging(self) -> None:
        """Free all of staging: the round is over."""
        self._unstaged.clear()
        self.staging.clear()

    def close(self) -> None:
        """Stop loading."""
        self.staging.close()
