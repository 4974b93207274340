"""Profiles: `.npz` files with a routing trace (docs/profiles.md), shipped ones by name, synthetic ones on demand."""

import difflib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from moe_passes.errors import InputError
from moe_passes.routing import RoutingTrace, validate
from moe_passes.workload import ExpertLayer, ProfileRecord

from moe_compiler.profile import synthetic

DRAFT_MODEL_SEED = 0
DEFAULTS = {("mixtral-8x7b", (32, 8, 2)): "mixtral-8x7b-coding"}
"""The shipped real trace that a model (name, and MoE layers, experts, top-k) is compiled against by default."""


@dataclass(frozen=True)
class Profile:
    """A loaded profile: what outputs say of it, and its trace."""

    record: ProfileRecord
    trace: RoutingTrace


def shipped_profiles() -> dict[str, Path]:
    """Return the shipped profiles by name, sorted."""
    folder = Path(__file__).resolve().parent.parent / "profiles"
    return {path.stem: path for path in sorted(folder.glob("*.npz"))}


def choose(given: str | None, model: str, layers: list[ExpertLayer], tokens: int, seed: int) -> Profile:
    """Choose and load a profile: the one that was asked for, else the model's real one, else a synthetic one.

    Args:
        given: `--profile`: a shipped name or a path, or None.
        model: the model's name.
        layers: its MoE layers.
        tokens: length of a synthetic trace.
        seed: of a synthetic trace.

    Raises:
        InputError: the file cannot be read, or is of another model's shape.
    """
    default = DEFAULTS.get((model, shape_of(layers)), synthetic.name_of(tokens, seed))
    return load(given or default, layers)


def load(name_or_path: str, layers: list[ExpertLayer]) -> Profile:
    """Load a shipped, synthetic or user's profile and check it against the model's shape.

    Raises:
        InputError: it does not exist, cannot be read, or does not fit.
    """
    count, experts, top_k = shape_of(layers)
    made = synthetic.parse_name(name_or_path)
    if made is not None:
        trace = synthetic.generate(made[0], count, experts, top_k, made[1])
        return Profile(ProfileRecord(name_or_path, "synthetic", trace.sha256(), "assumed"), trace)
    shipped = shipped_profiles()
    path = shipped.get(name_or_path, Path(name_or_path))
    name = name_or_path if name_or_path in shipped else path.name
    if not path.is_file():
        near = difflib.get_close_matches(name_or_path, shipped, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; shipped: {', '.join(shipped)}"
        raise InputError(f"profile {name_or_path}: no such file{hint}")
    arrays = _read(path)
    if "experts" not in arrays:
        raise InputError(f"profile {path}: has no array 'experts' [token, layer, k]; it has: {', '.join(arrays)}")
    chosen = validate(arrays["experts"], name, count, top_k, experts)
    measured = "draft_experts" in arrays
    if measured:
        draft = validate(arrays["draft_experts"], f"{name} (draft_experts)", count, top_k, experts)
        if draft.shape != chosen.shape:
            raise InputError(f"profile {path}: 'draft_experts' has shape {draft.shape}, 'experts' {chosen.shape}")
    else:
        draft = synthetic.model_draft(chosen, experts, DRAFT_MODEL_SEED)
    trace = RoutingTrace(chosen, draft, experts)
    kind = _kind(arrays, path)
    return Profile(ProfileRecord(name, kind, trace.sha256(), "measured" if measured else "assumed"), trace)


def shape_of(layers: list[ExpertLayer]) -> tuple[int, int, int]:
    """Return (MoE layers, experts of a layer, top-k).

    Raises:
        InputError: layers differ in shape, which a profile cannot hold.
    """
    shapes = {(layer.experts, layer.top_k) for layer in layers}
    if len(shapes) != 1:
        raise InputError(f"MoE layers differ in shape ({sorted(shapes)}); valid: one shape in all layers")
    experts, top_k = shapes.pop()
    return len(layers), experts, top_k


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise InputError(f"profile {path}: is a single array; valid: an .npz with an array 'experts'")
        with file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"profile {path}: cannot be read as .npz: {error}") from None


def _kind(arrays: dict[str, np.ndarray], path: Path) -> str:
    if "kind" not in arrays:
        return "real"
    kind = str(arrays["kind"])
    if kind not in ("real", "synthetic"):
        raise InputError(f"profile {path}: 'kind' is '{kind}'; valid: real, synthetic")
    return kind
