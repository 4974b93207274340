"""Tokenizers, from a folder or out of a store; no code of their own is run, and what fails in them is their error."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from moe_compiler.runtime.bounded import Limits, bounded, reason_of
from moe_compiler.runtime.huggingface import quiet_transformers
from moe_compiler.runtime.store_file import StoreFile

T = TypeVar("T")

CHAT = Limits(10, 10**9, 2**21)
"""What a chat template may take: it is a program, and could go on for ever."""


class Words:
    """A tokenizer.

    Raises:
        ValueError: there is none, it cannot be loaded, or it fails on a text.
    """

    def __init__(self, source: Path | StoreFile, vocabulary: int) -> None:
        self._source, self._vocabulary = source if isinstance(source, Path) else source.path, vocabulary
        if isinstance(source, Path):
            self._words = self._load(source)
            return
        with tempfile.TemporaryDirectory() as folder:
            for name in source.entries.files:
                (Path(folder) / name).write_bytes(source.file(name))
            (Path(folder) / "config.json").write_text(json.dumps(source.entries.config))
            self._words = self._load(Path(folder))

    @property
    def end(self) -> int | None:
        """The token that ends a text, where there is one."""
        value = self._words.eos_token_id
        return value if isinstance(value, int) else None

    def encode(self, text: str, is_chat: bool = False) -> list[int]:
        """Return the tokens of a text; one that a chat template made has its special tokens already."""
        ids: list[int] = self._try(lambda: self._words(text, add_special_tokens=not is_chat)["input_ids"])
        if any(not 0 <= token < self._vocabulary for token in ids):
            raise ValueError(f"{self._source}: its tokenizer gives {max(ids)}; the model has {self._vocabulary} tokens")
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, special ones left out."""
        return self._try(lambda: str(self._words.decode(tokens, skip_special_tokens=True)))

    def chat(self, said: list[dict[str, str]]) -> str:
        """Return a conversation as the model expects it."""
        if not getattr(self._words, "chat_template", None):
            raise ValueError(f"{self._source}: its tokenizer has no chat template; valid: --prompt")
        template: Callable[..., Any] = self._words.apply_chat_template
        try:
            return bounded(lambda: str(template(said, tokenize=False, add_generation_prompt=True)), CHAT)
        except ValueError as error:
            raise ValueError(f"{self._source}: its chat template {error}") from None

    def _load(self, folder: Path) -> Any:
        from transformers import AutoTokenizer

        if not any(path.name.startswith(("tokenizer", "vocab")) for path in folder.iterdir()):
            raise ValueError(f"{self._source}: has no tokenizer; valid: with tokenizer.json beside the weights")
        with quiet_transformers():
            load: Callable[..., Any] = AutoTokenizer.from_pretrained
            return self._try(lambda: load(folder, trust_remote_code=False, local_files_only=True))

    def _try(self, run: Callable[[], T]) -> T:
        try:
            return run()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # A panic of the library below is no Exception.
            raise ValueError(f"{self._source}: its tokenizer fails: {reason_of(error)}") from None
