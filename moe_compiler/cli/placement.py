"""`moec placement`."""

import io
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from moe_passes.errors import InputError
from moe_passes.partition_experts.formats import to_eplb, to_expert_location
from moe_passes.partition_experts.problem import Replicas

from moe_compiler.emit.folder import write_bytes

EPLB_NAMES = ("physical_to_logical", "logical_to_physical", "counts")


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
        np.savez_compressed(buffer, **dict(zip(EPLB_NAMES, arrays, strict=True)))  # type: ignore[arg-type]
        content = buffer.getvalue()
    else:
        content = (json.dumps(to_expert_location(layers, banks)) + "\n").encode()
    write_bytes(output, content)
    click.echo(f"written to {output}")


def _read(plan: Path) -> tuple[list[Replicas], int]:
    try:
        document: Any = json.loads(plan.read_text(encoding="utf-8"))
        banks = int(document["banks"])
        layers = [
            tuple(tuple(tuple(int(b) for b in copy) for copy in copies) for copies in layer["placement"])
            for layer in document["layers"]
        ]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{plan}: cannot be read: {str(error)[:200]}") from None
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{plan}: is not a plan; valid: what `moec partition -o` writes") from None
    if banks < 1 or not layers or any(not 0 <= b < banks for la in layers for copies in la for c in copies for b in c):
        raise InputError(f"{plan}: places experts in banks that it does not have")
    return layers, banks
