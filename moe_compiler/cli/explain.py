"""`moec explain`."""

import json
from typing import Any

import click

from moe_compiler.cli.progress import progress

EXAMPLES = """
\b
Examples:
  moec explain out
  moec explain out --expert 5.12
  moec explain out --task 120
  moec explain out --pass partition-experts
  moec explain out --bound
  moec explain out --why-not γ=6
  moec explain out --why-not placer=eplb --json

\b
DIR is what `moec compile -o DIR` wrote. Without options it answers why this draft length, why not faster, which tasks
delay the round, which loads were wasted, where the energy goes, and how sure it is. --why-not takes γ, bits, placer,
near-share, place, format, batch, context, alpha, seed, profile, target, time-limit, PASS.OPTION, or a field of the
hardware file, and compiles that: as long as the compile itself took.
"""


@click.command("explain", epilog=EXAMPLES)
@click.argument("folder", metavar="DIR")
@click.option("--expert", metavar="LAYER.EXPERT", help="Where an expert is, and why.")
@click.option("--task", type=int, metavar="ID", help="What delays a task of the scheduled round; its slack.")
@click.option("--pass", "pass_name", metavar="NAME", help="What a pass decided, and the IR around it.")
@click.option("--bound", is_flag=True, help="Why it cannot be faster, and which knob moves it.")
@click.option("--why-not", metavar="PATH=VALUE", help="Compile the alternative; what it costs, and where.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def explain_command(folder: str, as_json: bool, **asked: Any) -> None:
    """Say why a compile came out as it did."""
    with progress(f"explain {folder}") as report:
        from moe_compiler.api import explain

        found = explain(folder, **asked, progress=report)
    if as_json:
        click.echo(json.dumps(found, indent=1, allow_nan=False))
        return
    click.echo(f"{found['model']} for {found['target']}")
    for answer in found["answers"]:
        click.echo(f"\n{answer['question']}")
        for sentence in answer["sentences"]:
            click.echo(f"  {sentence}")
        for line in answer["figures"].get("changes", ()):
            click.echo(f"    {line}")
