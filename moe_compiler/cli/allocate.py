"""`moec allocate`."""

import json
from pathlib import Path
from typing import Any

import click

from moe_compiler.backend.folder import check_file, write_file
from moe_compiler.cli.codes import EXIT_INFEASIBLE, EXIT_UNKNOWN
from moe_compiler.cli.progress import progress

EXAMPLES = """
\b
Examples:
  moec allocate buffers.csv --capacity 1048576 -o placed.csv
  moec allocate buffers.csv --capacity 65536 --json

\b
The CSV has the columns id,lower,upper,size: a buffer of `size` bytes is alive in [lower, upper).
An optional column `alignment` holds what its offset must be a multiple of, an optional column
`offset` the offset that it must have (docs/allocate.md).

\b
Exit codes: 0 placed, 2 the file is wrong, 3 there is no allocation (the message names buffers that
cannot be placed together), 4 none was found in the limit.
"""


@click.command("allocate", epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--capacity", type=int, required=True, metavar="BYTES", help="Size of the memory.")
@click.option("--time-limit", type=float, default=60.0, show_default=True, help="Deterministic seconds of search.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the search.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.option("-o", "output", type=click.Path(path_type=Path), help="CSV to write, with a column `offset`.")
def allocate_command(
    file: Path, capacity: int, time_limit: float, seed: int, as_json: bool, output: Path | None
) -> None:
    """Give every buffer of FILE an address below a capacity, so that none overlap in time and address."""
    check_file(output)
    with progress(f"allocate {file.name}") as report:
        from moe_compiler.api import allocate

        document, placed = allocate(file, capacity, time_limit=time_limit, seed=seed, progress=report)
    if placed is not None and output is not None:
        write_file(output, placed)
    if as_json:
        click.echo(json.dumps(document, indent=1))
    _report(document, capacity, as_json, output)


def _report(document: dict[str, Any], capacity: int, as_json: bool, output: Path | None) -> None:
    status = document["status"]
    if status == "infeasible":
        names = ", ".join(document["conflict"][:20]) + (", …" if len(document["conflict"]) > 20 else "")
        click.echo(f"moec: no allocation below {capacity:,} bytes: these cannot be placed together: {names}", err=True)
        raise click.exceptions.Exit(EXIT_INFEASIBLE)
    if status == "unknown":
        click.echo(f"moec: no allocation below {capacity:,} bytes was found in the limit (--time-limit)", err=True)
        raise click.exceptions.Exit(EXIT_UNKNOWN)
    if not as_json:
        click.echo(
            f"{len(document['buffers'])} buffers in {document['peak']:,} of {capacity:,} bytes "
            f"({status}; bound {document['lower_bound']:,}, first fit {document['greedy']:,})"
            + (f"; written to {output}" if output else "")
        )
