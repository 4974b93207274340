"""`moec placement`."""

import io
import json
from pathlib import Path

import click
import numpy as np
from moe_passes.plan.errors import InputError

from moe_compiler.backend.folder import write_bytes
from moe_compiler.documents.placement import PlacementDocument, read_plan
from moe_compiler.formats.eplb import Decoder, to_eplb, to_expert_location, to_expert_map
from moe_compiler.formats.placements import EPLB_KEYS


@click.group("placement", epilog="Example: moec placement export plan.json --format expert-location -o location.json")
def placement_group() -> None:
    """Placements in the formats of other systems (docs/partition.md)."""


@placement_group.command("export")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["eplb", "expert-location", "vllm-ascend"]), required=True)
@click.option("-o", "output", type=click.Path(path_type=Path), required=True, help="File to write (.npz for eplb).")
def export_command(plan: Path, form: str, output: Path) -> None:
    """Write PLAN (of `moec partition --equal-slots -o`) as an EPLB triple, for SGLang, or for vllm-ascend."""
    document = _read(plan)
    layers, banks = [layer.replicas() for layer in document.layers], document.banks
    if form == "eplb":
        triple = to_eplb(layers, banks)
        buffer = io.BytesIO()
        arrays = (triple.physical_to_logical, triple.logical_to_physical, triple.counts)
        np.savez_compressed(buffer, **dict(zip(EPLB_KEYS, arrays, strict=True)))  # type: ignore[arg-type]
        content = buffer.getvalue()
    elif form == "vllm-ascend":
        content = (json.dumps(to_expert_map(layers, banks)) + "\n").encode()
    else:
        content = (json.dumps(to_expert_location(layers, banks, _decoder(document, plan))) + "\n").encode()
    write_bytes(output, content)
    click.echo(f"written to {output}")


def _read(path: Path) -> PlacementDocument:
    """Read whole experts; a slot of another system holds all of an expert."""
    plan = read_plan(str(path), str(path))
    for layer in plan.layers:
        for expert, level in enumerate(layer.residency):
            if level != "all":
                raise InputError(f"{path}: layer {layer.layer}: expert {expert} is resident as '{level}'; valid: 'all'")
    return plan


def _decoder(plan: PlacementDocument, path: Path) -> Decoder:
    numbers = tuple(layer.layer for layer in plan.layers)
    count = plan.decoder_layers
    if count is None or list(numbers) != sorted({*numbers}) or numbers[0] < 0 or numbers[-1] >= count:
        raise InputError(
            f"{path}: decoder_layers is {count} and MoE layers are {list(numbers)[:8]}; valid: the number of "
            "decoder layers, which an expert location has a row for, and ascending layers below it"
        )
    return Decoder(count, numbers)
