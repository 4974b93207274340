"""Shapes of a model without tracing it again: what raise-moe found, kept in the user's cache folder.

A file a configuration, named by the hash of its content and of the versions that traced it; written whole or not at
all, and made anew where it cannot be read.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moe_passes.plan.formats import FORMATS, USUAL
from moe_passes.plan.model import DensePart, ExpertLayer, ModelShape
from moe_passes.plan.phase import Phase

from moe_compiler.frontend.models import ModelSource, load_model, raw_config

PACKAGES = ("moe-compiler", "torch", "transformers")


@dataclass(frozen=True)
class Shapes:
    """What a model is made of.

    Attributes:
        model: as a whole, in the usual format.
        layers: routed experts of each MoE layer.
        parts: dense work, by layer, the head last.
        method: of its published quantisation, if any.
        notes: what is to be said of how it was found.
    """

    model: ModelShape
    layers: tuple[ExpertLayer, ...]
    parts: tuple[DensePart, ...]
    method: str | None
    notes: tuple[str, ...]


def shapes_of(model: Any) -> Shapes:
    """Return the shapes of a model: from the cache, else traced.

    Raises:
        InputError: the model cannot be compiled.
    """
    name, content = raw_config(model)
    path = cache_folder() / f"{_key(content)}.json"
    found = _read(path, name)
    if found is None:
        found = traced(load_model(model))
        _write(path, found)
    return found


def traced(source: ModelSource) -> Shapes:
    """Trace and raise a model for its shapes."""
    from moe_passes.ir.dialects import context
    from moe_passes.ir.module import append, expert_stores, only
    from moe_passes.ir.phases import VERIFY, read_phase
    from moe_passes.ir.pipeline import parse_pipeline, run_pipeline
    from moe_passes.plan.request import AUTO_LENGTH, Request

    from moe_compiler.frontend.graph import trace

    module = trace(replace(source, format=FORMATS[USUAL]), 1, context())
    append(module, Request(1, 1, AUTO_LENGTH, 0, 0.0))
    run_pipeline(module, parse_pipeline("raise-moe"))
    layers = tuple(layer for _, layer in expert_stores(module, "shapes"))
    parts = _dense(read_phase(module, VERIFY, "shapes"))
    return Shapes(only(module, ModelShape), layers, parts, source.quantization, source.notes)


def _dense(phase: Phase) -> tuple[DensePart, ...]:
    return tuple(op.part for op in phase.operations if op.part is not None)


def cache_folder() -> Path:
    """Return where shapes are kept: $XDG_CACHE_HOME/moe-compiler, or ~/.cache/moe-compiler."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "moe-compiler" / "shapes"


def _key(content: dict[str, Any]) -> str:
    stated = json.dumps([content, {name: version(name) for name in PACKAGES}], sort_keys=True, default=str)
    return hashlib.sha256(stated.encode()).hexdigest()


def _read(path: Path, name: str) -> Shapes | None:
    """Read what was kept; nothing where it is not there, or not what this version writes."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        model = ModelShape(**{**kept["model"], "name": name})
        layers = tuple(ExpertLayer(**layer) for layer in kept["layers"])
        parts = tuple(DensePart(**part) for part in kept["parts"])
        return Shapes(model, layers, parts, kept["method"], tuple(kept["notes"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _write(path: Path, found: Shapes) -> None:
    """Keep shapes; a cache that cannot be written costs time, nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            json.dump(asdict(found), file)
        os.replace(file.name, path)
    except OSError:
        return
