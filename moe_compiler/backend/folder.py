"""Write an output folder or file whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from moe_passes.plan.errors import InputError

LONGEST_NAME = 200


def check_free(folder: Path) -> None:
    """Refuse an output folder early: before minutes of work.

    Raises:
        InputError: it exists, its parent is not a folder, or nothing can be written there.
    """
    if len(folder.name) > LONGEST_NAME:
        raise InputError(f"-o {folder.name[:40]}…: {len(folder.name)} characters; valid: up to {LONGEST_NAME}")
    if folder.exists() or folder.is_symlink():
        raise InputError(f"-o {folder}: exists already; valid: a folder that does not exist yet")
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise InputError(f"-o {folder}: '{parent}' is not a folder")
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}."):
            pass
    except OSError as error:
        raise InputError(f"-o {folder}: cannot write into '{parent}': {error.strerror}") from None


def write_folder(folder: Path, files: dict[str, bytes], finish: Callable[[Path], None] | None = None) -> None:
    """Write files into a new folder beside the final one and rename it.

    Args:
        folder: the folder to make.
        files: content by path inside the folder.
        finish: adds to the folder before it gets its name.

    Raises:
        InputError: as `check_free`, or the disk is full.
    """
    check_free(folder)
    draft = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}."))
    try:
        for name, content in files.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if finish is not None:
            finish(draft)
        draft.chmod(0o755)
        os.rename(draft, folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise InputError(f"-o {folder}: cannot be written: {error.strerror}") from None
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def check_file(path: Path | None) -> None:
    """Refuse an output file early: before minutes of work.

    Raises:
        InputError: not the path of a file in a folder that exists.
    """
    if path is not None and (not path.name or path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(f"-o '{path}': valid: the path of a file in a folder that exists")


def check_beside(folder: Path, path: Path | None) -> None:
    """Refuse an output that would replace a file of a compile.

    Raises:
        InputError: it would.
    """
    check_file(path)
    if path is None or path.suffix == ".html" or not path.exists():
        return
    if path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"-o {path}: is a file of the compile; valid: another name")


def write_file(path: Path, text: str) -> None:
    """Write a text file as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside the final one and rename it; a device or pipe is written to as it is.

    Raises:
        InputError: it is a folder, or it cannot be written.
    """
    path = path.resolve()
    if path.is_dir():
        raise InputError(f"-o {path}: is a folder; valid: a file")
    draft = ""
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(draft).chmod(0o644)
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"-o {path}: cannot be written: {error.strerror}") from None
    finally:
        if draft:
            Path(draft).unlink(missing_ok=True)
