"""`moec diff`."""

import json
from typing import Any

import click

EXAMPLES = """
\b
Examples:
  moec diff out out2
  moec diff out out2 --json

\b
Both folders are what `moec compile -o` wrote of one model. Seconds are split by the kinds of tasks on the critical
path of held-out rounds (docs/outputs.md), and add up to the difference.
"""
SHOWN = 60


@click.command("diff", epilog=EXAMPLES)
@click.argument("first", metavar="DIR_A")
@click.argument("second", metavar="DIR_B")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def diff_command(first: str, second: str, as_json: bool) -> None:
    """Say what differs between two compiles, and what it costs."""
    from moe_compiler.api import compare

    found = compare(first, second)
    click.echo(json.dumps(found, indent=1, allow_nan=False) if as_json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    was, now = (seconds * 1e3 for seconds in found["token_seconds"])
    lines = [
        f"{found['model']}: {found['a']} → {found['b']}",
        f"token: {was:.4g} → {now:.4g} ms ({now / was - 1:+.1%})",
    ]
    lines += [f"  {part['kind']:14} {part['seconds'] * 1e3:+.4g} ms" for part in found["contributions"]]
    for title, differences in (("asked", "request"), ("decided", "decisions"), ("tasks of the round", "tasks")):
        lines += [f"{title}:"] if found[differences] else []
        lines += [f"  {part['name']}: {_short(part['a'])} → {_short(part['b'])}" for part in found[differences]]
    lines += ["experts near:"] if found["residency"] or found["placed_otherwise"] else []
    lines += [f"  {part['experts']} from {part['a']} to {part['b']}" for part in found["residency"]]
    lines += [f"  {found['placed_otherwise']} in other banks"] if found["placed_otherwise"] else []
    is_same = not found["difference_seconds"] and len(lines) == 2 + len(found["contributions"])
    return [*lines[:2], "nothing differs"] if is_same else lines


def _short(value: Any) -> str:
    text = "–" if value is None else json.dumps(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
