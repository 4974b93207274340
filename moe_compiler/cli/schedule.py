"""`moec schedule`."""

import json
from pathlib import Path
from typing import Any

import click

from moe_compiler.cli.codes import EXIT_INFEASIBLE, EXIT_UNKNOWN
from moe_compiler.cli.progress import progress

EXAMPLES = """
\b
Example:
  moec schedule problem.json --time-limit 30 --json

\b
PROBLEM is {"schema": 1, "resources": {NAME: capacity}, "tasks": [{"id", "after": [id…], "release",
"deadline", "modes": [{"duration", "uses": {NAME: amount}} …]} …], "buffers": [{"resource", "amount",
"from": id, "to": id} …]}: docs/schedule.md.

\b
Exit codes: 0 scheduled, 2 the file is wrong, 3 there is no schedule (the message names the deadlines
that contradict), 4 none was found in the limit.
"""


@click.command("schedule", epilog=EXAMPLES)
@click.argument("file", metavar="PROBLEM", type=click.Path(path_type=Path))
@click.option("--time-limit", type=float, default=30.0, show_default=True, help="Deterministic seconds of search.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the search.")
@click.option("--workers", type=int, default=1, show_default=True, help="Workers of CP-SAT.")
@click.option("--json", "as_json", is_flag=True, help="Print the schedule as JSON.")
def schedule_command(file: Path, time_limit: float, seed: int, workers: int, as_json: bool) -> None:
    """Schedule tasks on shared resources for the least makespan, with a proved bound."""
    with progress(f"schedule {file.name}") as report:
        from moe_compiler.api import schedule

        document = schedule(file, time_limit=time_limit, seed=seed, workers=workers, progress=report)
    if as_json:
        click.echo(json.dumps(document, indent=1))
    _report(document, as_json)


def _report(document: dict[str, Any], as_json: bool) -> None:
    word = "; CP-SAT says so on one model alone" if document["proof"] == "cp-sat" else ""
    clock = "; the clock stopped the search" if document["stopped_by_clock"] else ""
    if document["status"] == "infeasible":
        names = ", ".join(f"'{name}'" for name in document["conflict"][:20])
        why = f"the deadlines of these tasks contradict: {names}" if names else "buffers can never be held as asked for"
        click.echo(f"moec: there is no schedule: {why}{word}", err=True)
        raise click.exceptions.Exit(EXIT_INFEASIBLE)
    if document["status"] == "unknown":
        click.echo("moec: no schedule was found in the limit (--time-limit)", err=True)
        raise click.exceptions.Exit(EXIT_UNKNOWN)
    if not as_json:
        click.echo(
            f"{len(document['tasks'])} tasks in {document['makespan']} ({document['status']}; bound "
            f"{document['lower_bound']}, gap {document['gap']:.1%}, best list schedule {document['greedy']}"
            f"{word}{clock})"
        )
