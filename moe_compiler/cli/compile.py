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
  moec compile qwen3-30b-a3b --target elmoe3d-8gb -o out
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
@click.option("--json", "as_json", is_flag=True, help="Print cost.json to stdout.")
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), help="Folder to write; must not exist.")
def compile_command(
    model: str, target: str, overrides: tuple[str, ...], as_json: bool, output: Path, **options: Any
) -> None:
    """Compile MODEL for a target: plan, cost estimate, schedule.py, timeline, and the IR after every pass."""
    from moe_compiler.backend.folder import check_free

    check_free(output)
    gc.set_threshold(*COLLECTION)
    with progress(f"compile {model} for {target}") as report:
        from moe_compiler.api import compile

        result = compile(model, target, overrides=overrides, progress=report, **options)
        result.save(output)
    if as_json:
        click.echo(json.dumps(result.cost, indent=1, allow_nan=False))
    else:
        _print_summary(result.plan, result.cost, result.record, output)


def _print_summary(plan: dict[str, Any], cost: dict[str, Any], record: dict[str, Any], output: Path) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in summary_rows(plan, cost, record):
        table.add_row(name, value)
    console = plain(120)
    console.print(table)
    console.print(f"written to {output}/")


def summary_rows(plan: dict[str, Any], cost: dict[str, Any], record: dict[str, Any]) -> list[tuple[str, str]]:
    """Word the result for people."""
    draft, round_, held, count = cost["draft"], cost["round"], cost["held_out"], cost["parameters"]
    training = cost["training_round"]
    layers = plan["layers"]
    changed = f" with {', '.join(cost['overrides'])}" if cost["overrides"] else ""
    break_even = draft["break_even_acceptance"]
    if draft["length"]:
        mode = f"speculative decoding, draft length {draft['length']}, draft in {draft['bits']} bits"
        if draft["dense_bits"] != draft["bits"]:
            mode += f", its dense weights in {draft['dense_bits']}"
    else:
        mode = "plain decoding, draft length 0: drafting does not pay here"
    alpha = f"{draft['acceptance_rate']:.2f} ({draft['acceptance_source']})"
    return [
        ("model", f"{cost['model']}: {len(layers)} MoE layers of {len(layers[0]['residency'])} experts"),
        *(("note", note) for note in record["notes"]),
        ("format", cost["format"]),
        (
            "parameters",
            f"{count['total'] / 1e9:.2f} B, active {count['active_with_embedding'] / 1e9:.2f} B "
            f"({count['active_without_embedding'] / 1e9:.2f} B without the input embedding)",
        ),
        ("target", f"{cost['target']}{changed}, batch {cost['batch']}, context {cost['context']}"),
        ("profile", f"{cost['profile']['name']} ({cost['profile']['kind']} routing)"),
        ("mode", mode),
        ("acceptance", alpha + ("" if break_even is None else f", break-even {break_even:.2f}")),
        (
            "experts in HB",
            f"{draft['expert_fraction']:.1%}, staging {plan['hb']['staging_bytes'] / 1e6:.1f} MB",
        ),
        ("hot set", _hot_set(cost["hot_set"], held["swaps"])),
        (
            "held-out round",
            f"{round_['seconds'] * 1e3:.3f} ms for {round_['tokens']:.2f} tokens, mean of {held['rounds']} "
            f"(95 %: {_range(*round_['ci95_seconds'])}); bound {round_['lower_bound_seconds'] * 1e3:.3f} ms, "
            f"gap {round_['gap']:.1%}",
        ),
        (
            "regret",
            f"{held['regret']:.1%} over schedules with hindsight "
            f"({held['informed_regret']:.1%} without the draft's wrong asks), p95 {held['p95_seconds'] * 1e3:.3f} ms",
        ),
        ("token", _token(cost["token"])),
        *([("prompt", _prompt(cost["prefill"]))] if cost["prefill"] else []),
        (
            "training round",
            f"{training['seconds'] * 1e3:.3f} ms, scheduled in advance, in {training['tasks']} tasks; "
            f"bound {training['lower_bound_seconds'] * 1e3:.3f} ms, gap {training['gap']:.1%}, "
            f"greedy {training['greedy_seconds'] * 1e3:.3f} ms",
        ),
        ("steady state", _steady_state(cost["steady_state"])),
        ("limited by", f"{cost['limited_by']} ({cost['roofline_fraction']:.0%} of its roofline)"),
        ("compiled in", f"{record['total_seconds']:.1f} s, peak {record['peak_mib']:.0f} MiB"),
    ]


def _range(low: float, high: float) -> str:
    return f"{low * 1e3:.3f} to {high * 1e3:.3f}"


def _token(token: dict[str, Any]) -> str:
    text = f"{token['seconds'] * 1e3:.3f} ms, "
    text += "energy not stated" if token["joules"] is None else f"{token['joules'] * 1e3:.1f} mJ"
    if token["low_seconds"] is None:
        return text
    return f"{text}; {_range(token['low_seconds'], token['high_seconds'])} ms over routing like every measured model's"


def _prompt(prefill: dict[str, Any]) -> str:
    passes = "one pass" if prefill["passes"] == 1 else f"{prefill['passes']} passes"
    return f"{prefill['prompt_tokens']} tokens: {prefill['seconds'] * 1e3:.1f} ms to the first token, in {passes}"


def _hot_set(rule: dict[str, Any], swaps: float) -> str:
    if not rule["window_tokens"]:
        return "frozen: residents stay as they are"
    rounds = "every round" if rule["every_rounds"] == 1 else f"every {rule['every_rounds']} rounds"
    return (
        f"follows the last {rule['window_tokens']} tokens, up to {rule['most']} experts a layer {rounds}; "
        f"{swaps:.1f} change a round"
    )


def _steady_state(steady: dict[str, Any]) -> str:
    return (
        f"a round every {steady['period_seconds'] * 1e3:.3f} ms, bound {steady['lower_bound_seconds'] * 1e3:.3f} ms; "
        f"{steady['carried_loads']} loads of the next round in the tail"
    )
