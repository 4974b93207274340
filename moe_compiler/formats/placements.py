"""Placements on disk in any format: ours, an expert location or expert map as JSON, or an EPLB triple as .npz.

One strict reader for all of them. Types are not coerced: a bank is an integer, not "3" or 3.0.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from moe_passes.plan.decisions import Replicas
from moe_passes.plan.errors import InputError

from moe_compiler.documents.json_file import read_json
from moe_compiler.documents.placement import PlacementDocument, parse
from moe_compiler.formats.eplb import (
    MAP_KEY,
    MAP_LAYERS,
    Decoder,
    EplbTriple,
    from_eplb,
    from_expert_location,
    from_expert_map,
)
from moe_compiler.paths import read_arrays

EPLB_KEYS = ("physical_to_logical", "logical_to_physical", "counts")


@dataclass(frozen=True)
class Slots:
    """A placement of whole experts in a format of another system: replicas of every layer."""

    layers: list[Replicas]


def read(path: str, where: str, banks: int, experts: int, decoder: Decoder) -> PlacementDocument | Slots:
    """Read a plan in any format.

    Args:
        path: of the file; `.npz` for an EPLB triple.
        where: how messages name it.
        banks: of the machine, for formats that do not say.
        experts: of a layer, likewise.
        decoder: which of the model's layers are MoE.

    Raises:
        InputError: not such a file.
    """
    try:
        if path.endswith(".npz"):
            return Slots(from_eplb(_triple(path, where), banks))
        document = read_json(path, where)
        if isinstance(document, dict) and MAP_KEY in document:
            return Slots(from_expert_location(document, banks, experts, decoder))
        if isinstance(document, dict) and MAP_LAYERS in document:
            return Slots(from_expert_map(document, banks, experts))
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(where) else f"{where}: {text}") from None
    return parse(document, where)


def _triple(path: str, where: str) -> EplbTriple:
    valid = f"valid: an .npz with the integer arrays {', '.join(EPLB_KEYS)}"
    try:
        arrays = read_arrays(Path(path), set(EPLB_KEYS))
    except InputError as error:
        raise InputError(f"{where}: {error}; {valid}") from None
    for key, rank in zip(EPLB_KEYS, (2, 3, 2), strict=True):
        if key not in arrays:
            raise InputError(f"{where}: has no array '{key}'; {valid}")
        if arrays[key].dtype.kind not in "iu" or arrays[key].ndim != rank or not arrays[key].size:
            raise InputError(
                f"{where}: '{key}' has type {arrays[key].dtype} and shape {arrays[key].shape}; "
                f"valid: integers of {rank} dimensions"
            )
    physical, logical, counts = (arrays[key].astype(np.int64) for key in EPLB_KEYS)
    if not (len(physical) == len(logical) == len(counts)) or logical.shape[1] != counts.shape[1]:
        shapes = ", ".join(f"{key} {arrays[key].shape}" for key in EPLB_KEYS)
        raise InputError(f"{where}: shapes {shapes}; valid: one number of layers and of experts in all")
    return EplbTriple(physical, logical, counts)
