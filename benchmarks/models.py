"""What of published models comes out: a table, or JSON with --json.

    python benchmarks/models.py
    python benchmarks/models.py --all [--only NAME …]

Without options, nine models are compiled at full size for the README's table; deepseek-v3 does not fit elmoe3d-8gb (its
dense weights alone are 17 GB) and is compiled for elmoe3d-64gb. With --all, every shipped configuration is traced and
raised, and its parameters are compared with the published figures (published_models.json): all of them, and those that
a token uses, without the input embedding or with it, whichever the publisher counted. A path to a config.json may be
given with --only.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from measure import compile_once
from moe_passes.ir.dialects import context
from moe_passes.ir.module import append, find, only
from moe_passes.ir.phases import read_stages
from moe_passes.ir.pipeline import parse_pipeline, run_pipeline
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer, ModelShape
from moe_passes.plan.request import AUTO_LENGTH, Request
from moe_passes.tasks.stages import parts

from moe_compiler.frontend.graph import trace
from moe_compiler.frontend.models import load_model, shipped_models

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


PUBLISHED = Path(__file__).parent / "published_models.json"


def count(name: str) -> dict[str, Any]:
    """Trace and raise a model; count its parameters: all, and those that a token uses."""
    began = time.perf_counter()
    module = trace(load_model(name), 1, context())
    seconds = time.perf_counter() - began
    append(module, Request(1, 1024, AUTO_LENGTH, 0, 0.0))
    run_pipeline(module, parse_pipeline("raise-moe"))
    model, layers = only(module, ModelShape), [layer for _, layer in find(module, ExpertLayer)]
    dense = sum(part.macs_per_token for part in parts(read_stages(module, "count")[1]))
    used = dense + sum(layer.top_k * layer.parameters for layer in layers)
    return {
        "architecture": model.architecture,
        "layers": model.layers,
        "moe_layers": len(layers),
        "experts": sorted({layer.experts for layer in layers}),
        "top_k": sorted({layer.top_k for layer in layers}),
        "total_b": model.total_parameters / 1e9,
        "active_b": used / 1e9,
        "active_with_embedding_b": (used + model.embedding_parameters) / 1e9,
        "trace_seconds": seconds,
    }


def compared(names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Compare every model with what was published of it."""
    published = json.loads(PUBLISHED.read_text())
    for name in names:
        stated = published.get(name if name in published else Path(name).stem, {})
        try:
            row = {"model": name, **count(name), "source": stated.get("source")}
        except InputError as error:
            yield {"model": name, "refused": str(error)}
            continue
        total, active = stated.get("total_b"), stated.get("active_b")
        counted = (row["active_b"], row["active_with_embedding_b"])
        yield row | {
            "published_total_b": total,
            "published_active_b": active,
            "total_error": row["total_b"] / total - 1 if total else None,
            "active_error": min((c / active - 1 for c in counted), key=abs) if active else None,
            "note": stated.get("note", ""),
        }


def show_compared(rows: Iterable[dict[str, Any]]) -> None:
    print("| model | architecture | MoE layers | experts | total B | published | active B | published | trace s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "refused" in row:
            print(f"| {row['model']} | refused: {row['refused']} |", flush=True)
            continue
        cells = [
            f"{row['published_' + what]:g} ({row[error]:+.1%})" if row[error] is not None else "–"
            for what, error in (("total_b", "total_error"), ("active_b", "active_error"))
        ]
        experts = f"{row['top_k'][0]} of {'/'.join(map(str, row['experts']))}"
        print(
            f"| {row['model']} | {row['architecture']} | {row['moe_layers']} of {row['layers']} | {experts} | "
            f"{row['total_b']:.2f} | {cells[0]} | {row['active_b']:.2f} | {cells[1]} | {row['trace_seconds']:.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--all", action="store_true", help="count the parameters of every shipped configuration")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="with --all, of these")
    options = parser.parse_args()
    if options.all:
        found = compared(options.only or shipped_models())
        if options.json:
            print(json.dumps(list(found), indent=1))
        else:
            show_compared(found)
        return
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
