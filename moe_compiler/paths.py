"""Asking the file system without surprises: only regular files of a stated size are read, and looked at before."""

import hashlib
import io
import math
import os
import stat
import zipfile
from collections.abc import Container
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from moe_passes.plan.errors import InputError

if TYPE_CHECKING:
    import numpy as np

MOST_TEXT_BYTES = 512 * 1024**2
"""Of IR, JSON and CSV: a hundred times what the largest model of ours takes."""
MOST_HEADER_BYTES = 2**17
"""Of an array in an .npz: more than its format's first version can say."""
MOST_ARRAY_BYTES = 1024**3
"""Of an array in an .npz, unpacked."""


def is_file(path: Path) -> bool:
    """Say whether a path is a regular file; a name that no file system takes is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Say whether a path is a regular file or a folder; a name that no file system takes is neither."""
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False


def whole(name: str, shipped: Container[str] = ()) -> str:
    """Return the whole path of a file or folder that is there; the name of what is shipped as it is."""
    path = Path(name)
    return name if name in shipped or not exists(path) else str(path.absolute())


def sha256_of(path: Path) -> str:
    """Return the digest of a file, of a model's folder that of its configuration; empty where there is none."""
    file = path / "config.json" if path.is_dir() else path
    if not is_file(file):
        return ""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_text(path: str | Path, most: int = MOST_TEXT_BYTES, encoding: str = "utf-8") -> str:
    """Read a regular file as text.

    A device, a pipe or a file without end is refused before anything is read.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `most`.
        UnicodeDecodeError: it is not text.
        ValueError: no file system takes its name.
    """
    return read_bytes(path, most).decode(encoding)


def read_bytes(path: str | Path, most: int) -> bytes:
    """Read a regular file.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `most`.
        ValueError: no file system takes its name.
    """
    # A pipe without a writer would be waited for; a regular file does not mind.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError("is not a regular file")
        return _at_most(file, most)


def _at_most(file: IO[bytes], most: int) -> bytes:
    content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"is larger than {most:,} bytes")
    return content


def read_stream(file: IO[bytes], most: int = MOST_TEXT_BYTES) -> str:
    """Read a stream to its end, as text.

    Raises:
        OSError: it is longer than `most`.
        UnicodeDecodeError: it is not text.
    """
    return _at_most(file, most).decode("utf-8")


def read_arrays(path: Path, names: set[str]) -> dict[str, "np.ndarray"]:
    """Read arrays of an .npz that are there; what they take is known from their headers before it is taken.

    Args:
        path: of the file.
        names: of the arrays that are wanted.

    Raises:
        InputError: no .npz, a header that is none, or an array that is too large, of objects, or cut short.
    """
    if not is_file(path) or not zipfile.is_zipfile(path):
        raise InputError(f"{path}: cannot be read: is not an .npz; valid: what numpy.savez_compressed writes")
    import numpy as np

    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(names & {member.removesuffix(".npy") for member in archive.namelist()}):
                _check_header(archive, name)
        with np.load(path, allow_pickle=False) as file:
            found = {}
            for name in sorted(names & set(file.files)):
                found[name] = np.asarray(file[name])
            return found
    except InputError as error:
        raise InputError(f"{path}: array '{name}' {error}") from None
    except Exception as error:
        # zipfile, zlib and numpy raise many things over bytes that are no archive: none of them is ours.
        raise InputError(f"{path}: array '{name}' cannot be read: {str(error)[:200]}") from None


def _check_header(archive: zipfile.ZipFile, name: str) -> None:
    import numpy as np

    member: Any
    with archive.open(f"{name}.npy") as member:
        # A header says itself how long it is, and would be read whole.
        start = io.BytesIO(member.read(MOST_HEADER_BYTES))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(start)
    size = math.prod(shape) * kind.itemsize
    if kind.hasobject or size > MOST_ARRAY_BYTES:
        raise InputError(f"is of {kind} and {size:,} bytes; valid: numbers or text, at most {MOST_ARRAY_BYTES:,} bytes")


def names_of(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [member.removesuffix(".npy") for member in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile):
        return []
