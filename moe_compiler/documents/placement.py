"""A placement: what `moec partition -o` writes, and the part of plan.json that other plans are compared with."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from moe_passes.plan.decisions import RESIDENCY, Replicas, shared_banks
from moe_passes.plan.errors import InputError
from pydantic import Field, ValidationError

from moe_compiler.documents.base import Document
from moe_compiler.documents.json_file import malformed, read_json

MOST_BANKS, MOST_LAYERS, MOST_EXPERTS = 65536, 65536, 65536

Bank = Annotated[int, Field(ge=0, lt=MOST_BANKS)]


class ExpertBytes(Document):
    """Bytes of one expert's slices."""

    msb: int
    all: int


class LayerEntry(Document):
    """One layer: `placement` is [expert][replica][bank]."""

    layer: Annotated[int, Field(ge=0, lt=MOST_LAYERS)]
    expert_bytes: ExpertBytes | None = None
    residency: Annotated[list[Literal["none", "msb", "all"]], Field(min_length=1, max_length=MOST_EXPERTS)]
    placement: list[list[Annotated[list[Bank], Field(min_length=1)]]]

    def levels(self) -> np.ndarray:
        """Return residency as numbers: [expert]."""
        return np.array([RESIDENCY.index(level) for level in self.residency], dtype=np.int64)

    def replicas(self) -> Replicas:
        """Return the placement, the banks of a replica ascending."""
        return tuple(tuple(tuple(sorted(copy)) for copy in copies) for copies in self.placement)


class PlacementDocument(Document):
    """A plan; keys that a reader has no use for are left alone."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    model: str | None = None
    decoder_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)] | None = None
    banks: Annotated[int, Field(ge=1, le=MOST_BANKS)]
    layers: Annotated[list[LayerEntry], Field(min_length=1)]


def read_plan(path: str, where: str) -> PlacementDocument:
    """Read what `moec partition -o` wrote.

    Raises:
        InputError: not such a file.
    """
    return parse(read_json(path, where), where)


def parse(document: Any, where: str) -> PlacementDocument:
    """Check a plan.

    Raises:
        InputError: malformed; the message names the field.
    """
    if not isinstance(document, dict) or "layers" not in document:
        raise InputError(f"{where}: is not a plan; valid: what `moec partition -o` writes, or an expert location")
    try:
        plan = PlacementDocument.model_validate(document)
    except ValidationError as error:
        raise malformed(error, where) from None
    check_layers(plan.layers, plan.banks, where)
    return plan


def check_layers(layers: Sequence[LayerEntry], banks: int, where: str) -> None:
    """Check what a type does not say: lengths, and banks that are there and not shared.

    Raises:
        InputError: a layer is wrong.
    """
    for row, layer in enumerate(layers):
        _check_layer(layer, f"{where}: layers.{row}", banks)


def _check_layer(layer: LayerEntry, at: str, banks: int) -> None:
    if len(layer.residency) != len(layer.placement):
        raise InputError(f"{at}: residency of {len(layer.residency)} experts, placement of {len(layer.placement)}")
    for expert, copies in enumerate(layer.replicas()):
        for copy in copies:
            if copy[-1] >= banks or len(set(copy)) < len(copy):
                raise InputError(f"{at}.placement.{expert}: {list(copy)}; valid: distinct banks from 0 to {banks - 1}")
        if shared_banks(copies):
            raise InputError(
                f"{at}.placement.{expert}: several replicas in banks {list(shared_banks(copies)[:8])}; valid: replicas "
                "that share no bank"
            )
