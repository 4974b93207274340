"""Profiles: `.npz` files with a routing trace (docs/profiles.md), and synthetic ones on demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer
from moe_passes.plan.request import MeasuredAcceptance, ProfileRecord
from moe_passes.routing.traces import RoutingTrace, validate

from moe_compiler.paths import is_file, names_of, read_arrays
from moe_compiler.traces import acceptance, synthetic
from moe_compiler.traces.like import like_of

DRAFT_MODEL_SEED = 0
ARRAYS = ("experts", "draft_experts", "kind", "schema")
SCHEMA = 1
"""Of the format; a file without one is of this."""


@dataclass(frozen=True)
class Profile:
    """A loaded profile: what outputs say of it, its trace, and what was measured of drafts."""

    record: ProfileRecord
    trace: RoutingTrace
    measured: tuple[MeasuredAcceptance, ...] = ()


def synthetic_name(model: str, batch: int, seed: int) -> str:
    """Name the synthetic profile of a model of which no trace was given."""
    return synthetic.made_for(batch, seed, like_of(model)).name


def check_exists(given: str | None) -> None:
    """Refuse a profile that does not exist before the model is traced.

    Raises:
        InputError: no such file, and not the name of a synthetic profile.
    """
    if given is not None and synthetic.parse_name(given) is None and not is_file(Path(given)):
        raise InputError(
            f"profile {given}: no such file; valid: an .npz, synthetic-TOKENStokens-seedN, or the same with "
            "-like-MODEL, -requests-of-TOKENS or both"
        )


def load(name_or_path: str, layers: Sequence[ExpertLayer]) -> Profile:
    """Load a synthetic or a user's profile and check it against the model's shape.

    Raises:
        InputError: it does not exist, cannot be read, or does not fit.
    """
    count, experts, top_k = shape_of(layers)
    made = synthetic.parse_name(name_or_path)
    if made is not None:
        trace = synthetic.generate(made, count, experts, top_k)
        return Profile(ProfileRecord(name_or_path, "synthetic", trace.sha256(), "assumed"), trace)
    path = Path(name_or_path)
    name = path.name
    check_exists(name_or_path)
    arrays = read_arrays(path, set(ARRAYS))
    if "experts" not in arrays:
        found = ", ".join(names_of(path))[:200] or "nothing"
        raise InputError(f"profile {path}: has no array 'experts' [token, layer, k]; it has: {found}")
    _check_schema(arrays, path)
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
    record = ProfileRecord(name, kind, trace.sha256(), "measured" if measured else "assumed")
    return Profile(record, trace, acceptance.of_profile(name_or_path, f"profile {path}"))


def shape_of(layers: Sequence[ExpertLayer]) -> tuple[int, int, int]:
    """Return (MoE layers, experts of a layer, top-k).

    Raises:
        InputError: layers differ in shape, which a profile cannot hold.
    """
    shapes = {(layer.experts, layer.top_k) for layer in layers}
    if len(shapes) != 1:
        raise InputError(f"MoE layers differ in shape ({sorted(shapes)}); valid: one shape in all layers")
    experts, top_k = shapes.pop()
    return len(layers), experts, top_k


def _check_schema(arrays: dict[str, np.ndarray], path: Path) -> None:
    found = arrays.get("schema", np.array(SCHEMA))
    if found.shape != () or str(found) != str(SCHEMA):
        raise InputError(f"profile {path}: is of schema {str(found)[:20]}; valid: {SCHEMA}; write it again")


def _kind(arrays: dict[str, np.ndarray], path: Path) -> str:
    if "kind" not in arrays:
        return "real"
    kind = str(arrays["kind"])
    if kind not in ("real", "synthetic"):
        raise InputError(f"profile {path}: 'kind' is '{kind}'; valid: real, synthetic")
    return kind
