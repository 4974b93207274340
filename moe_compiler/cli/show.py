"""`moec show`."""

import click

from moe_compiler.cli.text import read_text, title

EXAMPLES = """
\b
Examples:
  moec show out/ir/09-verify-plan.mlir
  moec show out/ir/09-verify-plan.mlir --op sched.task --op sched.buffer
  moec show - --op moe.expert_store < plan.mlir
"""


@click.command("show", epilog=EXAMPLES)
@click.argument("file")
@click.option("--op", "names", multiple=True, metavar="NAME", help="Show operations of this name only; repeatable.")
def show_command(file: str, names: tuple[str, ...]) -> None:
    """Print one line for each operation or task of IR text (FILE, or - for stdin), aligned, with units."""
    text = read_text(file)
    from moe_passes.ir.dialects import context, parse
    from moe_passes.ir.show import lines

    rows = lines(parse(text, title(file), context()), names)
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    for *columns, says in rows:
        click.echo("  ".join([*map(str.ljust, columns, widths), says]))
