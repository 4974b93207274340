"""The far memory: every expert, whole. Here it is ordinary memory; a store on a disk is another (`store_file.py`)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from torch import Tensor

from moe_compiler.runtime import native
from moe_compiler.runtime.packing import REST, SLICE, Layout
from moe_compiler.runtime.quantise import Packed

Pace: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"
"""What moves is held to, whoever moves it: see `native.RATE`."""


def pace_of(bytes_per_second: float | None = None) -> Pace:
    """Return the pace of so many bytes per second; None: as fast as it goes."""
    return np.array([0 if bytes_per_second is None else max(1, round(bytes_per_second)), 0], dtype=np.int64)


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


class FarMemory(Protocol):
    """Where experts lie that are not near."""

    @property
    def layouts(self) -> Mapping[int, Layout]:
        """How an expert of each decoder layer lies in bytes."""
        ...

    @property
    def pace(self) -> Pace:
        """What transfers from here are held to."""
        ...

    def transfer(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> Transfer:
        """Return how pieces of an expert come into bytes that hold them, padded."""
        ...

    def matrices(self, layer: int, expert: int) -> tuple[Packed, ...]:
        """Return an expert to compute with where it lies, or as it passes by; good until the next call."""
        ...


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


def read(far: FarMemory, layer: int, expert: int, into: Mapping[str, Tensor]) -> None:
    """Read pieces of an expert, here and now.

    Raises:
        ValueError: a piece is damaged.
        OSError: it cannot be read.
    """
    move(far.transfer(layer, expert, into), far.pace)


class HostMemory:
    """A far memory in this process."""

    def __init__(self) -> None:
        self.layouts: dict[int, Layout] = {}
        self.pace = pace_of()
        self._pieces: dict[tuple[int, int, str], Tensor] = {}

    def add(self, layer: int, expert: int, matrices: tuple[Packed, ...]) -> None:
        """Take an expert in."""
        layout = self.layouts.setdefault(layer, Layout.of(matrices))
        pieces = layout.pack(matrices)
        self._pieces[layer, expert, SLICE], self._pieces[layer, expert, REST] = pieces

    def transfer(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> Transfer:
        """See `FarMemory`."""
        held = [(self._pieces[layer, expert, piece], room) for piece, room in into.items()]
        assert all(len(room) >= len(data) for data, room in held)
        parts = tuple((data.data_ptr(), len(data), room.data_ptr()) for data, room in held)
        size = self.layouts[layer].bytes_of(tuple(into))
        return Transfer(native.MEMORY, parts, size, False, lambda status: None, held)

    def matrices(self, layer: int, expert: int) -> tuple[Packed, ...]:
        """See `FarMemory`."""
        pieces = (self._pieces[layer, expert, piece] for piece in (SLICE, REST))
        return self.layouts[layer].views(*pieces)
