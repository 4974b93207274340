"""`moec profile`."""

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from moe_compiler.cli.console import plain
from moe_compiler.cli.progress import progress

EXAMPLES = """
\b
Examples:
  moec profile my-model/ --weights my-model/ --text corpus.txt -o my-model.npz
  moec profile my-model/ --weights my-model.store --text corpus.txt --tokens 4096 --json -o my-model.npz
  moec compile my-model/ --target elmoe3d-8gb --profile my-model.npz -o out

\b
The profile holds the routing of the target and of a draft, token by token, and how many drafted tokens are accepted
with experts and dense weights in 4 or 8 bits and an eighth to all of the experts resident (docs/profiles.md).
"""

IMPORT_EXAMPLES = """
\b
Examples:
  moec profile import expert_distribution_recorder_1.pt --model qwen3-30b-a3b -o routing.npz
  moec profile import route_trace.csv -o routing.npz
  moec profile import load.npz --top-k 8 -o routing.npz

\b
FILE is what SGLang's or KTransformers' expert-distribution recorder wrote (.pt; pickles in it are not run), a load
matrix as EPLB takes it (.npz, .pt), a CSV or JSON lines with a row a token and layer (docs/profiles.md).
"""
MEASURE = "measure"


class _MeasuresByDefault(click.Group):
    """What is no name of a sub-command is a model: `moec profile MODEL` measures."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Name the sub-command that is meant."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [MEASURE, *args]
        return super().parse_args(ctx, args)


@click.group("profile", cls=_MeasuresByDefault, epilog=EXAMPLES)
def profile_group() -> None:
    """Write a routing profile: `moec profile MODEL …` measures one, `moec profile import FILE …` converts one."""


@profile_group.command("import", epilog=IMPORT_EXAMPLES)
@click.argument("file")
@click.option("--model", help="Check that it is of this model: a shipped name or a folder with a config.json.")
@click.option("--top-k", type=int, help="Experts of a token, where the file holds counts alone and no --model says so.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of tokens that are drawn from counts.")
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), help="The profile: an .npz.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def import_command(file: str, model: str | None, top_k: int | None, seed: int, output: Path, as_json: bool) -> None:
    """Convert routing that another system recorded."""
    with progress(f"import {file}") as report:
        from moe_compiler.api import import_profile

        found = import_profile(file, output, model=model, top_k=top_k, seed=seed, progress=report)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    drawn = "" if found["kind"] == "real" else ", drawn from counts: every output will say synthetic"
    click.echo(
        f"{found['tokens']} tokens, {found['layers']} MoE layers, {found['top_k']} experts a token{drawn}; "
        f"written to {found['profile']}"
    )


@profile_group.command(MEASURE, epilog=EXAMPLES)
@click.argument("model")
@click.option("--weights", required=True, help="Folder with *.safetensors and a tokenizer, or a store (`moec pack`).")
@click.option("--text", required=True, help="File of text like what will be generated.")
@click.option("--tokens", type=int, default=2048, show_default=True, help="Of the text, at most.")
@click.option("--draft-length", type=int, default=8, show_default=True, help="Longest draft that is measured.")
@click.option("--rounds", type=int, default=48, show_default=True, help="Of each draft.")
@click.option(
    "--context",
    type=int,
    help="Tokens of the text that are read as one sequence; default: 1024, fewer where the model is made for fewer.",
)
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), help="The profile: an .npz.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def profile_command(model: str, weights: str, text: str, output: Path, as_json: bool, **measured: Any) -> None:
    """Run MODEL on a text and record its routing and how many drafted tokens it accepts."""
    with progress(f"profile {model}") as report:
        from moe_compiler.api import profile
        from moe_compiler.profiling import Asked

        found = profile(model, weights, text, output, Asked(**measured), report)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    table = Table("experts, bits", "dense, bits", "resident", f"accepted of {found['draft_length']}", box=None)
    for draft in found["drafts"]:
        share, rate = f"{draft['expert_fraction']:.0%}", f"{draft['acceptance_rate']:.0%}"
        table.add_row(str(draft["bits"]), str(draft["dense_bits"]), share, rate)
    plain(100).print(table)
    click.echo(f"{found['tokens']} tokens, written to {found['profile']}")
