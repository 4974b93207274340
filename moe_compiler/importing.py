"""`moec profile import`: a profile from routing that another system recorded."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from moe_passes.plan.errors import InputError
from moe_passes.plan.request import SEED

from moe_compiler.backend.folder import check_file, write_bytes
from moe_compiler.formats.statistics import MOST_EXPERT, IntArray, Routing, read_statistics
from moe_compiler.frontend.shapes import shapes_of
from moe_compiler.traces.files import SCHEMA

MOST_DRAWN = 65_536
"""Experts of all layers that tokens are drawn for: some minutes."""
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
    SEED.check("--seed", seed)
    path, target = Path(file), Path(output)
    check_file(target)
    routing = read_statistics(path)
    if model is not None and top_k is not None:
        raise InputError(f"--top-k {top_k}: --model says how many; valid: one of them")
    experts, chosen_k = routing.experts, top_k or 0
    if model is not None:
        progress("look at the model")
        layers = shapes_of(model).layers
        experts, chosen_k = layers[0].experts, layers[0].top_k
        if len(layers) != len(routing.rows):
            raise InputError(f"{path}: is of another model: {len(routing.rows)} MoE layers; valid: {len(layers)}")
    _check(routing, path, experts, chosen_k)
    if routing.chosen is not None:
        chosen, kind = routing.chosen, "real"
    else:
        progress("draw tokens")
        assert routing.counts is not None
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
        if most >= (experts or MOST_EXPERT + 1):
            raise InputError(f"{path}: is of another model: expert {most}; valid: below {experts or MOST_EXPERT + 1}")
        if top_k and width != top_k:
            raise InputError(f"{path}: is of another model: {width} experts a token; valid: {top_k}")
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
    if routing.counts.size > MOST_DRAWN:
        raise InputError(
            f"{path}: counts of {routing.counts.shape} experts; valid: at most {MOST_DRAWN:,} in all layers"
        )
    few = np.flatnonzero((routing.counts > 0).sum(axis=1) < top_k)
    if 1 <= top_k < found and len(few):
        raise InputError(
            f"{path}: in layer {routing.rows[int(few[0])]} fewer than {top_k} experts were chosen at all; valid: "
            "counts of more tokens"
        )
    if not 1 <= top_k < found:
        raise InputError(
            f"{path}: counts do not say how many experts a token chooses; valid: --model, or --top-k from 1 to "
            f"{found - 1}"
        )


def draw(counts: IntArray, top_k: int, seed: int, tokens: int = DRAWN_TOKENS) -> IntArray:
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
    random = np.random.default_rng(seed)
    return np.stack([_drawn(row, top_k, random.gumbel(size=(tokens, len(row)))) for row in counts], axis=1)


def _drawn(counts: IntArray, top_k: int, noise: npt.NDArray[np.float64]) -> IntArray:
    """Draw the choices of one row: [token, k]."""
    tokens, experts = noise.shape
    target = np.clip(counts / counts.sum() * top_k, 0.0, 1.0)
    weights = np.log(np.maximum(target, 1e-9) / np.maximum(1 - target, 1e-9))
    chosen = _best(noise + weights, top_k)
    for _ in range(SWEEPS):
        frequency = np.bincount(chosen.ravel(), minlength=experts) / tokens
        weights += 0.5 * (np.log(np.maximum(target, 1e-6)) - np.log(np.maximum(frequency, 1e-6)))
        weights = np.where(counts > 0, weights, -np.inf)
        chosen = _best(noise + weights, top_k)
    return np.sort(chosen, axis=1)


def _best(scores: npt.NDArray[np.float64], top_k: int) -> IntArray:
    return np.asarray(np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k], dtype=np.int64)
