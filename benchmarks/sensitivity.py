"""How far the answer moves when an assumed figure of a hardware file is halved or doubled: table, or --json.

python benchmarks/sensitivity.py [MODEL [TARGET]] [--json]
"""

import argparse
import json
import sys
from typing import Any

from measure import compile_once

from moe_compiler.hardware.loader import load_target


def assumed_figures(target: str) -> list[tuple[str, float]]:
    """List (path, value) of every number that the file marks as assumed, zeros and `auto` left out."""
    figures = load_target(target).figures()
    return [
        (row["path"], row["value"])
        for row in figures
        if row["source"].startswith("assumed") and not isinstance(row["value"], bool | str) and row["value"]
    ]


def answer(model: str, target: str, *options: str) -> tuple[float, float]:
    """Return held-out seconds and joules per token."""
    cost = compile_once(model, target, *options)["cost"]
    return cost["held_out"]["mean_seconds"] / cost["round"]["tokens"], cost["token"]["joules"]


def rows(model: str, target: str) -> list[dict[str, Any]]:
    seconds, joules = answer(model, target)
    result = []
    for path, value in assumed_figures(target):
        row: dict[str, Any] = {"figure": path, "value": value}
        for label, factor in (("halved", 0.5), ("doubled", 2.0)):
            print(f"{path} {label}", file=sys.stderr)
            changed = answer(model, target, "--set", f"{path}={value * factor:g}")
            row[label] = {"seconds": changed[0] / seconds - 1, "joules": changed[1] / joules - 1}
        result.append(row)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="qwen3-30b-a3b", help="default: qwen3-30b-a3b")
    parser.add_argument("target", nargs="?", default="elmoe3d-8gb", help="default: elmoe3d-8gb")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    table = rows(options.model, options.target)
    if options.json:
        print(json.dumps({"model": options.model, "target": options.target, "figures": table}, indent=1))
        return
    print("| assumed figure | value | token time, halved | doubled | token energy, halved | doubled |")
    print("|---|---|---|---|---|---|")
    for row in table:
        cells = [f"{row[label][what]:+.1%}" for what in ("seconds", "joules") for label in ("halved", "doubled")]
        print(f"| `{row['figure']}` | {row['value']:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
