"""Batch-1 cells of the published table beside ours: speed-up over the xPU alone, plain and drafting; JSON on stdout.

    python benchmarks/published.py
    python benchmarks/published.py --models qwen3-30b-a3b

Published (arXiv 2604.14626, MT-Bench table, elastic rows; docs/reference.md section 3): AR is plain decoding, SD drafts
a tree 6 or 7 deep. Ours: the best plan of γ = 0 and of γ = 6, dispatched on held-out rounds of synthetic routing like
the model's (`-like-`, where something was measured, else the middle), under the capacity model, with every expert
striped over all banks; the xPU reads everything that a token uses from external memory. The routing of GLM, DeepSeek
and GPT-OSS is fitted to their plain cells (`fitted_to`): those are reproduced, not predicted; drafting is predicted.
"""

import argparse
import json
import sys
from typing import Any, NamedTuple

from auto import CONTEXT, Model, bench_for, best_of, fixed_length, held_out_seconds
from moe_passes.estimate.dense import DenseStep, step_seconds
from moe_passes.estimate.registry import cost_model
from moe_passes.tasks.stages import parts

from moe_compiler.hardware.loader import load_target
from moe_compiler.traces.like import LIKE, like_of

DEPTH = 6


class Cell(NamedTuple):
    """Speed-ups over the xPU alone; None where none is published."""

    plain: float
    drafting: float | None


PUBLISHED = {
    ("qwen3-30b-a3b", "elmoe3d-4gb"): Cell(3.08, 2.64),
    ("qwen3-30b-a3b", "elmoe3d-8gb"): Cell(4.77, 4.58),
    ("deepseek-v2-lite", "elmoe3d-4gb"): Cell(2.51, 2.02),
    ("deepseek-v2-lite", "elmoe3d-8gb"): Cell(4.35, 3.01),
    ("glm-4.7-flash", "elmoe3d-4gb"): Cell(2.61, None),
    ("glm-4.7-flash", "elmoe3d-8gb"): Cell(3.82, None),
    ("gpt-oss-20b", "elmoe3d-4gb"): Cell(5.54, None),
    ("gpt-oss-20b", "elmoe3d-8gb"): Cell(13.95, None),
}


def xpu_seconds(model: Model) -> float:
    """Seconds of a token on the xPU alone, whose one memory is read by all of it: dense weights, cache, k experts."""
    cost = cost_model("analytic", load_target("xpu-lpddr5").machine())
    dense = step_seconds(cost, parts(model.phases[1]), DenseStep(1, 1, CONTEXT))
    return dense + sum(layer.top_k * cost.local_read_seconds(layer.whole_bytes) for layer in model.layers)


def cell(model: Model, target: str, published: Cell) -> dict[str, Any]:
    like = like_of(model.name)
    bench, trace = bench_for(model, target, 1, like)
    found = {n: best_of(bench, fixed_length(bench.problem, n)) for n in (0, DEPTH)}
    alone = xpu_seconds(model)
    ours = {n: alone * c.tokens / held_out_seconds(bench, c.choice, trace) for n, c in found.items()}
    right = None if published.drafting is None else (published.plain > published.drafting) == (ours[0] > ours[DEPTH])
    return {
        "model": model.name,
        "target": target,
        "like": like,
        "fitted_to": LIKE[like].fitted_to,
        "xpu_seconds": alone,
        "plain": ours[0],
        "published_plain": published.plain,
        "drafting": ours[DEPTH],
        "published_drafting": published.drafting,
        "acceptance_rate": found[DEPTH].acceptance_rate,
        "better_mode_is_right": right,
    }


def show(row: dict[str, Any]) -> str:
    drafting = "–" if row["published_drafting"] is None else f"{row['published_drafting']:.2f}"
    return (
        f"{row['model']:18} {row['target']:12} plain {row['plain']:5.2f} (published {row['published_plain']:5.2f}, "
        f"{row['plain'] / row['published_plain'] - 1:+.0%})  drafting {row['drafting']:5.2f} (published {drafting}), "
        f"α {row['acceptance_rate']:.2f}, like {row['like']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(dict.fromkeys(model for model, _ in PUBLISHED))
    parser.add_argument("--models", nargs="+", default=names, choices=names, help="default: all")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        model = Model(name)
        for (of, target), published in PUBLISHED.items():
            if of == name:
                rows.append(cell(model, target, published))
                print(show(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
