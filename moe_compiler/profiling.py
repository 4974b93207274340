"""`moec profile`: run a real model on a text, and record what compiles go by: routing, and accepted lengths."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from moe_passes.plan.errors import InputError

from moe_compiler.backend.folder import check_file, write_bytes
from moe_compiler.frontend.models import load_model
from moe_compiler.paths import read_text
from moe_compiler.traces.files import SCHEMA

if TYPE_CHECKING:
    from torch import Tensor

    from moe_compiler.runtime.decoder import Decoder
    from moe_compiler.runtime.model import Executable
    from moe_compiler.runtime.words import Words

LARGEST_TEXT = 2**26
MOST_TOKENS, LONGEST_DRAFT = 1_000_000, 64
FEWEST_TOKENS = 64
CONFIGURATIONS = tuple((bits, bits, share) for bits in (4, 8) for share in (0.125, 0.25, 0.5, 0.75, 1.0))
"""Drafts that are measured: bits of experts, bits of dense weights, and the share of experts that are resident."""
PROMPT_TOKENS = 32
"""Of the text, before each stretch that is drafted on."""
PIECE_TOKENS = 1024
"""That the text is read in unless something else is asked for, or the model is made for fewer."""
Ints = npt.NDArray[np.int64]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        tokens: of the text, at most.
        draft_length: longest draft.
        rounds: of each draft.
        context: tokens that are read as one sequence; the text is cut into as many as it takes. None: `PIECE_TOKENS`,
            or fewer where the model is made for fewer.
    """

    tokens: int = 2048
    draft_length: int = 8
    rounds: int = 48
    context: int | None = None

    def check_values(self) -> None:
        """Refuse values that cannot be.

        Raises:
            InputError: one is out of range.
        """
        for name, value, low, high in (
            ("--tokens", self.tokens, FEWEST_TOKENS, MOST_TOKENS),
            ("--draft-length", self.draft_length, 1, LONGEST_DRAFT),
            ("--rounds", self.rounds, 1, MOST_TOKENS),
            ("--context", PIECE_TOKENS if self.context is None else self.context, PROMPT_TOKENS, MOST_TOKENS),
        ):
            if not low <= value <= high:
                raise InputError(f"{name} {value}; valid: {low} to {high:,}")


def profile(
    model: Any,
    weights: str | Path,
    text: str | Path,
    output: str | Path,
    asked: Asked | None = None,
    progress: Progress = lambda text: None,
) -> dict[str, Any]:
    """Write the profile of a model on a text; returns what was found.

    The target's routing and, at the same tokens, what a draft on slices of all experts asks for, piece by piece of the
    text: what is longer than a model was made for routes otherwise than what it generates. Then, for each of
    `CONFIGURATIONS`, how many drafted tokens the target accepts, greedily, after pieces of the text. Of a share of the
    experts those are resident that the text needs most.

    Args:
        model: as for `compile`.
        weights: a folder with *.safetensors and a tokenizer, or a store.
        text: a file.
        output: the .npz that is made.
        asked: how much is measured.
        progress: hears what is measured.

    Raises:
        InputError: a file that cannot be read or written, weights of another model, or a text that is too short.
    """
    asked, path = asked or Asked(), Path(output)
    asked.check_values()
    check_file(path)
    try:
        content = read_text(Path(text), LARGEST_TEXT)
    except (OSError, ValueError) as error:
        raise InputError(f"--text {text}: cannot be read: {error}") from None
    source = load_model(model)
    try:
        length = piece_tokens(source.config, asked)
        built, words = _opened(source.config, Path(weights))
        ids = words.encode(content)[: asked.tokens]
        if len(ids) < FEWEST_TOKENS:
            raise InputError(f"--text {text}: has {len(ids)} tokens; valid: at least {FEWEST_TOKENS}")
        progress("routing")
        routing = _routing(built, [ids[first : first + length] for first in range(0, len(ids), length)])
        lengths = np.stack([_lengths(built, ids, routing[0], of, asked) for of in _said(CONFIGURATIONS, progress)])
    except InputError:
        raise
    except (ValueError, KeyError) as error:
        raise InputError(str(error)) from None
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        experts=routing[0],
        draft_experts=routing[1],
        kind=np.array("real"),
        schema=np.array(SCHEMA),
        accepted_lengths=lengths,
        draft_configurations=np.array(CONFIGURATIONS),
    )
    write_bytes(path, buffer.getvalue())
    drafted = lengths.sum(axis=1) * asked.draft_length
    accepted = (lengths * np.arange(lengths.shape[1])).sum(axis=1)
    return {
        "profile": str(path),
        "tokens": len(ids),
        "context": min(length, len(ids)),
        "draft_length": asked.draft_length,
        "drafts": [
            {"bits": bits, "dense_bits": dense, "expert_fraction": share, "acceptance_rate": float(a / d)}
            for (bits, dense, share), a, d in zip(CONFIGURATIONS, accepted, drafted, strict=True)
        ],
    }


