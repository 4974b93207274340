"""A store: a model's weights in one file, cut into slices, that direct reads reach piece by piece (docs/run.md).

A preamble of 32 bytes (magic, version, CRC-32, offset and size of the header), pieces that each begin on a page, and
the header: JSON that says what lies where, with a CRC-32 for every piece.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch
from isal import isal_zlib
from torch import Tensor

from moe_compiler.runtime.far import Scratch, Transfer, move, pace_of
from moe_compiler.runtime.native import CUT_OFF
from moe_compiler.runtime.packing import PAGE, REST, SLICE, Layout, padded, pages
from moe_compiler.runtime.quantise import Packed
from moe_compiler.runtime.reader import Addressed

MAGIC, VERSION = b"MOESTORE", 1
PREAMBLE = struct.Struct("<8sIIQQ")
LARGEST_HEADER = 2**26
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
)
LARGEST_TOKENIZER_FILE = 2**26
BLOCK_BYTES = 2**22
"""Of a matrix that is read through."""
KEPT_ROWS = 256
"""Of an embedding that were read last: what is drafted is verified next."""
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
Piece = tuple[int, int, int]
"""Offset, bytes, CRC-32."""


Asked = tuple[Piece, Tensor]
"""A piece, and the bytes that it is read into, which hold its pages."""


class StoreWriter:
    """Writes a store beside its place, and moves it there when it is whole.

    Raises:
        OSError: it cannot be written; nothing is left then.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self._part = path, path.with_name(f".{path.name}.part")
        self._header: dict[str, Any] = {"config": config, "dense": {}, "raw": {}, "experts": {}, "files": {}}
        self._file: BinaryIO = self._part.open("wb")
        self._file.write(bytes(PREAMBLE.size))

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def add_dense(self, name: str, packed: Packed) -> None:
        """Write a matrix that `linear` multiplies with."""
        self._header["dense"][name] = {"shape": [len(packed.top), packed.inputs], **self._pieces((packed,))}

    def add_expert(self, layer: int, matrices: tuple[Packed, ...]) -> None:
        """Write the next expert of a decoder layer."""
        shapes = [list(shape) for shape in Layout.of(matrices).shapes]
        entry = self._header["experts"].setdefault(str(layer), {"shapes": shapes, "pieces": []})
        entry["pieces"].append(self._pieces(matrices))

    def add_raw(self, name: str, tensor: Tensor) -> None:
        """Write a tensor as it is."""
        code = next(code for code, dtype in DTYPES.items() if dtype == tensor.dtype)
        data = tensor.detach().contiguous().flatten().view(torch.uint8)
        self._header["raw"][name] = {"shape": list(tensor.shape), "dtype": code, "piece": self._write(data.numpy())}

    def add_file(self, name: str, content: bytes) -> None:
        """Write a small file, a tokenizer's for example."""
        self._header["files"][name] = self._write(np.frombuffer(content, dtype=np.uint8))

    def _pieces(self, matrices: tuple[Packed, ...]) -> dict[str, Piece]:
        layout = Layout.of(matrices)
        piece, rest = layout.pack(matrices)
        return {
            SLICE: self._write(piece.numpy()[: layout.slice_bytes]),
            REST: self._write(rest.numpy()[: layout.rest_bytes]),
        }

    def _write(self, data: "np.ndarray[Any, np.dtype[np.uint8]]") -> Piece:
        offset = padded(self._file.tell())
        self._file.seek(offset)
        self._file.write(data.data)
        return offset, len(data), isal_zlib.crc32(data.data)

    def _finish(self) -> None:
        header = json.dumps(self._header, sort_keys=True).encode()
        offset = padded(self._file.tell())
        self._file.seek(offset)
        self._file.write(header)
        # Direct reads take whole pages.
        self._file.truncate(padded(offset + len(header)))
        self._file.seek(0)
        self._file.write(PREAMBLE.pack(MAGIC, VERSION, isal_zlib.crc32(header), offset, len(header)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.replace(self.path)


@dataclass(frozen=True)
class Entries:
    """What a store holds, by name.

    Attributes:
        config: the model's `config.json`.
        dense: (out, in) and pieces of matrices.
        raw: shape, type and piece of other tensors.
        experts: (out, in) of an expert's matrices and the pieces of each, by decoder layer.
        files: pieces of files.
    """

    config: dict[str, Any]
    dense: Mapping[str, dict[str, Any]]
    raw: Mapping[str, dict[str, Any]]
    experts: Mapping[int, dict[str, Any]]
    files: Mapping[str, Piece]


class StoreFile(Addressed):
    """A store that is read: the far memory of a run.

    Attributes:
        path: of the file.
        entries: what it holds.
        layouts: how an expert of each decoder layer lies in bytes.
        is_direct: whether reads go past the page cache.

    Raises:
        ValueError: it is no store of this version, or damaged.
    """

    def __init__(self, path: Path, bytes_per_second: float | None = None) -> None:
        super().__init__(bytes_per_second)
        self.path = path
        if not path.is_file():
            raise ValueError(f"{path}: no such store; valid: a file that `moec pack` wrote")
        self._size = path.stat().st_size
        self.entries = _entries(path, self._size)
        self.layouts = {
            layer: Layout(tuple((int(out), int(inputs)) for out, inputs in entry["shapes"]))
            for layer, entry in self.entries.experts.items()
        }
        self._file, self.is_direct = open_direct(path)
        self._row = lru_cache(KEPT_ROWS)(self._read_row)
        self._sound: set[int] = set()
        self._scratch = Scratch()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def transfer(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> Transfer:
        """See `FarMemory`."""
        pieces = self.entries.experts[layer]["pieces"][expert]
        return self._transfer(
            [(pieces[piece], room) for piece, room in into.items()],
            lambda number: f"the {list(into)[number]} of expert {expert} of layer {layer}",
        )

    @property
    def kind(self) -> str:
        """See `FarMemory`."""
        return "direct reads" if self.is_direct else "reads through the page cache"

    def matrices(self, layer: int, expert: int) -> tuple[Packed, ...]:
        """See `FarMemory`."""
        return self._scratch.matrices(self, layer, expert)

    def dense(self, name: str) -> Packed:
        """Read a matrix."""
        entry = self.entries.dense[name]
        layout = Layout(((int(entry["shape"][0]), int(entry["shape"][1])),))
        buffers = pages(layout.slice_bytes), pages(layout.rest_bytes)
        asked = [(entry[SLICE], buffers[0]), (entry[REST], buffers[1])]
        self._read(asked, lambda number: f"the {(SLICE, REST)[number]} of {name}")
        return layout.views(*buffers)[0]

    def raw(self, name: str) -> Tensor:
        """Read another tensor."""
        entry = self.entries.raw[name]
        into = pages(entry["piece"][1])
        self._read([(entry["piece"], into)], lambda _: name)
        data = into[: entry["piece"][1]].clone()
        return data.view(DTYPES[entry["dtype"]]).view(entry["shape"])

    def check_rows(self, name: str) -> None:
        """Read a matrix through, a block at a time.

        Raises:
            ValueError: it is damaged, or holds numbers that are not finite.
        """
        entry = self.entries.raw[name]
        offset, size, code = entry["piece"]
        block, found = pages(min(BLOCK_BYTES, size)), 0
        for first in range(0, size, BLOCK_BYTES):
            part = min(BLOCK_BYTES, size - first)
            self._fill(offset + first, part, block, name)
            found = isal_zlib.crc32(block.numpy().data[:part], found)
            if not block[:part].view(DTYPES[entry["dtype"]]).isfinite().all():
                raise ValueError(f"{self.path}: {name} holds numbers that are not finite; pack the model again")
        if found != code:
            raise ValueError(f"{self.path}: {name} is damaged (CRC-32 differs); pack the model again")

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Read rows of a matrix: [.., columns] float32 for ids [..].

        Raises:
            IndexError: it has no such row.
            ValueError: it is cut off.
        """
        rows = [self._row(name, row) for row in ids.flatten().tolist()]
        return torch.stack(rows).view(*ids.shape, -1).to(torch.float32)

    def _read_row(self, name: str, row: int) -> Tensor:
        entry = self.entries.raw[name]
        dtype, (count, columns) = DTYPES[entry["dtype"]], entry["shape"]
        if not 0 <= row < count:
            raise IndexError(f"{name} has no row {row}")
        width = columns * dtype.itemsize
        before = (entry["piece"][0] + row * width) % PAGE
        block = pages(before + width)
        self._fill(entry["piece"][0] + row * width - before, before + width, block, name)
        return block[before : before + width].clone().view(dtype)

    def file(self, name: str) -> bytes:
        """Read a file."""
        piece = self.entries.files[name]
        into = pages(piece[1])
        self._read([(piece, into)], lambda _: name)
        return into[: piece[1]].numpy().tobytes()

    def _read(self, asked: Sequence[Asked], name: Callable[[int], str]) -> None:
        """Read pieces, here and now, as fast as they are."""
        move(self._transfer(asked, name), pace_of())

    def _fill(self, offset: int, size: int, room: Tensor, name: str) -> None:
        """Read what is no whole piece."""
        move(self._transfer([((offset, size, 0), room)], lambda _: name)._replace(is_checked=False), pace_of())

    def _transfer(self, asked: Sequence[Asked], name: Callable[[int], str]) -> Transfer:
        """Return how pieces are read, and checked if they were not before; what has no bytes is read already."""
        parts, total, is_checked = [], 0, False
        for (offset, size, _), room in asked:
            if size:
                parts.append((offset, padded(size), room.data_ptr()))
                assert len(room) >= padded(size)
            total += size
            is_checked = is_checked or offset not in self._sound
        return Transfer(self._file, tuple(parts), total, is_checked, partial(self._check, asked, name), asked)

    def _check(self, asked: Sequence[Asked], name: Callable[[int], str], status: int) -> None:
        if status == CUT_OFF:
            names = " or ".join(map(name, range(len(asked))))
            raise ValueError(f"{self.path}: {names} is cut off; pack the model again")
        if status:
            raise OSError(status, os.strerror(status), str(self.path))
        for number, ((offset, size, code), room) in enumerate(asked):
            if offset not in self._sound and isal_zlib.crc32(room.numpy().data[:size]) != code:
                raise ValueError(f"{self.path}: {name(number)} is damaged (CRC-32 differs); pack the model again")
            # A set takes one at a time, whichever thread adds it.
            self._sound.add(offset)


def open_direct(path: Path) -> tuple[int, bool]:
    """Open for direct reads where the file system has them."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT), True
    except OSError:
        return os.open(path, os.O_RDONLY), False


def _entries(path: Path, size: int) -> Entries:
    try:
        with path.open("rb") as file:
            magic, version, code, offset, length = PREAMBLE.unpack(file.read(PREAMBLE.size))
            if magic != MAGIC:
                raise ValueError("is no store; valid: a file that `moec pack` wrote")
            if version != VERSION:
                raise ValueError(f"is of version {version}; valid: {VERSION}; pack the model again")
            if length > LARGEST_HEADER or offset + length > size:
                raise ValueError("is cut off: its header is missing; pack the model again")
            file.seek(offset)
            header = file.read(length)
        if isal_zlib.crc32(header) != code:
            raise ValueError("has a damaged header (CRC-32 differs); pack the model again")
        content = json.loads(header)
        found = Entries(
            dict(content["config"]),
            dict(content["dense"]),
            dict(content["raw"]),
            {int(layer): entry for layer, entry in content["experts"].items()},
            dict(content["files"]),
        )
        _check_places(found, size)
        return found
    except (struct.error, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(f"{path}: is no store, or damaged: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check_places(entries: Entries, size: int) -> None:
    """Refuse pieces that lie outside of the file or have not the bytes of their shape."""
    for name, entry in entries.dense.items():
        _check_pieces(name, Layout((_shape(entry["shape"]),)), entry, size)
    for layer, entry in entries.experts.items():
        layout = Layout(tuple(_shape(shape) for shape in entry["shapes"]))
        for expert, pieces in enumerate(entry["pieces"]):
            _check_pieces(f"expert {expert} of layer {layer}", layout, pieces, size)
    for name, entry in entries.raw.items():
        elements = math.prod(_count(value) for value in entry["shape"])
        _check_piece(name, entry["piece"], DTYPES[entry["dtype"]].itemsize * elements, size)
    for name, piece in entries.files.items():
        if name not in TOKENIZER_FILES or _count(piece[1]) > LARGEST_TOKENIZER_FILE:
            raise ValueError(f"holds a file '{name[:40]}'; valid: {', '.join(TOKENIZER_FILES)}, of at most 64 MiB")
        _check_piece(name, piece, _count(piece[1]), size)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"holds {str(value)[:40]!r} where a count is expected")
    return value


def _shape(values: Any) -> tuple[int, int]:
    out, inputs = (_count(value) for value in values)
    if not (0 < out < 2**31 and 0 < inputs < 2**31):
        raise ValueError(f"holds a matrix of {out} times {inputs}")
    return out, inputs


def _check_pieces(name: str, layout: Layout, entry: Mapping[str, Any], size: int) -> None:
    for piece, expected in ((SLICE, layout.slice_bytes), (REST, layout.rest_bytes)):
        _check_piece(f"the {piece} of {name}", entry[piece], expected, size)


def _check_piece(what: str, piece: Any, expected: int, size: int) -> None:
    offset, length, _ = (_count(value) for value in piece)
    if length != expected or offset < PREAMBLE.size or offset % PAGE:
        raise ValueError(f"has {what} at {offset}, {length} bytes; valid: {expected} bytes that begin on a page")
    if offset + padded(length) > size:
        raise ValueError(f"is cut off: {what} is missing; pack the model again")
