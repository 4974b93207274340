"""Time and memory of the compiler: the demo, deepseek-v3, and growth with layers and experts. Prints JSON.

Growth is measured on Qwen3-30B-A3B with fewer layers or experts than it has; `ratio` is the seconds of an entry over
those of the entry before it, where size doubles.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import compile_once

SOURCE = Path(__file__).parent.parent / "moe_compiler" / "models" / "qwen3-30b-a3b.json"
LAYERS = (12, 24, 48)
EXPERTS = (32, 64, 128)
BATCHES = (1, 4, 16)


def summary(row: dict[str, Any]) -> dict[str, Any]:
    round_ = row["cost"]["round"]
    return {
        **{key: row[key] for key in ("model", "target", "seconds", "peak_mib", "steps")},
        "tasks": round_["tasks"],
        "gap": round(round_["gap"], 4),
    }


def growth(field: str, sizes: tuple[int, ...], folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for size in sizes:
        print(f"{field} = {size}", file=sys.stderr)
        path = folder / f"{field}-{size}.json"
        path.write_text(json.dumps({**json.loads(SOURCE.read_text()), field: size}))
        row = summary(compile_once(str(path), "elmoe3d-8gb"))
        entry = {field: size, **{k: row[k] for k in ("seconds", "peak_mib", "tasks", "steps")}}
        if rows:
            entry["ratio"] = round(entry["seconds"] / rows[-1]["seconds"], 2)
        rows.append(entry)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print("demo", file=sys.stderr)
    demo = summary(compile_once("qwen3-30b-a3b", "elmoe3d-8gb"))
    print("deepseek-v3", file=sys.stderr)
    largest = summary(compile_once("deepseek-v3", "elmoe3d-64gb"))
    batches = []
    for batch in BATCHES:
        print(f"batch = {batch}", file=sys.stderr)
        batches.append({"batch": batch, **summary(compile_once("qwen3-30b-a3b", "elmoe3d-8gb", "--batch", str(batch)))})
    with tempfile.TemporaryDirectory() as folder:
        report = {
            "demo": demo,
            "deepseek_v3": largest,
            "limits": {"demo": {"seconds": 60, "mib": 6144}, "deepseek_v3": {"seconds": 300, "mib": 12288}},
            "layers": growth("num_hidden_layers", LAYERS, Path(folder)),
            "experts": growth("num_experts", EXPERTS, Path(folder)),
            "batches": batches,
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
