"""`moec profile import`: a profile from routing that another system recorded."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from moe_passes.plan.errors import InputError

from moe_compiler.backend.folder import check_file, write_bytes
from moe_compiler.formats.statistics import IntArray, Routing, read_statistics
from moe_compiler.frontend.models import load_model
from moe_compiler.traces.files import SCHEMA

DRAWN_TOKENS = 4096
"""Of a trace that is drawn from counts."""
SWEEPS = 60
"""Times that weights are corrected until what is drawn has the frequencies that were counted."""


def import_profile(
    file: str | Path,
    output: str | Path,
    *,
    model: str | None = None,
    top_k: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Write a profile from a file of another system (`formats.statistics`).

    Where the file holds what each token chose, the profile is that. Where it holds counts alone, tokens are drawn that
    choose each expert as often, independently of each other: the profile is `synthetic`, and a hot set that follows
    gains nothing on it.

    Args:
        file: that was recorded.
        output: `.npz` to write.
        model: whose shape it must have; None: that of the file.
        top_k: experts of a token, where only counts are known and no model says so.
        seed: of what is drawn.
        progress: told what is done.

    Raises:
        InputError: the file is malformed or of another model, or the output cannot be written.
    """
    path, target = Path(file), Path(output)
    check_file(target)
    routing = read_statistics(path)
    stated = load_model(model) if model is not None else None
    experts, chosen_k = (stated.experts, stated.top_k) if stated else (routing.experts, top_k or 0)
    _check(routing, path, experts, chosen_k)
    if routing.chosen is not None:
        chosen, kind = routing.chosen, "real"
    else:
        progress("draw tokens")
        chosen, kind = draw(routing.counts, chosen_k, seed), "synthetic"
    buffer = io.BytesIO()
    width = np.uint8 if chosen.max(initial=0) < 256 else np.uint16
    np.savez_compressed(buffer, experts=chosen.astype(width), kind=np.array(kind), schema=np.array(SCHEMA))
    write_bytes(target, buffer.getvalue())
    return {
        "profile": str(target),
        "kind": kind,
        "tokens": int(chosen.shape[0]),
        "layers": int(chosen.shape[1]),
        "top_k": int(chosen.shape[2]),
        "file_layers": list(routing.rows),
    }


def _check(routing: Routing, path: Path, experts: int, top_k: int) -> None:
    """Refuse routing of another model, or that cannot be a profile.

    Raises:
        InputError: it is one.
    """
    if routing.chosen is not None:
        tokens, layers, width = routing.chosen.shape
        if not tokens or not layers:
            raise InputError(f"{path}: holds no token that chose experts in every layer")
        most = int(routing.chosen.max())
        if (experts and most >= experts) or (top_k and width != top_k):
            raise InputError(
                f"{path}: is of another model: experts up to {most}, {width} a token; valid: below {experts}, "
                f"{top_k} a token"
            )
        ordered = np.sort(routing.chosen, axis=2)
        twice = np.argwhere((ordered[:, :, 1:] == ordered[:, :, :-1]).any(axis=2))
        if len(twice):
            token, row = twice[0].tolist()
            raise InputError(f"{path}: token {token} chooses an expert twice in layer {routing.rows[row]}")
        return
    assert routing.counts is not None
    found = routing.counts.shape[1]
    if experts and found != experts:
        raise InputError(f"{path}: is of another model: {found} experts a layer; valid: {experts}")
    if not 1 <= top_k < found:
        raise InputError(
            f"{path}: counts do not say how many experts a token chooses; valid: --model, or --top-k from 1 to "
            f"{found - 1}"
        )


def draw(counts: IntArray | None, top_k: int, seed: int, tokens: int = DRAWN_TOKENS) -> IntArray:
    """Draw tokens that choose each expert as often as counted: [token, row, k].

    An expert's score is the logarithm of its weight and Gumbel noise, and the k best are chosen; weights are corrected
    until frequencies are those of the counts. What is counted more often than every token could choose it is always
    chosen.

    Args:
        counts: [row, expert].
        top_k: experts of a token.
        seed: of the noise.
        tokens: how many.
    """
    assert counts is not None
    random = np.random.default_rng(seed)
    rows, experts = counts.shape
    shares = counts / counts.sum(axis=1, keepdims=True) * top_k
    target = np.clip(shares, 0.0, 1.0)
    noise: npt.NDArray[np.float64] = random.gumbel(size=(tokens, rows, experts))
    weights = np.log(np.maximum(target, 1e-9) / np.maximum(1 - target, 1e-9))
    chosen = _best(noise + weights, top_k)
    for _ in range(SWEEPS):
        frequency = np.stack([np.bincount(chosen[:, row].ravel(), minlength=experts) for row in range(rows)]) / tokens
        weights += 0.5 * (np.log(np.maximum(target, 1e-6)) - np.log(np.maximum(frequency, 1e-6)))
        weights = np.where(counts > 0, weights, -np.inf)
        chosen = _best(noise + weights, top_k)
    return np.sort(chosen, axis=2)


def _best(scores: npt.NDArray[np.float64], top_k: int) -> IntArray:
    return np.asarray(np.argpartition(-scores, top_k - 1, axis=2)[:, :, :top_k], dtype=np.int64)
