"""A far memory that is ordinary memory of this process."""

from collections.abc import Mapping

from torch import Tensor

from moe_compiler.runtime import native
from moe_compiler.runtime.far import Transfer
from moe_compiler.runtime.packing import REST, SLICE, Layout
from moe_compiler.runtime.quantise import Packed
from moe_compiler.runtime.reader import Addressed


class HostMemory(Addressed):
    """A far memory in this process."""

    kind = "copies in memory"

    def __init__(self) -> None:
        super().__init__()
        self.layouts: dict[int, Layout] = {}
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
