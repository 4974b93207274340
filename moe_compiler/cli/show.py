"""`moec show`."""

import json
from pathlib import Path

import click

from moe_compiler.cli.text import printable, read_text, title

EXAMPLES = """
\b
Examples:
  moec show out
  moec show out/ir/09-verify-plan.mlir
  moec show out/ir/09-verify-plan.mlir --op sched.task --op sched.buffer
  moec show - --op moe.expert_store < plan.mlir
  moec show out/plan.json
  moec show out/timeline.perfetto-trace --json
"""


@click.command("show", epilog=EXAMPLES)
@click.argument("file")
@click.option("--op", "names", multiple=True, metavar="NAME", help="Of IR: operations of this name only; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show_command(file: str, names: tuple[str, ...], as_json: bool) -> None:
    """Print a file of ours in lines, with units: IR (FILE, or - for stdin), a compiled folder, or any file in one."""
    from moe_passes.plan.errors import InputError

    from moe_compiler.showing import is_ir, show, show_ir

    if file == "-" or names or is_ir(Path(file)):
        found = show_ir(read_text(file), title(file), names)
    else:
        found = show(Path(file))
    if as_json:
        try:
            click.echo(json.dumps(found.content, indent=1, allow_nan=False))
        except (ValueError, TypeError):
            raise InputError(f"{file}: holds a number that JSON has no word for") from None
        return
    rows = [tuple(map(printable, row)) for row in found.rows]
    columns = range(len(rows[0]) - 1) if rows else range(0)
    widths = [max(len(row[column]) for row in rows) for column in columns]
    for *cells, says in rows:
        click.echo("  ".join([*map(str.ljust, cells, widths), says]))
