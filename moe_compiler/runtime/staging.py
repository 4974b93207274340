"""Staging: slots of half an expert each, and what loads into them while the model computes.

What is waited for comes first, then prefetches by urgency, while slots are free. Nothing is ever held beyond the slots:
what has been computed gives way to what is to come, and prefetches that nobody waits for to what is waited for.
"""

import operator
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

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
GIVING = (USED, LOADING, HERE)
"""States of what gives its slots to others, in this order."""
NOWHERE = -1
MOST_TURNS = 2**32
BY_URGENCY = operator.attrgetter("urgency")
PATIENCE_SECONDS = 1.0
"""Between looks at whether what loads is still there."""


@dataclass
class Entry:
    """A load.

    Attributes:
        key: of the load.
        priority: lowest first.
        urgency: priority, then order of arrival; the lowest begins first.
        pieces: of the expert.
        slots: one for each piece, unless it is queued.
        state: `QUEUED`, `LOADING`: the reader has it, `HERE`, `BUSY`: computed with, or `USED`: computed, and kept
            while there is room.
        place: that the reader has it in.
        error: why it failed.
        is_dropped: whether nobody wants it any more while it is loading.
        span: in which it was loaded.
    """

    key: Key
    priority: int
    urgency: int
    pieces: tuple[str, ...]
    slots: list[int] = field(default_factory=list)
    state: int = QUEUED
    place: int = NOWHERE
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


def _urgency(priority: int, turn: int) -> int:
    return (1 + priority) * MOST_TURNS + turn


