"""The far memory: every expert, whole. Here it is ordinary memory; a store on a disk is another (`store_file.py`)."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from moe_compiler.runtime.packing import REST, SLICE, Layout
from moe_compiler.runtime.quantise import Packed


class FarMemory(Protocol):
    """Where experts lie that are not near."""

    @property
    def layouts(self) -> Mapping[int, Layout]:
        """How an expert of each decoder layer lies in bytes."""
        ...

    def read(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> None:
        """Copy pieces of an expert, each into bytes that hold it, padded.

        Raises:
            ValueError: a piece is damaged.
        """
        ...

    def matrices(self, layer: int, expert: int) -> tuple[Packed, ...]:
        """Return an expert to compute with where it lies, or as it passes by; good until the next call."""
        ...


class HostMemory:
    """A far memory in this process."""

    def __init__(self) -> None:
        self.layouts: dict[int, Layout] = {}
        self._pieces: dict[tuple[int, int, str], Tensor] = {}

    def add(self, layer: int, expert: int, matrices: tuple[Packed, ...]) -> None:
        """Take an expert in."""
        layout = self.layouts.setdefault(layer, Layout.of(matrices))
        pieces = layout.pack(matrices)
        self._pieces[layer, expert, SLICE], self._pieces[layer, expert, REST] = pieces

    def read(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> None:
        """See `FarMemory`."""
        for piece, room in into.items():
            data = self._pieces[layer, expert, piece]
            room[: len(data)].copy_(data)

    def matrices(self, layer: int, expert: int) -> tuple[Packed, ...]:
        """See `FarMemory`."""
        pieces = (self._pieces[layer, expert, piece] for piece in (SLICE, REST))
        return self.layouts[layer].views(*pieces)
