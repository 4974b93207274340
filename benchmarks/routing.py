"""What routing is like, real beside synthetic: table on stderr, JSON on stdout.

    python benchmarks/routing.py
    python benchmarks/routing.py my-trace.npz --experts 128

Every trace of the public data that is here (docs/profiles.md), or those that are given, and beside each what synthetic
traces of the same shape and length are like, on the mean over seeds: ones that were fitted to the model where there are
(`-like-MODEL`), else the usual ones. A synthetic trace is no measurement: the table says how far it is from one.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from moe_passes.routing.statistics import Statistics, statistics
from moe_passes.routing.traces import IntArray
from public import FOLDER

from moe_compiler.paths import read_arrays
from moe_compiler.traces import like

SEEDS = 4
LONGEST_PROMPT = 1000
"""Tokens: a longer trace is of many requests."""
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
    shape = like.Shape(tokens, layers, experts, top_k)
    model = next((name for name in like.MEASURED if path.name.startswith(name)), like.MIDDLE)
    made = [flat(statistics(_made(shape, seed, model), experts)) for seed in range(SEEDS)]
    real = flat(statistics(chosen, experts))
    mean = {name: float(np.mean([figures[name] for figures in made])) for name in real}
    return {"trace": path.name, **shape._asdict(), "like": model, "seeds": SEEDS, "real": real, "synthetic": mean}


def _made(shape: like.Shape, seed: int, model: str) -> IntArray:
    """Make choices like a model's in one request: the traces of `routes/` are of one prompt each."""
    request = shape.tokens if shape.tokens < LONGEST_PROMPT else like.REQUEST_TOKENS
    return like.generate(shape, seed, like.LIKE[model], request)


def show(row: dict[str, Any]) -> str:
    of = f"{row['tokens']} tokens, {row['layers']} layers, top-{row['top_k']} of {row['experts']}"
    lines = [f"{row['trace']}: {of}; synthetic, like {row['like']}"]
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
