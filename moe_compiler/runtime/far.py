"""The far memory: every expert, whole, and what moves experts from there while the model computes.

Ordinary memory is one (`host_memory.py`), a store on a disk another (`store_file.py`), and memory that a GPU copies
from by itself a third (`pinned.py`).
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from torch import Tensor

from moe_compiler.runtime import native
from moe_compiler.runtime.packing import REST, SLICE, Layout, padded
from moe_compiler.runtime.quantise import Packed

Pace: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"
"""What moves is held to, whoever moves it: see `native.RATE`."""


def pace_of(bytes_per_second: float | None = None) -> Pace:
    """Return the pace of so many bytes per second; None: as fast as it goes."""
    return np.array([0 if bytes_per_second is None else max(1, round(bytes_per_second)), 0], dtype=np.int64)


def rate_of(pace: Pace) -> float | None:
    """Return the bytes per second of a pace; None: as fast as it goes."""
    return float(pace[native.RATE]) or None


def booked(pace: Pace, size: int) -> tuple[int, int]:
    """Give bytes that are asked for now their time at a pace: its beginning and its end; 0, 0 where that has no rate.

    Both are nanoseconds of `time.perf_counter_ns`.
    """
    if not pace[native.RATE]:
        return 0, 0
    end = int(native.booked(pace, size, time.perf_counter_ns()))
    return end - int(size * 1e9 / pace[native.RATE]), end


class Transfer(NamedTuple):
    """Bytes on their way into rooms.

    Attributes:
        file: the descriptor that they are read from, or `native.MEMORY`.
        parts: what moves: a position in the file, or an address; bytes, whole pages of a file; and where they go.
        bytes: that count: those of padding do not.
        is_checked: whether `check` looks at them when they are there, and not only where reading failed.
        check: looks at what became of it: 0, or what `native.move` returns else.
            Raises ValueError where something is damaged, OSError where it cannot be read.
        keeps: what lies at the addresses: it must not go while bytes move.
    """

    file: int
    parts: tuple[tuple[int, int, int], ...]
    bytes: int
    is_checked: bool
    check: Callable[[int], Any]
    keeps: object


class Outcome(NamedTuple):
    """What became of a transfer: when it ran, in nanoseconds of `time.perf_counter_ns`, and why it failed."""

    place: int
    start: int
    end: int
    error: Exception | None


Moved = TypeVar("Moved")
"""A transfer, as a far memory describes it."""
MovedIn = TypeVar("MovedIn", contravariant=True)


class Mover(Protocol[MovedIn]):
    """Makes transfers beside the thread that computes, which alone calls it; each has a place as long as it lasts."""

    def submit(self, transfer: MovedIn, urgency: int) -> int:
        """Let bytes move, before what is less urgent (higher); returns the place of the transfer."""
        ...

    def hurry(self, place: int, urgency: int) -> None:
        """Change the urgency of a transfer that may not have begun."""
        ...

    def cancel(self, place: int) -> bool:
        """Take a transfer back, if it has not begun; says whether it had not."""
        ...

    def ended(self) -> list[Outcome]:
        """Return what has ended since this was last asked, in the order in which it did."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait until something ends that `ended` has not returned, or so long; it may return sooner."""
        ...

    def close(self) -> None:
        """Stop, when what is moving has moved."""
        ...


class FarMemory(Protocol[Moved]):
    """Where experts lie that are not near."""

    @property
    def layouts(self) -> Mapping[int, Layout]:
        """How an expert of each decoder layer lies in bytes."""
        ...

    @property
    def kind(self) -> str:
        """How experts come from here, in words."""
        ...

    @property
    def bytes_per_second(self) -> float | None:
        """What transfers from here are held to (emulated); None: they are as fast as they are."""
        ...

    def rooms(self, size: int) -> Tensor:
        """Return so many bytes of the near memory that transfers from here can go to: [byte] uint8."""
        ...

    def transfer(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> Moved:
        """Return how pieces of an expert come into rooms that hold them, padded."""
        ...

    def reader(self, places: int) -> Mover[Moved]:
        """Return what makes so many transfers from here, while the model computes."""
        ...

    def move(self, transfer: Moved) -> None:
        """Make a transfer, here and now.

        Raises:
            ValueError: something is damaged.
            OSError: it cannot be read.
        """
        ...

    def matrices(self, layer: int, expert: int) -> tuple[Packed, ...]:
        """Return an expert to compute with where it lies, or as it passes by; good until the next call."""
        ...


class Scratch:
    """Rooms that experts of a far memory pass through, one at a time: a pair for each layout that they have."""

    def __init__(self) -> None:
        self._rooms: dict[Layout, dict[str, Tensor]] = {}

    def matrices(self, far: FarMemory[Any], layer: int, expert: int) -> tuple[Packed, ...]:
        """Read an expert; good until the next one is read."""
        layout = far.layouts[layer]
        if layout not in self._rooms:
            sizes = {SLICE: layout.slice_bytes, REST: layout.rest_bytes}
            self._rooms[layout] = {piece: far.rooms(padded(size)) for piece, size in sizes.items()}
        rooms = self._rooms[layout]
        read(far, layer, expert, rooms)
        return layout.views(rooms[SLICE], rooms[REST])


def move(transfer: Transfer, pace: Pace) -> None:
    """Make a transfer, here and now.

    Raises:
        ValueError: something is damaged.
        OSError: it cannot be read.
    """
    if not transfer.parts:
        return
    nothing = np.zeros(1, dtype=np.int64)
    status = int(native.move(transfer.file, np.array(transfer.parts, dtype=np.int64), transfer.bytes, pace, nothing))
    if status or transfer.is_checked:
        transfer.check(status)


def read(far: FarMemory[Any], layer: int, expert: int, into: Mapping[str, Tensor]) -> None:
    """Read pieces of an expert, here and now.

    Raises:
        ValueError: a piece is damaged.
        OSError: it cannot be read.
    """
    far.move(far.transfer(layer, expert, into))
