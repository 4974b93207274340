"""Asking the file system without surprises."""

from pathlib import Path


def is_file(path: Path) -> bool:
    """Say whether a path is a regular file; a name that no file system takes is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
