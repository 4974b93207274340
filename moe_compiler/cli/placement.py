"""`moec placement`."""

import io
import json
from pathlib import Path

import click
import numpy as np
from moe_passes.plan.decisions import Replicas
from moe_passes.plan.errors import InputError

from moe_compiler.backend.folder import write_bytes
from moe_compiler.documents.placement import read_plan
from moe_compiler.formats.eplb import to_eplb, to_expert_location
from moe_compiler.formats.placements import EPLB_KEYS


@click.group("placement", epilog="Example: moec placement export plan.json --format expert-location -o location.json")
def placement_group() -> None:
    """Placements in the formats of other systems (docs/partition.md)."""


@placement_group.command("export")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["eplb", "expert-location"]), required=True)
@click.option("-o", "output", type=click.Path(path_type=Path), required=True, help="File to write (.npz for eplb).")
def export_command(plan: Path, form: str, output: Path) -> None:
    """Write PLAN (of `moec partition -o`) as an EPLB triple or an expert-location JSON."""
    layers, banks = _read(plan)
    if form == "eplb":
        triple = to_eplb(layers, banks)
        buffer = io.BytesIO()
        arrays = (triple.physical_to_logical, triple.logical_to_physical, triple.counts)
        np.savez_compressed(buffer, **dict(zip(EPLB_KEYS, arrays, strict=True)))  # type: ignore[arg-type]
        content = buffer.getvalue()
    else:
        content = (json.dumps(to_expert_location(layers, banks)) + "\n").encode()
    write_bytes(output, content)
    click.echo(f"written to {output}")


def _read(path: Path) -> tuple[list[Replicas], int]:
    """Read whole experts; a slot of another system holds all of an expert."""
    plan = read_plan(str(path), str(path))
    for layer in plan.layers:
        for expert, level in enumerate(layer.residency):
            if level != "all":
                raise InputError(f"{path}: layer {layer.layer}: expert {expert} is resident as '{level}'; valid: 'all'")
    return [layer.replicas() for layer in plan.layers], plan.banks
