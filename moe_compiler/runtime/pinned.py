"""A far memory that a GPU copies from by itself: host memory that stays where it is, filled from a store once."""

import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from moe_compiler.runtime.cuda import Device, Event
from moe_compiler.runtime.far import Outcome, Pace, Scratch, booked, move, pace_of, rate_of
from moe_compiler.runtime.packing import REST, SLICE, padded, pages
from moe_compiler.runtime.quantise import Packed
from moe_compiler.runtime.store_file import StoreFile

MOST_UNDER_WAY = 4
"""Copies that the GPU has: more keep it busy while the model is in Python, fewer let what is urgent begin sooner."""


class Copies(NamedTuple):
    """Bytes on their way: those of each piece and the room that they go to; and how many of them count."""

    pairs: tuple[tuple[Tensor, Tensor], ...]
    bytes: int


class PinnedMemory:
    """All experts of a store in pinned host memory.

    Attributes:
        layouts: how an expert of each decoder layer lies in bytes.
        pace: that copies are held to: that of reads of the store.
        close: unpins the memory; nothing may move any more.

    Raises:
        ValueError: an expert of the store is damaged.
        MemoryError: so much cannot be pinned.
    """

    kind = "copies from pinned memory"

    def __init__(self, store: StoreFile, gpu: Device) -> None:
        self.layouts, self.pace = store.layouts, store.pace
        self._gpu = gpu
        self._arenas: list[Tensor] = []
        # Memory that goes back to the system must not be pinned any more.
        self.close = weakref.finalize(self, _unpin, gpu, self._arenas)
        self._pieces: dict[tuple[int, int, str], Tensor] = {}
        self._scratch = Scratch()
        try:
            for layer, entry in store.entries.experts.items():
                self._take_in(store, layer, len(entry["pieces"]))
        except BaseException:
            self.close()
            raise

    def _take_in(self, store: StoreFile, layer: int, experts: int) -> None:
        sizes = {SLICE: padded(self.layouts[layer].slice_bytes), REST: padded(self.layouts[layer].rest_bytes)}
        arena = pages(experts * sum(sizes.values()))
        self._gpu.pin(arena)
        self._arenas.append(arena)
        for expert in range(experts):
            for piece, size in sizes.items():
                self._pieces[layer, expert, piece], arena = arena[:size], arena[size:]
            into = {piece: self._pieces[layer, expert, piece] for piece in sizes}
            move(store.transfer(layer, expert, into), pace_of())

    @property
    def bytes_per_second(self) -> float | None:
        """See `FarMemory`."""
        return rate_of(self.pace)

    def rooms(self, size: int) -> Tensor:
        """See `FarMemory`."""
        return torch.empty(size, dtype=torch.uint8, device=self._gpu.device)

    def transfer(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> Copies:
        """See `FarMemory`."""
        pairs = tuple((self._pieces[layer, expert, piece], room) for piece, room in into.items())
        return Copies(pairs, self.layouts[layer].bytes_of(tuple(into)))

    def reader(self, places: int) -> "Copier":
        """See `FarMemory`."""
        return Copier(places, self._gpu, self.pace)

    def move(self, transfer: Copies) -> None:
        """See `FarMemory`; what the GPU computes afterwards comes after it."""
        _, until = booked(self.pace, transfer.bytes)
        for data, room in transfer.pairs:
            room[: len(data)].copy_(data)
        _sleep_until(until)

    def matrices(self, layer: int, expert: int) -> tuple[Packed, ...]:
        """See `FarMemory`."""
        return self._scratch.matrices(self, layer, expert)


def _unpin(gpu: Device, arenas: list[Tensor]) -> None:
    while arenas:
        gpu.unpin(arenas.pop())


def _sleep_until(nanoseconds: int, most_seconds: float = float("inf")) -> None:
    time.sleep(min(most_seconds, max(0, nanoseconds - time.perf_counter_ns()) * 1e-9))


@dataclass
class _Waiting:
    """A transfer that has not begun; nothing of it is written before the event `after`."""

    urgency: int
    copies: Copies
    after: Event


@dataclass(frozen=True)
class _UnderWay:
    """A transfer that the GPU has; where it is held to a rate, it moves from `begin` to `until`."""

    copies: Copies
    start: Event
    end: Event
    begin: int
    until: int


class Copier:
    """Copies what is submitted on a stream of its own, the most urgent first, a few at a time.

    A room is written when all is done that the GPU was to compute before its transfer was submitted. There is no
    thread: copies begin when they are submitted, or when this is asked what has ended.
    """

    def __init__(self, places: int, gpu: Device, pace: Pace) -> None:
        self._gpu, self._pace = gpu, pace
        self._free = list(range(places))
        self._waiting: dict[int, _Waiting] = {}
        self._under_way: dict[int, _UnderWay] = {}
        """In the order in which they began, which is that in which they end."""
        self._is_closed = False
        self._origin = gpu.mark()
        self._origin.synchronize()
        self._origin_ns = time.perf_counter_ns()

    def submit(self, transfer: Copies, urgency: int) -> int:
        """See `Mover`.

        Raises:
            IndexError: there is no place left.
            RuntimeError: the copier is closed.
        """
        if self._is_closed:
            raise RuntimeError("the copier is closed")
        place = self._free.pop()
        self._waiting[place] = _Waiting(urgency, transfer, self._gpu.mark())
        self._begin()
        return place

    def hurry(self, place: int, urgency: int) -> None:
        """See `Mover`."""
        if place in self._waiting:
            self._waiting[place].urgency = urgency

    def cancel(self, place: int) -> bool:
        """See `Mover`."""
        if self._waiting.pop(place, None) is None:
            return False
        self._free.append(place)
        return True

    def ended(self) -> list[Outcome]:
        """See `Mover`."""
        found: list[Outcome] = []
        while self._under_way:
            place, first = next(iter(self._under_way.items()))
            if not first.end.query() or time.perf_counter_ns() < first.until:
                break
            del self._under_way[place]
            self._free.append(place)
            found.append(self._outcome(place, first))
        self._begin()
        return found

    def wait(self, seconds: float) -> None:
        """See `Mover`."""
        if self._under_way:
            first = next(iter(self._under_way.values()))
            first.end.synchronize()
            _sleep_until(first.until, seconds)

    def close(self) -> None:
        """See `Mover`."""
        self._is_closed = True
        self._waiting.clear()
        for copying in self._under_way.values():
            copying.end.synchronize()

    def _begin(self) -> None:
        while self._waiting and len(self._under_way) < MOST_UNDER_WAY:
            place = min(self._waiting, key=lambda place: self._waiting[place].urgency)
            waiting = self._waiting.pop(place)
            events = self._gpu.copy(waiting.copies.pairs, waiting.after)
            self._under_way[place] = _UnderWay(waiting.copies, *events, *booked(self._pace, waiting.copies.bytes))

    def _outcome(self, place: int, copying: _UnderWay) -> Outcome:
        begun = self._gpu.seconds_between(self._origin, copying.start)
        # Of times that are long ago CUDA says no small part.
        took = self._gpu.seconds_between(copying.start, copying.end)
        start = self._origin_ns + round(begun * 1e9)
        return Outcome(place, max(start, copying.begin), max(start + round(took * 1e9), copying.until), None)