class Staging:
    """Slots, and what fills them meanwhile; what is loaded next is decided here, on the thread that computes.

    Attributes:
        slots: how many.
        traffic: what was loaded.
    """

    def __init__(self, far: FarMemory[Any], slots: int, record: Record | None = None) -> None:
        self.slots, self.traffic = slots, Traffic()
        self._record = record or Record()
        self._far = far
        sizes = [padded(max(layout.slice_bytes, layout.rest_bytes)) for layout in far.layouts.values()]
        self._size = max(sizes, default=0)
        arena = far.rooms(slots * self._size)
        self._rooms = [arena[slot * self._size : (slot + 1) * self._size] for slot in range(slots)]
        self._free = list(range(slots))
        self._entries: dict[Key, Entry] = {}
        self._queued: dict[Key, Entry] = {}
        """Those of the entries that have no slots."""
        self._loading: dict[int, Entry] = {}
        """Those that the reader has, by their place there."""
        self._turn = 0
        self._awaited: list[Key] = []
        self._reader = far.reader(slots)

    @property
    def bytes(self) -> int:
        """Bytes of all slots."""
        return self.slots * self._size

    def request(self, loads: Iterable[Load]) -> None:
        """Queue loads, or make those that are queued more urgent.

        Raises:
            RuntimeError: staging is closed.
            ReaderEndedError: there is nobody to load them.
        """
        for load in loads:
            self._queue(*load)
        self._advance()

    def _queue(self, key: Key, priority: int, pieces: tuple[str, ...]) -> None:
        entry = self._entries.get(key)
        while entry is not None and entry.pieces != pieces:
            # What HB keeps of it has changed since: the load that is under way ends, and is not the one asked for.
            self._drop(key)
            if key in self._entries:
                self._reader.wait(PATIENCE_SECONDS)
                self._collect()
            entry = self._entries.get(key)
        if entry is None:
            self._turn += 1
            self._entries[key] = self._queued[key] = Entry(key, priority, _urgency(priority, self._turn), pieces)
            return
        entry.is_dropped = False
        entry.state = HERE if entry.state == USED else entry.state
        if priority < entry.priority:
            entry.priority = priority
            self._hurry(entry, _urgency(priority, entry.urgency % MOST_TURNS))

    def _hurry(self, entry: Entry, urgency: int) -> None:
        entry.urgency = urgency
        if entry.state == LOADING:
            self._reader.hurry(entry.place, urgency)

    def holds(self, key: Key) -> bool:
        """Say whether something is queued, loading or here."""
        return key in self._entries

    def wait_for_any(self, keys: Iterable[Key]) -> Key:
        """Wait until one of several requested loads is here, and return it, the first of those that are.

        Raises:
            ValueError: one of them failed: what it read is damaged.
            ReaderEndedError: there is nobody to load it.
        """
        awaited = list(keys)
        self._collect()
        if (found := self._first_held(awaited)) is not None:
            return found
        start, begun = time.perf_counter(), self._record.now()
        self._awaited = awaited
        for key in awaited:
            # Computation stands still for these: before all others, in turn, until one of them is here.
            self._hurry(self._entries[key], self._entries[key].urgency % MOST_TURNS)
        try:
            self._advance()
            while (found := self._first_held(awaited)) is None:
                self._reader.wait(PATIENCE_SECONDS)
                self._advance()
            self._record.add("wait", begun, *found)
            return found
        finally:
            self._awaited = []
            for entry in (self._entries[key] for key in awaited if key in self._entries):
                self._hurry(entry, _urgency(entry.priority, entry.urgency % MOST_TURNS))
            self.traffic.waited_seconds += time.perf_counter() - start

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
        self._collect()
        entry = self._entries.get(key)
        return entry is not None and entry.state in HELD

    def pieces(self, key: Key) -> dict[str, Tensor]:
        """Return the bytes of a load that is here; they stay until it is `used`."""
        entry = self._entries[key]
        entry.state = BUSY
        self._is_used(entry)
        return self._bytes(entry.pieces, entry.slots)

    def used(self, key: Key) -> None:
        """Let a load give way when its slots are needed."""
        if key in self._entries:
            self._entries[key].state = USED
            self._advance()

    def copy(self, key: Key, piece: str, into: Tensor) -> bool:
        """Copy a piece of a load, if it is still here; says whether it was."""
        self._collect()
        entry = self._entries.get(key)
        if entry is None or entry.state not in HELD or entry.error is not None or piece not in entry.pieces:
            return False
        into.copy_(self._bytes(entry.pieces, entry.slots)[piece][: len(into)])
        self._is_used(entry)
        return True

    def keep(self, layer: int, experts: Iterable[int]) -> None:
        """Give back the slots of what is loaded of a layer, but for these experts."""
        kept = set(experts)
        for key in [key for key in self._entries if key[0] == layer and key[1] not in kept]:
            self._drop(key)
        self._advance()

    def clear(self) -> None:
        """Give all slots back."""
        for key in list(self._entries):
            self._drop(key)

    def close(self) -> None:
        """Stop; queued loads are dropped."""
        self._reader.close()

    def _bytes(self, pieces: tuple[str, ...], slots: list[int]) -> dict[str, Tensor]:
        return {piece: self._rooms[slot] for piece, slot in zip(pieces, slots, strict=True)}

    @staticmethod
    def _is_used(entry: Entry) -> None:
        if entry.span is not None:
            entry.span.is_wasted = False

    def _drop(self, key: Key) -> None:
        """Forget a load; one that is moving is forgotten when it has moved."""
        entry = self._entries[key]
        if entry.state == LOADING and not self._reader.cancel(entry.place):
            entry.is_dropped = True
            return
        self._loading.pop(entry.place, None)
        del self._entries[key]
        self._queued.pop(key, None)
        self._free += entry.slots

    def _advance(self) -> None:
        """Take in what has been loaded, and let the reader have what is most urgent, as far as there is room."""
        self._collect()
        while self._queued:
            entry = min(self._queued.values(), key=BY_URGENCY)
            if not self._make_room(entry):
                return
            assert len(self._free) >= len(entry.pieces), "staging is exceeded"
            slots = self._free[-len(entry.pieces) :]
            transfer = self._far.transfer(*entry.key, self._bytes(entry.pieces, slots))
            place = self._reader.submit(transfer, entry.urgency)
            del self._queued[entry.key], self._free[-len(slots) :]
            entry.slots, entry.state, entry.place = slots, LOADING, place
            self._loading[place] = entry
            self.traffic.most_slots = max(self.traffic.most_slots, self.slots - len(self._free))

    def _collect(self) -> None:
        """Take in what has been loaded."""
        for place, start, end, error in self._reader.ended():
            entry = self._loading.pop(place)
            size = 0 if error else self._far.layouts[entry.key[0]].bytes_of(entry.pieces)
            self.traffic.add(entry.key, size, (end - start) * 1e-9)
            entry.span = self._record.loaded((start, end), *entry.key, size)
            entry.error, entry.state, entry.place = error, HERE, NOWHERE
            if entry.is_dropped:
                self._drop(entry.key)

    def _make_room(self, entry: Entry) -> bool:
        """Free slots for a load, if that may be.

        First of what is used, then of less urgent loads that have not begun, then, if this one is waited for, of other
        loads: what computation stands still for takes the slots of what it will need afterwards, which is loaded again.
        """
        needed = len(entry.pieces)
        if len(self._free) >= needed:
            return True
        is_awaited = entry.key in self._awaited and not any(self._entries[key].state in HELD for key in self._awaited)
        givers = [
            e
            for e in self._entries.values()
            if e.state == USED
            or (e.state == LOADING and e.urgency > entry.urgency)
            or (e.state == HERE and e.key not in self._awaited and self._gives(e, entry, is_awaited))
        ]
        for giver in sorted(givers, key=lambda e: (GIVING.index(e.state), -e.urgency)):
            if len(self._free) >= needed:
                break
            self._give_up(giver)
        return len(self._free) >= needed

    @staticmethod
    def _gives(other: Entry, entry: Entry, is_awaited: bool) -> bool:
        return entry.priority == WAITED_FOR and (is_awaited or other.priority > WAITED_FOR)

    def _give_up(self, entry: Entry) -> None:
        if entry.state == LOADING:
            if not self._reader.cancel(entry.place):
                return
            del self._loading[entry.place]
        elif entry.state == USED or entry.priority > WAITED_FOR:
            self._drop(entry.key)
            return
        self._free += entry.slots
        entry.slots, entry.state, entry.place = [], QUEUED, NOWHERE
        self._queued[entry.key] = entry
