"""Tokenizers, from a folder or out of a store; no code of their own is run."""

import json
import tempfile
from pathlib import Path
from typing import Any

from moe_compiler.runtime.huggingface import quiet_transformers
from moe_compiler.runtime.store_file import StoreFile


def tokenizer(source: Path | StoreFile) -> Any:
    """Load a tokenizer.

    Raises:
        ValueError: there is none, or it cannot be loaded.
    """
    if isinstance(source, Path):
        return _load(source, source)
    with tempfile.TemporaryDirectory() as folder:
        for name in source.entries.files:
            if "/" not in name and not name.startswith("."):
                (Path(folder) / name).write_bytes(source.file(name))
        (Path(folder) / "config.json").write_text(json.dumps(source.entries.config))
        return _load(Path(folder), source.path)


def _load(folder: Path, source: Path) -> Any:
    from transformers import AutoTokenizer

    if not any(path.name.startswith(("tokenizer", "vocab")) for path in folder.iterdir()):
        raise ValueError(f"{source}: has no tokenizer; valid: a folder, or a store made of one, with tokenizer.json")
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{source}: its tokenizer cannot be loaded: {reason[0][:200]}") from None
