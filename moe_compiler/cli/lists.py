"""`moec passes`, `moec models`, `moec targets`."""

import json
from typing import Any

import click
from rich.table import Table

from moe_compiler.cli.console import plain


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as one JSON document, or as a table."""
    if as_json:
        click.echo(json.dumps(rows, indent=1, allow_nan=False))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in rows[0] if rows else ():
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    plain(200).print(table)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(v) for v in value) or "-"
    if isinstance(value, dict):
        return " ".join(str(v) for v in value.values())
    return str(value)


json_flag = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command("passes", epilog="Example: moec passes --json")
@json_flag
def passes_command(as_json: bool) -> None:
    """List the passes, ours in the order of the default pipeline, with what they need, give and take."""
    from moe_passes.ir.registry import load_pass, pass_names

    rows = [
        {
            "name": kind.name,
            "summary": kind.summary(),
            "reads": "; ".join(state.what for state in kind.needs),
            "writes": "; ".join(state.what for state in kind.gives),
            "options": [{"name": o.name, "values": o.values, "help": o.help} for o in kind.options()],
        }
        for kind in map(load_pass, pass_names())
    ]
    show(rows, as_json)


@click.command("models", epilog="Example: moec models")
@json_flag
def models_command(as_json: bool) -> None:
    """List the shipped models."""
    from moe_compiler.frontend.models import load_model, shipped_models, transformers_config

    rows = []
    for name in shipped_models():
        source = load_model(name)
        config = transformers_config(source).get_text_config()
        rows.append(
            {
                "name": name,
                "architecture": (source.config.get("architectures") or [config.model_type])[0],
                "hidden": config.hidden_size,
                "layers": config.num_hidden_layers,
                "experts": source.experts,
                "top_k": source.top_k,
                "format": source.weights.name,
            }
        )
    show(rows, as_json)


@click.command("targets", epilog="Example: moec targets")
@json_flag
def targets_command(as_json: bool) -> None:
    """List the shipped hardware files."""
    from moe_compiler.hardware.loader import load_target, shipped_targets

    rows = []
    for name in shipped_targets():
        loaded = load_target(name)
        tiers = loaded.tiers().tiers
        rows.append(
            {
                "name": name,
                "schema": loaded.target.schema_,
                "memories": ", ".join(
                    f"{tier.name} {tier.capacity_bytes / 1e9:g} GB {tier.bytes_per_second / 1e9:.3g} GB/s"
                    for tier in tiers
                ),
                "description": loaded.target.description,
            }
        )
    show(rows, as_json)
