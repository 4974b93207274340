"""`moec report`."""

from pathlib import Path

import click

from moe_compiler.cli.progress import progress

EXAMPLES = """
\b
Examples:
  moec report out
  moec report out -o /tmp/out.html

\b
The page holds everything that it needs and loads nothing: open it in a browser, send it to others. It shows what
`moec run` measured as well, if that was run with the same folder.
"""


@click.command("report", epilog=EXAMPLES)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "output", type=click.Path(path_type=Path), help="File to write; default: DIR/report.html.")
def report_command(folder: Path, output: Path | None) -> None:
    """Write a page about a compile: summary, timeline, memories, experts, passes, and a search over tasks."""
    from moe_compiler.backend.folder import check_beside, write_file

    check_beside(folder, output)
    with progress(f"report {folder}"):
        from moe_compiler.api import report

        page = report(folder)
        output = output or folder / "report.html"
        write_file(output, page)
    click.echo(f"written to {output}")
