"""Plans on disk: what `moec partition -o` writes, and placements in the formats of other systems.

One strict reader for all of them. Types are not coerced: a bank is an integer, not "3" or 3.0.
"""

import warnings
import zipfile
import zlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from moe_passes.errors import InputError
from moe_passes.partition_experts.formats import MAP_KEY, EplbTriple, from_eplb, from_expert_location
from moe_passes.partition_experts.problem import MOST_BANKS, IntArray, Replicas
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moe_compiler.json_file import malformed, read_json

RESIDENCY = ("none", "msb", "all")
EPLB_KEYS = ("physical_to_logical", "logical_to_physical", "counts")

Bank = Annotated[int, Field(ge=0, lt=MOST_BANKS)]


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class ExpertBytes(_Document):
    """Bytes of one expert's slices."""

    msb: int
    all: int


class PlanLayer(_Document):
    """One layer: `placement` is [expert][replica][bank]."""

    layer: int
    expert_bytes: ExpertBytes | None = None
    residency: list[Literal["none", "msb", "all"]]
    placement: list[list[Annotated[list[Bank], Field(min_length=1)]]]

    def levels(self) -> IntArray:
        """Return residency as numbers: [expert]."""
        return np.array([RESIDENCY.index(level) for level in self.residency], dtype=np.int64)

    def replicas(self) -> Replicas:
        """Return the placement, the banks of a replica ascending."""
        return tuple(tuple(tuple(sorted(copy)) for copy in copies) for copies in self.placement)


class PlanFile(_Document):
    """A plan; keys that a reader has no use for are left alone."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    model: str | None = None
    banks: Annotated[int, Field(ge=1, le=MOST_BANKS)]
    layers: Annotated[list[PlanLayer], Field(min_length=1)]


@dataclass(frozen=True)
class Slots:
    """A placement of whole experts in a format of another system: replicas of every layer."""

    layers: list[Replicas]


def read(path: str, where: str, banks: int, experts: int) -> PlanFile | Slots:
    """Read a plan in any format.

    Args:
        path: of the file; `.npz` for an EPLB triple.
        where: how messages name it.
        banks: of the machine, for formats that do not say.
        experts: of a layer, likewise.

    Raises:
        InputError: not such a file.
    """
    try:
        if path.endswith(".npz"):
            return Slots(from_eplb(_triple(path, where), banks))
        document = read_json(path, where)
        if isinstance(document, list) or (isinstance(document, dict) and MAP_KEY in document):
            return Slots(from_expert_location(document, banks, experts))
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(where) else f"{where}: {text}") from None
    return parse(document, where)


def read_plan(path: str, where: str) -> PlanFile:
    """Read what `moec partition -o` wrote.

    Raises:
        InputError: not such a file.
    """
    return parse(read_json(path, where), where)


def parse(document: Any, where: str) -> PlanFile:
    """Check a plan.

    Raises:
        InputError: malformed; the message names the field.
    """
    if not isinstance(document, dict) or "layers" not in document:
        raise InputError(f"{where}: is not a plan; valid: what `moec partition -o` writes, or an expert location")
    try:
        plan = PlanFile.model_validate(document)
    except ValidationError as error:
        raise malformed(error, where) from None
    for row, layer in enumerate(plan.layers):
        _check_layer(layer, f"{where}: layers.{row}", plan.banks)
    return plan


def _check_layer(layer: PlanLayer, at: str, banks: int) -> None:
    if len(layer.residency) != len(layer.placement):
        raise InputError(f"{at}: residency of {len(layer.residency)} experts, placement of {len(layer.placement)}")
    for expert, copies in enumerate(layer.replicas()):
        for copy in copies:
            if copy[-1] >= banks or len(set(copy)) < len(copy):
                raise InputError(f"{at}.placement.{expert}: {list(copy)}; valid: distinct banks from 0 to {banks - 1}")
        if len(set(copies)) < len(copies):
            raise InputError(f"{at}.placement.{expert}: two replicas on the same banks; valid: distinct replicas")


def _triple(path: str, where: str) -> EplbTriple:
    valid = f"valid: an .npz with the integer arrays {', '.join(EPLB_KEYS)}"
    try:
        with warnings.catch_warnings(), np.load(path, allow_pickle=False) as file:
            warnings.simplefilter("ignore")
            arrays = {key: np.asarray(file[key]) for key in EPLB_KEYS if key in file.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{where}: cannot be read: {str(error)[:200]}; {valid}") from None
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
