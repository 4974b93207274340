"""`moec estimate`."""

import json
from typing import Any

import click
from rich.table import Table

from moe_compiler.cli.console import plain
from moe_compiler.cli.progress import progress

EXAMPLES = """
\b
Examples:
  moec estimate qwen3-30b-a3b --target rtx5080-ddr5 --format gguf:q4_k_m
  moec estimate gpt-oss-120b --target dgx-spark-gb10 --format gguf:mxfp4 --batch 8 --json
  moec estimate qwen3-30b-a3b --target rtx5090-pcie --format bf16 --place cache=48
  moec estimate deepseek-v3 --target rtx4090x4-xeon6454s --format int4-g128 --place near-share=0.1
  moec estimate qwen3-30b-a3b --target elmoe3d-8gb --draft-length 4 --alpha 0.8

\b
--format: a name (docs/estimate.md), bits by class (experts=4.5,dense=8.5,kv=16,embedding=16), or a name
and what differs (int8-sliced,kv=32).
--place: all-near; experts=far (computed by the far engine); experts=loaded; layers=N:far (the last N
MoE layers); near-share=0.3[:popular|random|front]; cache=SLOTS (least recently used, slots a layer).
"""


@click.command("estimate", epilog=EXAMPLES)
@click.argument("model")
@click.option("--target", required=True, help="Hardware file: a shipped name (`moec targets`) or a path.")
@click.option("--format", help="Weight format; default: what the configuration says, else int8-sliced.")
@click.option("--place", help="Where experts lie; default: the fastest of a few.")
@click.option("--batch", type=int, default=1, show_default=True, help="Sequences decoded together.")
@click.option("--context", type=int, default=1024, show_default=True, help="Tokens in each KV cache.")
@click.option("--draft-length", type=int, default=0, show_default=True, help="γ; 0 is plain decoding.")
@click.option("--alpha", type=float, metavar="X", help="Measured acceptance rate: accepted over drafted tokens.")
@click.option("--profile", help="Routing trace (.npz, docs/profiles.md); default: a synthetic one.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of a synthetic profile and placement.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the hardware file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def estimate_command(model: str, target: str, as_json: bool, **options: Any) -> None:
    """Estimate a step of MODEL on a target with a fixed placement, without solving a schedule."""
    with progress(f"estimate {model} on {target}"):
        from moe_compiler.api import estimate

        found = estimate(model, target, **options)
    if as_json:
        click.echo(json.dumps(found, indent=1, allow_nan=False))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _rows(found):
        table.add_row(name, value)
    plain(120).print(table)


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    size, draft = found["bytes"], found["draft"]
    held = ", ".join(f"{level} {size[level] / 1e9:.2f} GB" for level in ("near", "far", "deep") if size[level])
    rows = [
        ("model", f"{found['model']} in {found['format']}: an expert is {size['expert'] / 1e6:.2f} MB"),
        ("target", f"{found['target']}, batch {found['batch']}, context {found['context']}"),
        ("placement", f"{found['place']}: {held}"),
        ("routing", f"{found['profile']['name']} ({found['profile']['kind']})"),
        ("step", f"{found['step_seconds'] * 1e3:.3f} ms, {found['fixed_seconds'] * 1e3:.3f} ms of it fixed times"),
        ("experts", f"{found['distinct_experts']:.1f} distinct a layer, {found['hit_rate']:.1%} near"),
        ("read", f"{size['per_token'] / 1e6:.1f} MB a token"),
        ("speed", f"{found['tokens_per_second']:.2f} tokens/s"),
        ("limited by", found["limited_by"]),
    ]
    if draft:
        even = draft["break_even_acceptance"]
        rows.append(
            (
                "draft",
                f"length {draft['length']}, acceptance {draft['acceptance_rate']:.2f} ({draft['acceptance_source']}), "
                + ("never faster than plain decoding" if even is None else f"break-even {even:.2f}"),
            )
        )
    return rows + [("note", note) for note in found["notes"]]
