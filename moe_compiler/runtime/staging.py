"""Staging: slots of half an expert each, and one thread that loads into them while the model computes.

What is waited for comes first, then prefetches by urgency, while slots are free. Nothing is ever held beyond the slots:
what has been computed gives way to what is to come, and prefetches that nobody waits for to what is waited for.
"""

import contextlib
import mmap
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moe_compiler.runtime.far import FarMemory
from moe_compiler.runtime.packing import padded
from moe_compiler.runtime.record import Record, Span

Key = tuple[int, int]
"""Decoder layer, expert."""
Load = tuple[Key, int, tuple[str, ...]]
"""What is loaded, its priority, and the pieces of the expert."""
WAITED_FOR = 0
"""Priority of a load that a computation waits for."""
QUEUED, LOADING, HERE, BUSY, USED = range(5)
HELD = (HERE, BUSY, USED)
LARGE_BYTES = 2**21
PATIENCE_SECONDS = 1.0
"""Between looks at whether the thread that loads is still there."""


class LoaderEndedError(Exception):
    """The thread that loads has ended, and nobody ended it."""


@dataclass
class Entry:
    """A load.

    Attributes:
        priority: lowest first.
        turn: order of arrival, among equals.
        pieces: of the expert.
        slots: one for each piece, once it is loading.
        state: `QUEUED`, `LOADING`, `HERE`, `BUSY`: computed with, or `USED`: computed, and kept while there is room.
        error: why it failed.
        is_dropped: whether nobody wants it any more while it is loading.
        span: in which it was loaded.
    """

    priority: int
    turn: int
    pieces: tuple[str, ...]
    slots: list[int] = field(default_factory=list)
    state: int = QUEUED
    error: Exception | None = None
    is_dropped: bool = False
    span: Span | None = None


@dataclass
class Traffic:
    """What was loaded.

    Attributes:
        loads: (layer, expert) of every load, in order.
        bytes: that moved.
        seconds: that loads took.
        waited_seconds: that computation waited for them.
        most_slots: that were in use at once.
    """

    loads: list[Key] = field(default_factory=list)
    bytes: int = 0
    seconds: float = 0.0
    waited_seconds: float = 0.0
    most_slots: int = 0

    def add(self, key: Key | None, size: int, seconds: float, waited_seconds: float = 0.0) -> None:
        """Count what was read; None: for no load."""
        if key is not None:
            self.loads.append(key)
        self.bytes += size
        self.seconds += seconds
        self.waited_seconds += waited_seconds


def pages(size: int) -> Tensor:
    """Return so many bytes that begin on a page: [byte] uint8."""
    room = mmap.mmap(-1, padded(max(1, size)))
    if size >= LARGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        # A sixth faster to read: experts are read once each, and every small page costs a walk through tables.
        with contextlib.suppress(OSError):
            room.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(room, dtype=torch.uint8)


