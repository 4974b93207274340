"""`moec partition`."""

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from moe_compiler.backend.folder import check_file, write_file
from moe_compiler.cli.console import plain
from moe_compiler.cli.progress import progress

EXAMPLES = """
\b
Examples:
  moec partition --trace coding.npz --score math.npz --model mixtral-8x7b --target elmoe3d-64gb
  moec partition --trace my.npz --model qwen3-30b-a3b --target elmoe3d-64gb --batch 4 --json -o plan.json
  moec partition --trace my.npz --model qwen3-30b-a3b --target elmoe3d-64gb --equal-slots -o slots.json
  moec partition --trace new.npz --model qwen3-30b-a3b --target elmoe3d-64gb --previous plan.json
      --max-migration-gb 1 -o plan2.json

\b
A trace is an .npz (docs/profiles.md), or synthetic-TOKENStokens-seedN.
Without --score, the first three quarters of the trace are trained on and the rest is scored.
What a step costs is a closed form: docs/partition.md.
"""


@click.command("partition", epilog=EXAMPLES)
@click.option("--trace", required=True, help="Routing trace to optimise for.")
@click.option("--score", help="Routing trace to report on; default: a held-out split of --trace.")
@click.option("--model", required=True, help="A shipped name (`moec models`), or a folder with a config.json.")
@click.option("--target", required=True, help="Hardware file: a shipped name (`moec targets`) or a path.")
@click.option(
    "--format", help="Weight format (docs/estimate.md); default: what the configuration says, else int8-sliced."
)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the hardware file.")
@click.option("--batch", type=int, default=1, show_default=True, help="Sequences decoded together.")
@click.option("--context", type=int, default=1024, show_default=True, help="Tokens in each KV cache.")
@click.option("--step-tokens", type=int, default=1, show_default=True, help="Tokens of each sequence in a step: γ + 1.")
@click.option("--baseline", "baselines", multiple=True, metavar="NAME", help="Compare with this one only; repeatable.")
@click.option("--previous", metavar="PLAN", help="Older plan to change: plan.json, expert location or map, EPLB .npz.")
@click.option("--max-migration-gb", type=float, help="Bytes that may move from --previous, in 10⁹; default: any.")
@click.option("--equal-slots", is_flag=True, help="Whole experts, equally many a bank, as EPLB and SGLang load.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the search.")
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes; the answer does not depend on it.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan and its score as one JSON document.")
@click.option("-o", "output", type=click.Path(path_type=Path), help="File to write that document to.")
def partition_command(as_json: bool, output: Path | None, **options: Any) -> None:
    """Place the experts of a model in the banks of a machine, from a routing trace."""
    check_file(output)
    with progress(f"partition {options['model']}") as report:
        from moe_compiler.api import PlacementRequest, place

        document = place(PlacementRequest(**options), report)
    text = json.dumps(document, indent=1, allow_nan=False)
    if output is not None:
        write_file(output, text + "\n")
    if as_json:
        click.echo(text)
    else:
        _print_summary(document, output)


def _print_summary(document: dict[str, Any], output: Path | None) -> None:
    score, trace = document["score"], document["trace"]
    console = plain(120)
    console.print(
        f"{document['model']} on {document['target']}: {len(document['layers'])} layers, {document['banks']} banks, "
        f"batch {document['batch']}, {document['step_tokens']} tokens a sequence",
    )
    console.print(f"trained on {_named(trace)}, scored on {_named(score['trace'])}")
    if trace["unseen_experts"]:
        console.print(
            f"warning: no training token chooses {trace['unseen_experts']} of {trace['experts']} experts; they are "
            "placed as if any expert were as likely. Valid: a longer trace, or one of what will be run",
        )
    console.print(
        f"training step {document['objective'] * 1e3:.4f} ms, bound {document['lower_bound'] * 1e3:.4f} ms, "
        f"gap {document['gap']:.1%}; {_shards(document)}",
    )
    if "migration" in document:
        moved = document["migration"]
        start = moved["curve"][0]["objective"] * 1e3
        console.print(f"moved {moved['moved_bytes'] / 1e9:.3f} GB; the older plan took {start:.4f} ms")
    table = Table("held-out step", "mean ms", "p99 ms", "ours is faster by", box=None, padding=(0, 2, 0, 0))
    table.add_row("ours", f"{score['mean_seconds'] * 1e3:.4f}", f"{score['p99_seconds'] * 1e3:.4f}", "")
    for name, entry in score["baselines"].items():
        gain = 1 - score["mean_seconds"] / entry["mean_seconds"] if entry["mean_seconds"] else 0.0
        figures = (f"{entry['mean_seconds'] * 1e3:.4f}", f"{entry['p99_seconds'] * 1e3:.4f}", f"{gain:.1%}")
        table.add_row(name, *figures)
    console.print(table)
    if score["do_not_fit"]:
        console.print(f"do not fit: {', '.join(score['do_not_fit'])}")
    if output is not None:
        console.print(f"written to {output}")


def _named(trace: dict[str, str]) -> str:
    return f"{trace['name']} ({trace['kind']})"


def _shards(document: dict[str, Any]) -> str:
    counts: dict[int, int] = {}
    resident = copies = 0
    for layer in document["layers"]:
        for replicas in layer["placement"]:
            resident += bool(replicas)
            for replica in replicas:
                copies += 1
                counts[len(replica)] = counts.get(len(replica), 0) + 1
    total = sum(len(layer["placement"]) for layer in document["layers"])
    by_count = ", ".join(f"{count}×{banks}" for banks, count in sorted(counts.items()))
    return f"{resident} of {total} experts resident, {copies - resident} more replicas; replicas × banks: {by_count}"
