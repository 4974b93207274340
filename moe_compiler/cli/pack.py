"""`moec pack` and `moec unpack`."""

import json
from pathlib import Path
from typing import Any

import click

from moe_compiler.cli.progress import progress

PACK_EXAMPLES = """
\b
Examples:
  moec pack qwen3-30b-a3b --weights Qwen3-30B-A3B/ -o qwen3.store
  moec pack my-model/ --weights my-model/ -o my-model.store --json

\b
The folder holds *.safetensors in one or many files, as transformers saves them, and the tokenizer. A layer is held in
memory at a time. Every matrix becomes INT8 in groups of 32, its top and low nibbles apart (docs/run.md).
"""
UNPACK_EXAMPLES = """
\b
Examples:
  moec unpack qwen3.store -o qwen3-int8/
  moec unpack qwen3.store --slice msb -o qwen3-draft/

\b
The folder is a checkpoint in float32 that transformers loads: exactly the weights that are computed with.
"""


@click.command("pack", epilog=PACK_EXAMPLES)
@click.argument("model")
@click.option("--weights", required=True, help="Folder with *.safetensors of MODEL, and its tokenizer.")
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), help="The store: a file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def pack_command(model: str, weights: str, output: Path, as_json: bool) -> None:
    """Cut the weights of MODEL into slices and write them as a store."""
    with progress(f"pack {model}") as report:
        from moe_compiler.api import pack

        found = pack(model, weights, output, report)
    _say(found, as_json, f"{found['store']}: {found['bytes'] / 1e6:,.1f} MB")


@click.command("unpack", epilog=UNPACK_EXAMPLES)
@click.argument("store")
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), help="The checkpoint: a new folder.")
@click.option("--slice", "piece", default="full", show_default=True, help="full, or msb: what the draft computes with.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def unpack_command(store: str, output: Path, piece: str, as_json: bool) -> None:
    """Write the weights of STORE as a checkpoint that transformers loads."""
    with progress(f"unpack {store}") as report:
        from moe_compiler.api import unpack

        found = unpack(store, output, piece, report)
    _say(found, as_json, f"{found['folder']}: {found['bytes'] / 1e6:,.1f} MB")


def _say(found: dict[str, Any], as_json: bool, text: str) -> None:
    click.echo(json.dumps(found, indent=1) if as_json else text)
