"""Profiles: `.npz` files with a routing trace (docs/profiles.md), shipped ones by name, synthetic ones on demand."""

import difflib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from moe_passes.errors import InputError
from moe_passes.routing import RoutingTrace, validate
from moe_passes.workload import ExpertLayer, ProfileRecord

from moe_compiler.paths import is_file
from moe_compiler.profile import synthetic

DRAFT_MODEL_SEED = 0
ARRAYS = ("experts", "draft_experts", "kind")
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


def check_exists(given: str | None) -> None:
    """Refuse a profile that does not exist before the model is traced.

    Raises:
        InputError: no shipped or synthetic profile of that name, and no such file.
    """
    if given is None or given in shipped_profiles() or synthetic.parse_name(given) is not None:
        return
    if not is_file(Path(given)):
        near = difflib.get_close_matches(given, shipped_profiles(), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; shipped: {', '.join(shipped_profiles())}"
        raise InputError(f"profile {given}: no such file{hint}")


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
    check_exists(name_or_path)
    arrays = _read(path)
    if "experts" not in arrays:
        found = ", ".join(arrays) or "nothing"
        raise InputError(f"profile {path}: has no array 'experts' [token, layer, k]; it has: {found}")
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
    if not zipfile.is_zipfile(path):
        raise InputError(f"profile {path}: is not an .npz; valid: what numpy.savez_compressed writes")
    arrays: dict[str, np.ndarray] = {}
    name = ""
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in set(ARRAYS) & set(file.files):
                arrays[name] = np.asarray(file[name])
            return arrays if "experts" in arrays else dict.fromkeys(file.files, np.zeros(0))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise InputError(f"profile {path}: array '{name}' cannot be read: {error}") from None
    except (NotImplementedError, RuntimeError) as error:
        raise InputError(f"profile {path}: cannot be read: {error}") from None


def _kind(arrays: dict[str, np.ndarray], path: Path) -> str:
    if "kind" not in arrays:
        return "real"
    kind = str(arrays["kind"])
    if kind not in ("real", "synthetic"):
        raise InputError(f"profile {path}: 'kind' is '{kind}'; valid: real, synthetic")
    return kind
