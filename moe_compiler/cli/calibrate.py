"""`moec calibrate`."""

import json
from pathlib import Path

import click

from moe_compiler.cli.progress import progress

EXAMPLES = """
\b
Examples:
  moec calibrate -o targets/HOST.yaml
  moec calibrate --disk /mnt/nvme -o host.yaml --json

\b
Takes a minute or two on an idle machine. The file is a hardware file of schema 2 (docs/targets.md): memory before a
disk, with the rates of the kernel that `moec run` uses, direct reads, and the fixed times of whole steps.
"""


@click.command("calibrate", epilog=EXAMPLES)
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), help="The hardware file.")
@click.option("--disk", help="Folder on the disk that stores are read from; default: that of the file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def calibrate_command(output: Path, disk: str | None, as_json: bool) -> None:
    """Measure this machine into a hardware file."""
    with progress("calibrate") as report:
        from moe_compiler.api import calibrate

        found = calibrate(output, disk, report)
    click.echo(json.dumps(found, indent=1) if as_json else f"{output}: {found['description']}")