class Staging:
    """Slots, and the thread that fills them.

    Attributes:
        slots: how many.
        traffic: what was loaded.
    """

    def __init__(self, far: FarMemory, slots: int, record: Record | None = None) -> None:
        self.slots, self.traffic = slots, Traffic()
        self._record = record or Record()
        self._far = far
        sizes = [padded(max(layout.slice_bytes, layout.rest_bytes)) for layout in far.layouts.values()]
        self._size = max(sizes, default=0)
        self._arena = pages(slots * self._size)
        self._free = list(range(slots))
        self._entries: dict[Key, Entry] = {}
        self._turn = 0
        self._changed = threading.Condition()
        self._awaited: list[Key] = []
        self._closed = False
        self._failure: BaseException | None = None
        """What the thread died of."""
        self._thread = threading.Thread(target=self._run, name="expert-loads", daemon=True)
        self._thread.start()

    @property
    def bytes(self) -> int:
        """Bytes of all slots."""
        return self.slots * self._size

    def request(self, loads: Iterable[Load]) -> None:
        """Queue loads, or make those that are queued more urgent.

        Raises:
            RuntimeError: staging is closed.
            LoaderEndedError: there is nobody to load them.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("staging is closed")
            for load in loads:
                self._queue(*load)
            self._changed.notify_all()

    def _queue(self, key: Key, priority: int, pieces: tuple[str, ...]) -> None:
        entry = self._entries.get(key)
        while entry is not None and entry.pieces != pieces:
            # What HB keeps of it has changed since: the load that is under way ends, and is not the one asked for.
            self._drop(key)
            if entry.state == LOADING:
                self._check_alive()
                self._changed.wait(PATIENCE_SECONDS)
            entry = self._entries.get(key)
        if entry is None:
            self._turn += 1
            self._entries[key] = Entry(priority, self._turn, pieces)
        else:
            entry.priority = min(entry.priority, priority)
            entry.is_dropped = False
            entry.state = HERE if entry.state == USED else entry.state

    def holds(self, key: Key) -> bool:
        """Say whether something is queued, loading or here."""
        with self._changed:
            return key in self._entries

    def wait_for_any(self, keys: Iterable[Key]) -> Key:
        """Wait until one of several requested loads is here, and return it, the first of those that are.

        Raises:
            ValueError: one of them failed: what it read is damaged.
            LoaderEndedError: there is nobody to load it.
        """
        start, begun = time.perf_counter(), self._record.now()
        with self._changed:
            awaited = list(keys)
            if (found := self._first_held(awaited)) is not None:
                return found
            self._awaited = awaited
            self._changed.notify_all()
            try:
                while (found := self._first_held(awaited)) is None:
                    self._check_alive()
                    self._changed.wait(PATIENCE_SECONDS)
                self._record.add("wait", begun, *found)
                return found
            finally:
                self._awaited = []
                self.traffic.waited_seconds += time.perf_counter() - start

    def _check_alive(self) -> None:
        if self._failure is not None or not self._thread.is_alive():
            raise LoaderEndedError("the thread that loads experts has ended") from self._failure

    def _first_held(self, keys: Iterable[Key]) -> Key | None:
        for key in keys:
            entry = self._entries[key]
            if entry.error is not None:
                raise entry.error
            if entry.state in HELD:
                return key
        return None

    def is_here(self, key: Key) -> bool:
        """Say whether a load can be computed with."""
        with self._changed:
            entry = self._entries.get(key)
            return entry is not None and entry.state in HELD

    def pieces(self, key: Key) -> dict[str, Tensor]:
        """Return the bytes of a load that is here; they stay until it is `used`."""
        with self._changed:
            entry = self._entries[key]
            entry.state = BUSY
            self._is_used(entry)
            return self._bytes(entry)

    def used(self, key: Key) -> None:
        """Let a load give way when its slots are needed."""
        with self._changed:
            if key in self._entries:
                self._entries[key].state = USED
                self._changed.notify_all()

    def copy(self, key: Key, piece: str, into: Tensor) -> bool:
        """Copy a piece of a load, if it is still here; says whether it was."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None or entry.state not in HELD or entry.error is not None or piece not in entry.pieces:
                return False
            into.copy_(self._bytes(entry)[piece][: len(into)])
            self._is_used(entry)
            return True

    def keep(self, layer: int, experts: Iterable[int]) -> None:
        """Give back the slots of what is loaded of a layer, but for these experts."""
        kept = set(experts)
        with self._changed:
            for key in [key for key in self._entries if key[0] == layer and key[1] not in kept]:
                self._drop(key)
            self._changed.notify_all()

    def clear(self) -> None:
        """Give all slots back."""
        with self._changed:
            for key in list(self._entries):
                self._drop(key)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop; queued loads are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _bytes(self, entry: Entry) -> dict[str, Tensor]:
        return {
            piece: self._arena[slot * self._size : (slot + 1) * self._size]
            for piece, slot in zip(entry.pieces, entry.slots, strict=True)
        }

    @staticmethod
    def _is_used(entry: Entry) -> None:
        if entry.span is not None:
            entry.span.is_wasted = False

    def _drop(self, key: Key) -> None:
        entry = self._entries[key]
        if entry.state == LOADING:
            entry.is_dropped = True
            return
        del self._entries[key]
        self._free += entry.slots

    def _next(self) -> tuple[Key, Entry] | None:
        """Wait for a load that may begin, and give it its slots; None when closed."""
        with self._changed:
            while not self._closed:
                queued = [
                    (key not in self._awaited, e.priority, e.turn, key)
                    for key, e in self._entries.items()
                    if e.state == QUEUED
                ]
                if queued:
                    key = min(queued)[3]
                    entry = self._entries[key]
                    if self._make_room(entry):
                        assert len(self._free) >= len(entry.pieces), "staging is exceeded"
                        entry.slots = [self._free.pop() for _ in entry.pieces]
                        entry.state = LOADING
                        self.traffic.most_slots = max(self.traffic.most_slots, self.slots - len(self._free))
                        return key, entry
                self._changed.wait()
            return None

    def _make_room(self, entry: Entry) -> bool:
        """Free slots for a load, if that may be: of what is used, then, if it is waited for, of other loads.

        What computation stands still for takes the slots of what it will need afterwards: that is loaded again.
        """
        needed = len(entry.pieces)
        awaited = [self._entries[key] for key in self._awaited]
        is_awaited = any(e is entry for e in awaited) and not any(e.state in HELD for e in awaited)
        givers = sorted(
            (e.state != USED, -e.priority, -e.turn, key)
            for key, e in self._entries.items()
            if e.state == USED or (e.state == HERE and self._gives(e, entry, is_awaited))
        )
        for *_, key in givers:
            if len(self._free) >= needed:
                break
            self._give_up(key)
        return len(self._free) >= needed

    @staticmethod
    def _gives(other: Entry, entry: Entry, is_awaited: bool) -> bool:
        return entry.priority == WAITED_FOR and (is_awaited or other.priority > WAITED_FOR)

    def _give_up(self, key: Key) -> None:
        entry = self._entries[key]
        if entry.state == USED or entry.priority > WAITED_FOR:
            self._drop(key)
            return
        self._free += entry.slots
        entry.slots, entry.state = [], QUEUED

    def _run(self) -> None:
        try:
            self._load_all()
        except BaseException as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _load_all(self) -> None:
        while (found := self._next()) is not None:
            key, entry = found
            start, begun, error, size = time.perf_counter(), self._record.now(), None, 0
            try:
                self._far.read(*key, self._bytes(entry))
                size = self._far.layouts[key[0]].bytes_of(entry.pieces)
            except Exception as failure:
                error = failure
            with self._changed:
                self.traffic.add(key, size, time.perf_counter() - start)
                entry.span = self._record.add("load", begun, *key, size)
                entry.span.is_wasted = True  # Until something is computed with it.
                entry.error, entry.state = error, HERE
                if entry.is_dropped:
                    self._drop(key)
                self._changed.notify_all()
