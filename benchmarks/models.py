"""Compile all nine shipped models at full size and print the README's table, and JSON with --json.

deepseek-v3 does not fit elmoe3d-8gb (its dense weights alone are 17 GB) and is compiled for elmoe3d-64gb.
"""

import argparse
import json
import sys

from measure import compile_once

MODELS = (
    "qwen3-30b-a3b",
    "mixtral-8x7b",
    "olmoe-1b-7b",
    "gpt-oss-20b",
    "deepseek-v2-lite",
    "glm-4.7-flash",
    "qwen1.5-moe-a2.7b",
    "phi-3.5-moe",
    "deepseek-v3",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    rows = []
    for model in MODELS:
        print(f"compiling {model}", file=sys.stderr)
        rows.append(compile_once(model, "elmoe3d-64gb" if model == "deepseek-v3" else "elmoe3d-8gb"))
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(
        "| model | target | compile s | peak MiB | γ | token ms | 95 % | over measured routing | gap | training round |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cost = row["cost"]
        token, training = cost["token"], cost["training_round"]
        low, high = (1e3 * value for value in token["ci95_seconds"])
        known = token["low_seconds"] is None
        span = "–" if known else f"{1e3 * token['low_seconds']:.2f}–{1e3 * token['high_seconds']:.2f}"
        print(
            f"| {row['model']} | {row['target']} | {row['seconds']:.0f} | {row['peak_mib']} | "
            f"{cost['draft']['length']} | {token['seconds'] * 1e3:.2f} | {low:.2f}–{high:.2f} | {span} | "
            f"{cost['round']['gap']:.1%} | {training['seconds'] * 1e3:.2f} ms, gap {training['gap']:.1%} |"
        )


if __name__ == "__main__":
    main()
