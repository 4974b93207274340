"""`moec allocate`."""

import json
import math
from pathlib import Path
from typing import Any

import click
from moe_passes.plan.errors import InputError
from moe_passes.plan.request import SEED, Range

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
    from moe_compiler.formats.allocation_file import LARGEST, read

    Range(1, LARGEST - 1).check("--capacity", capacity)
    SEED.check("--seed", seed)
    if not 0 < time_limit < math.inf:
        raise InputError(f"--time-limit {time_limit}; valid: a number of seconds above 0")
    check_file(output)
    table = read(file)
    with progress(f"allocate {file.name}") as report:
        report(f"{len(table.ids)} buffers")
        document, offsets = _solve(table, capacity, seed, time_limit)
    if offsets is not None and output is not None:
        write_file(output, table.with_offsets(offsets))
    if as_json:
        click.echo(json.dumps(document, indent=1))
    _report(document, capacity, as_json, output)


def _solve(table: Any, capacity: int, seed: int, time_limit: float) -> tuple[dict[str, Any], tuple[int, ...] | None]:
    from moe_passes.solve.allocation.check import violations
    from moe_passes.solve.allocation.problem import Problem
    from moe_passes.solve.allocation.solve import solve

    document: dict[str, Any] = {"status": "infeasible", "capacity": capacity, "peak": None, "lower_bound": None}
    document |= {"gap": None, "greedy": None, "seed": seed, "conflict": [], "buffers": []}
    alone = [n for n, b in enumerate(table.buffers) if (b.fixed or 0) + b.size > capacity]
    if alone:
        return document | {"conflict": [table.ids[alone[0]]]}, None
    problem = Problem(capacity, table.buffers, alignment_bytes=1)
    found = solve(problem, seed, time_limit)
    document |= {"status": found.status, "lower_bound": found.lower_bound_bytes, "greedy": found.greedy_bytes}
    if found.status in ("infeasible", "unknown"):
        return document | {"conflict": [table.ids[n] for n in found.conflict]}, None
    wrong = violations(problem, found.offsets)
    if wrong:
        raise AssertionError("allocate: " + "; ".join(wrong[:5]))
    document["peak"] = found.peak_bytes
    document["gap"] = (found.peak_bytes - found.lower_bound_bytes) / found.peak_bytes if found.peak_bytes else 0.0
    document["buffers"] = [{"id": i, "offset": o} for i, o in zip(table.ids, found.offsets, strict=True)]
    return document, found.offsets


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
