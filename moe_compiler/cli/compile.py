"""`moec compile`."""

import gc
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
  moec compile qwen3-30b-a3b --target elmoe3d-8gb --report -o out
  moec compile mixtral-8x7b --target elmoe3d-8gb --profile trace.npz --batch 4 -o out
  moec compile ./my-model --target my-box.yaml --draft-length 4 -o out
  moec compile qwen3-30b-a3b --target elmoe3d-8gb --draft-length 3 --alpha 0.8 -o out
  moec compile qwen3-30b-a3b --target rtx5080-ddr5 --format gguf:q4_k_m -o out
  moec compile qwen3-30b-a3b --target rtx3090-host --place layers=20:far -o out
  moec compile olmoe-1b-7b --target elmoe3d-8gb --set links.aggregation.bandwidth_gb_s=8 -o out

\b
MODEL is a shipped name (`moec models`), a folder with a Hugging Face config.json, or such a file.
"""

COLLECTION = (10_000, 20, 100)
"""Garbage is looked for less often: millions of objects of torch live to the end, and walking them took a sixth of the
time of a compile."""


@click.command("compile", epilog=EXAMPLES)
@click.argument("model")
@click.option("--target", required=True, help="Hardware file: a shipped name (`moec targets`) or a path.")
@click.option(
    "--format", help="Weight format (docs/estimate.md); default: what the configuration says, else int8-sliced."
)
@click.option("--place", help="Where experts are to lie (docs/estimate.md); default: where they are found best.")
@click.option("--profile", help="Routing trace (.npz, docs/profiles.md); default: a synthetic one.")
@click.option("--batch", type=int, default=1, show_default=True, help="Sequences decoded together.")
@click.option("--context", type=int, default=1024, show_default=True, help="Tokens in each KV cache.")
@click.option("--draft-length", default="auto", show_default=True, help="γ: auto, or a number; 0 is plain decoding.")
@click.option(
    "--alpha",
    type=float,
    metavar="X",
    help="Measured acceptance rate: accepted over drafted tokens, at γ (at 6 where γ is open).",
)
@click.option(
    "--accepted-lengths",
    type=click.Path(),
    metavar="FILE",
    help="Measured: how many rounds accepted 0, 1, 2, … tokens, .json or .npz (docs/profiles.md).",
)
@click.option("--prompt-tokens", type=int, metavar="N", help="Also estimate seconds to the first token of a prompt.")
@click.option("--pipeline", help="Passes to run, as text; default: all (`moec passes`).")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the hardware file.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of solvers and of synthetic profiles.")
@click.option(
    "--time-limit",
    type=float,
    default=10.0,
    show_default=True,
    help="Solver budget in deterministic seconds.",
)
@click.option("--cost-model", default="analytic", show_default=True, help="Registered model that prices the machine.")
@click.option("--report", "with_report", is_flag=True, help="Also write report.html (`moec report`).")
@click.option("--json", "as_json", is_flag=True, help="Print cost.json to stdout.")
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), help="Folder to write; must not exist.")
def compile_command(
    model: str,
    target: str,
    overrides: tuple[str, ...],
    with_report: bool,
    as_json: bool,
    output: Path,
    **options: Any,
) -> None:
    """Compile MODEL for a target: plan, cost estimate, schedule.py, timeline, and the IR after every pass."""
    from moe_compiler.backend.folder import check_free

    check_free(output)
    gc.set_threshold(*COLLECTION)
    with progress(f"compile {model} for {target}") as report:
        from moe_compiler.api import compile

        result = compile(model, target, overrides=overrides, progress=report, **options)
        result.save(output, _add_report if with_report else None)
    if as_json:
        click.echo(json.dumps(result.cost, indent=1, allow_nan=False))
    else:
        _print_summary(output)


def _add_report(folder: Path) -> None:
    from moe_compiler.api import report

    (folder / "report.html").write_text(report(folder), encoding="utf-8")


def _print_summary(output: Path) -> None:
    from moe_compiler.documents.folder import read_folder
    from moe_compiler.explanation.summary import summary_rows

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in summary_rows(read_folder(output)):
        table.add_row(name, value)
    console = plain(120)
    console.print(table)
    console.print(f"written to {output}/")
