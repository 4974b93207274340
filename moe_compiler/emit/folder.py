"""Write an output folder whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path

from moe_passes.errors import InputError


def check_free(folder: Path) -> None:
    """Refuse an output folder early: before minutes of work.

    Raises:
        InputError: it exists, its parent is not a folder, or nothing can be written there.
    """
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


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a new folder beside the final one and rename it.

    Args:
        folder: the folder to make.
        files: content by path inside the folder.

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
        draft.chmod(0o755)
        os.rename(draft, folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise InputError(f"-o {folder}: cannot be written: {error.strerror}") from None
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