def _said(of: Sequence[tuple[int, int, float]], progress: Progress) -> Iterator[tuple[int, int, float]]:
    for bits, dense, share in of:
        progress(f"drafts in {bits} bits on {share:.0%} of the experts")
        yield bits, dense, share


def _opened(config: dict[str, Any], weights: Path) -> tuple["Executable", "Words"]:
    from moe_compiler.runtime.huggingface import configuration, difference
    from moe_compiler.runtime.model import build, from_store
    from moe_compiler.runtime.store_file import StoreFile
    from moe_compiler.runtime.words import Words

    vocabulary = configuration(config).get_text_config().vocab_size
    if not weights.is_file():
        return build(config, weights, 0), Words(weights, vocabulary)
    store = StoreFile(weights)
    differs = difference(store.entries.config, config)
    if differs:
        raise ValueError(f"{weights}: is of another model: {differs} was asked for; valid: a store of that model")
    return from_store(store), Words(store, vocabulary)


def piece_tokens(config: dict[str, Any], asked: Asked) -> int:
    """Return the tokens that are read as one sequence.

    Raises:
        InputError: more are asked for than the model is made for.
    """
    from moe_compiler.runtime.huggingface import configuration

    longest = getattr(configuration(config).get_text_config(), "max_position_embeddings", None) or MOST_TOKENS
    if asked.context is not None and asked.context > longest:
        raise InputError(f"--context {asked.context}: more than the model is made for; valid: up to {longest:,} tokens")
    return min(PIECE_TOKENS, int(longest)) if asked.context is None else asked.context


def _routing(model: "Executable", pieces: list[list[int]]) -> tuple[Ints, Ints]:
    """Return the experts of every token that the target chose, and that the draft asked for: [token, layer, k]."""
    found = []
    for is_draft in (False, True):
        chosen: dict[int, list[Tensor]] = {part.layer: [] for part in model.experts}

        def hear(layer: int, was_draft: bool, index: "Tensor", chosen: Any = chosen, is_draft: bool = is_draft) -> None:
            if was_draft == is_draft:
                chosen[layer].append(index.sort(dim=-1).values)

        decoder = _decoder(model, [pieces[0][:1]], max(map(len, pieces)), 4, 4, _all(model))
        decoder.kernels.routed = hear
        for ids in pieces:
            # Each from the beginning of the cache on: no row looks at what another piece left behind it.
            decoder.read(0, ids, is_draft)
        decoder.close()
        layers = [np.concatenate([index.numpy() for index in chosen[part.layer]]) for part in model.experts]
        found.append(np.stack(layers, axis=1).astype(np.int64))
    return found[0], found[1]


def _all(model: "Executable") -> dict[int, list[int]]:
    return {part.layer: list(range(part.experts)) for part in model.experts}


def _lengths(model: "Executable", ids: list[int], chosen: Ints, of: tuple[int, int, float], asked: Asked) -> Ints:
    """Return in how many rounds so many drafted tokens were accepted: [0 … draft length]."""
    bits, dense, share = of
    resident = {}
    for row, part in enumerate(model.experts):
        counts = np.bincount(chosen[:, row].ravel(), minlength=part.experts)
        kept = max(1, round(share * part.experts))
        resident[part.layer] = sorted(np.argsort(-counts, kind="stable")[:kept].tolist())
    lengths = np.zeros(asked.draft_length + 1, dtype=np.int64)
    stretches = max(1, asked.rounds // 8)
    for place in np.linspace(0, max(0, len(ids) - PROMPT_TOKENS), stretches, dtype=int).tolist():
        prompt = ids[place : place + PROMPT_TOKENS]
        new = -(-asked.rounds // stretches)
        capacity = len(prompt) + (new + 1) * (asked.draft_length + 1)
        decoder = _decoder(model, [prompt], capacity, bits, dense, resident)
        for _ in range(new):
            _draft_and_verify(decoder, asked.draft_length)
        decoder.close()
        for length, count in decoder.accepted_lengths.items():
            lengths[length] += count
    return lengths


def _draft_and_verify(decoder: "Decoder", length: int) -> None:
    drafts: list[Tensor] = []
    for step in range(length):
        drafts.append(decoder.draft(step, drafts))
    decoder.verify(drafts)


def _decoder(
    model: "Executable", prompts: list[list[int]], capacity: int, bits: int, dense: int, resident: dict[int, list[int]]
) -> "Decoder":
    from moe_compiler.runtime.decoder import Decoder
    from moe_compiler.runtime.plan import Plan

    whole = resident if bits == 8 else {}
    return Decoder(model, Plan(draft_bits=bits, dense_bits=dense, resident=resident, whole=whole), prompts, capacity)
