"""`moec export`."""

from pathlib import Path

import click
from moe_passes.plan.errors import InputError

from moe_compiler.formats.runtimes import TARGETS, export

EXAMPLES = """
\b
Examples:
  moec export out --to llama.cpp
  moec export out --to ktransformers -o stats.pt
  moec export out --to sglang -o location.json
  moec export out --to neutral -o experts.json

\b
Flags go to stdout (to FILE, where there is no other file), the predicted tokens/s as a comment before them. A plan that
the runtime cannot express is refused with the reason, and with what could be compiled instead (docs/export.md).
"""


@click.command("export", epilog=EXAMPLES)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, type=click.Choice(list(TARGETS)), help="The runtime.")
@click.option("-o", "output", type=click.Path(path_type=Path), help="File to write.")
def export_command(folder: Path, target: str, output: Path | None) -> None:
    """Write a compiled plan as flags and files of a runtime that you already have."""
    from moe_compiler.backend.folder import check_beside, write_bytes
    from moe_compiler.documents.folder import read_folder

    check_beside(folder, output)
    found = export(read_folder(folder), target)
    if found.content is None:
        if output is None:
            click.echo(found.command, nl=False)
        else:
            write_bytes(output, found.command.encode())
            click.echo(f"written to {output}")
        return
    if output is None:
        raise InputError(f"--to {target} writes a file; valid: -o FILE")
    if found.suffix and output.suffix != found.suffix:
        raise InputError(f"-o {output}: {target} goes by a file's ending; valid: a name that ends in {found.suffix}")
    write_bytes(output, found.content)
    click.echo(found.with_file(str(output)), nl=False)
    click.echo(f"written to {output}", err=True)
