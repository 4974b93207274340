"""What routing is like, real beside synthetic: table on stderr, JSON on stdout.

    python benchmarks/routing.py
    python benchmarks/routing.py my-trace.npz --experts 128

Every trace of the public data that is here (docs/profiles.md), or those that are given, and for each a synthetic one of
the same shape and length. A synthetic trace is no measurement: the table says how far it is from one.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from moe_passes.routing.statistics import Statistics, statistics
from public import FOLDER

from moe_compiler.paths import read_arrays
from moe_compiler.traces import synthetic

EXPERTS = {"mixtral-8x7b": 8, "qwen3-30b-a3b": 128, "gemma-4-26b-a4b": 128, "olmoe-1b-7b": 64}
"""Of a layer, by how the name of a public trace begins: the files do not say."""


def public_traces() -> list[tuple[Path, int]]:
    """List the traces that are here, with their number of experts."""
    paths = sorted([*FOLDER.glob("*.npz"), *(FOLDER / "routes").glob("*.npz")])
    known = [(path, experts) for path in paths for name, experts in EXPERTS.items() if path.name.startswith(name)]
    return known


def flat(found: Statistics) -> dict[str, float]:
    """Name every figure."""
    result: dict[str, float] = {}
    for name, value in asdict(found).items():
        if isinstance(value, dict):
            result |= {f"{name}_{key:g}": figure for key, figure in value.items()}
        else:
            result[name] = value
    return result


def compare(path: Path, experts: int) -> dict[str, Any]:
    """Measure a trace, and a synthetic one of its shape."""
    chosen = read_arrays(path, {"experts"})["experts"].astype(np.int64)
    tokens, layers, top_k = chosen.shape
    made = synthetic.generate(tokens, layers, experts, top_k, 0).experts
    real, like = flat(statistics(chosen, experts)), flat(statistics(made, experts))
    shape = {"tokens": tokens, "layers": layers, "experts": experts, "top_k": top_k}
    return {"trace": path.name, **shape, "real": real, "synthetic": like}


def show(row: dict[str, Any]) -> str:
    lines = [f"{row['trace']}: {row['tokens']} tokens, {row['layers']} layers, top-{row['top_k']} of {row['experts']}"]
    for name, value in row["real"].items():
        like = row["synthetic"][name]
        lines.append(f"  {name:26} {value:7.3f} {like:10.3f}   {like / value - 1:+7.1%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="*", help=".npz files with `experts` (default: the public ones)")
    parser.add_argument("--experts", type=int, help="of a layer, for traces that are given")
    options = parser.parse_args()
    if options.traces and not options.experts:
        parser.error("--experts: how many experts a layer of the given traces has")
    chosen = [(path, options.experts) for path in options.traces] or public_traces()
    print("  figure                        real  synthetic       off", file=sys.stderr)
    rows = []
    for path, experts in chosen:
        rows.append(compare(path, experts))
        print(show(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"traces": rows}, indent=1))


if __name__ == "__main__":
    main()
