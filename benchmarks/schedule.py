"""Whole draft-verify rounds of full-size models, scheduled: table on stderr as it goes, JSON on stdout.

    python benchmarks/schedule.py --every 6 --limit 30 --ir /tmp/traced > schedule.json
    python benchmarks/schedule.py --growth > growth.json

Of every case of the grid (model and target, batch, draft length, with the file's links and with a slow one, which
makes banks and engines alternatives) it takes held-out rounds: tasks, naive on-demand loading (loads start when
verify's router has run), no overlap (all durations in a row), every list rule, our answer and its bound, the time to
the first schedule, seconds, peak memory, the dispatcher's regret, and what is left of it if the draft asks for nothing
in vain. All routing but Mixtral's is synthetic; the output says which. `--growth` tiles the layers of a model up to
200 of them: synthetic models.
"""

import argparse
import json
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from moe_passes.estimate.cost import CostModel
from moe_passes.ir.base import Context
from moe_passes.ir.dialects import context, parse
from moe_passes.ir.module import append, only, read_cost, text_of, write_machine
from moe_passes.ir.pipeline import Instrumentation, parse_pipeline, run_pipeline
from moe_passes.ir.static import read_plan
from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.request import ProfileRecord
from moe_passes.plan.round import add_up
from moe_passes.routing.rounds import RoundRouting
from moe_passes.routing.traces import RoutingTrace
from moe_passes.solve.dispatch.online import dispatch
from moe_passes.solve.dispatch.solver import nothing_ahead
from moe_passes.solve.rcpsp.bound import lower_bound
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.greedy import RULES, list_schedule
from moe_passes.solve.rcpsp.problem import Problem
from moe_passes.solve.rcpsp.solver import round_budget, solve
from moe_passes.tasks.build import build, build_unknown
from moe_passes.tasks.problem import StaticPlan
from moe_passes.tasks.rounds import take_rounds
from moe_passes.tasks.stages import Stage
from public import public

from moe_compiler.compilation import ProfileReader, request
from moe_compiler.evaluate.held_out import informed_makespan
from moe_compiler.evaluate.report import roofline_seconds
from moe_compiler.frontend.graph import trace as trace_model
from moe_compiler.frontend.models import load_model
from moe_compiler.hardware.loader import load_target

PAIRS = (
    *product(("qwen3-30b-a3b", "deepseek-v2-lite", "glm-4.7-flash", "gpt-oss-20b"), ("elmoe3d-8gb", "elmoe3d-4gb")),
    ("mixtral-8x7b", "elmoe3d-8gb"),
    ("mixtral-8x7b", "elmoe3d-64gb"),
    ("deepseek-v3", "elmoe3d-64gb"),
)
BATCHES, LENGTHS = (1, 4, 16), (2, 4, 8)
LINKS = ((), ("links.aggregation.bandwidth_gb_s=4",))
CONTEXT = 1024


@dataclass(frozen=True)
class Case:
    model: str
    target: str
    batch: int
    length: int
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    rounds: int
    limit: float
    ir: Path


def cases() -> list[Case]:
    return [
        Case(*pair, batch, length, overrides)
        for overrides, pair, batch, length in product(LINKS, PAIRS, BATCHES, LENGTHS)
    ]


def prepare(case: Case, ir: Path) -> tuple[CostModel, StaticPlan, RoutingTrace, str]:
    """Run the pipeline up to the dispatcher's plan; traced modules are kept in `ir`."""
    source, asked = load_model(case.model), request(case.batch, CONTEXT, case.length, 0, 10.0)
    traced = ir / f"{case.model}-{case.batch}.mlir"
    if not traced.exists():
        ir.mkdir(parents=True, exist_ok=True)
        traced.write_text(text_of(trace_model(source, case.batch, context())))
    module = parse(traced.read_text(), str(traced), context())
    append(module, asked)
    write_machine(module, load_target(case.target, case.overrides).machine())
    real = public("mixtral-8x7b-coding.npz") if case.model == "mixtral-8x7b" else None
    reader = ProfileReader(str(real) if real else None, source, asked)
    steps = parse_pipeline("raise-moe,select-draft,partition-experts,choose-dispatch")
    watch = Instrumentation(after=lambda step, module: reader.attach(module))
    run_pipeline(module, steps, Context(reader), watch)
    return read_cost(module), read_plan(module, "benchmark"), reader(module), only(module, ProfileRecord).kind


def measure(problem: Problem, limit: float) -> dict[str, Any]:
    """Schedule one round by every rule and by ours."""
    start = time.perf_counter()
    first = list_schedule(problem, RULES[0])
    first_seconds = time.perf_counter() - start
    rules = {rule: list_schedule(problem, rule) for rule in RULES}
    start = time.perf_counter()
    answer = solve(problem, round_budget(limit, 0))
    seconds = time.perf_counter() - start
    assert first is not None
    assert answer.schedule is not None
    assert violations(problem, answer.schedule) == []
    makespan = answer.schedule.makespan(problem)
    return {
        "tasks": len(problem.tasks),
        "no_overlap_ms": sum(problem.shortest(n) for n in range(len(problem.tasks))) * 1e-6,
        "rules_ms": {rule: s and s.makespan(problem) * 1e-6 for rule, s in rules.items()},
        "ours_ms": makespan * 1e-6,
        "bound_ms": answer.lower_bound * 1e-6,
        "gap": (makespan - answer.lower_bound) / makespan,
        "first_schedule_seconds": first_seconds,
        "seconds": seconds,
    }


def run(job: tuple[Case, Options]) -> dict[str, Any]:
    case, options = job
    start = time.perf_counter()
    cost, plan, trace, kind = prepare(case, options.ir)
    prepared = time.perf_counter() - start
    naive = replace(plan, dispatch=nothing_ahead(plan.dispatch.likelihoods))
    rows = []
    for routing in take_rounds(trace, plan, "held-out", options.rounds):
        graph, unknown, lazy = (
            build(plan, routing, cost),
            build_unknown(plan, routing, cost),
            build_unknown(naive, routing, cost),
        )
        row = measure(graph.problem, options.limit)
        online = dispatch(unknown.unknown(), plan.dispatch)
        assert violations(*online.executed()) == []
        on_demand = list_schedule(lazy.problem, "program")
        assert on_demand is not None
        roofline = roofline_seconds(cost, add_up(graph.work))
        known = min(row["ours_ms"], online.makespan * 1e-6)
        row |= {
            "on_demand_ms": on_demand.makespan(lazy.problem) * 1e-6,
            "dispatched_ms": online.makespan * 1e-6,
            "wasted_loads": len(online.wasted),
            "regret": online.makespan * 1e-6 / known - 1,
            "informed_regret": max(0.0, informed_makespan(plan, routing, cost) * 1e-6 / known - 1),
            "roofline_fraction": max(roofline.values()) * 1e3 / row["ours_ms"],
            "limited_by": max(roofline, key=lambda name: roofline[name]),
        }
        rows.append(row)
    result = {
        "model": case.model,
        "target": case.target,
        "overrides": list(case.overrides),
        "batch": case.batch,
        "draft_length": case.length,
        "profile": kind,
        "prepare_seconds": prepared,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "rounds": rows,
    }
    gaps, regrets = [100 * row["gap"] for row in rows], [100 * row["regret"] for row in rows]
    print(
        f"{case.model:18} {case.target:13} {'slow' if case.overrides else '    '} batch {case.batch:2} γ {case.length} "
        f"tasks {rows[0]['tasks']:6,} gap {np.mean(gaps):5.2f} % regret {np.mean(regrets):5.2f} % "
        f"{max(row['seconds'] for row in rows):5.1f} s {result['peak_mib']:5} MiB",
        file=sys.stderr,
        flush=True,
    )
    return result


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [row for result in results for row in result["rounds"]]
    gaps, regrets = [row["gap"] for row in rows], [row["regret"] for row in rows]
    # The roofline is the limit where what it says is nearly all of the bound.
    limited = [r["roofline_fraction"] for r in rows if r["roofline_fraction"] * r["ours_ms"] >= 0.9 * r["bound_ms"]]
    best_rule = [min(value for value in row["rules_ms"].values() if value) for row in rows]
    return {
        "cases": len(results),
        "rounds": len(rows),
        "mean_gap": float(np.mean(gaps)),
        "most_gap": max(gaps),
        "rounds_above_5_percent": sum(gap > 0.05 for gap in gaps),
        "worse_than_best_rule": sum(
            row["ours_ms"] > best * (1 + 1e-12) for row, best in zip(rows, best_rule, strict=True)
        ),
        "mean_gain_over_best_rule": float(
            np.mean([b / row["ours_ms"] - 1 for row, b in zip(rows, best_rule, strict=True)])
        ),
        "mean_gain_over_on_demand": float(np.mean([row["on_demand_ms"] / row["ours_ms"] - 1 for row in rows])),
        "mean_gain_over_no_overlap": float(np.mean([row["no_overlap_ms"] / row["ours_ms"] - 1 for row in rows])),
        "most_first_schedule_seconds": max(row["first_schedule_seconds"] for row in rows),
        "most_seconds": max(row["seconds"] for row in rows),
        "most_peak_mib": max(result["peak_mib"] for result in results),
        "mean_regret": float(np.mean(regrets)),
        "p95_regret": float(np.percentile(regrets, 95)),
        "mean_informed_regret": float(np.mean([row["informed_regret"] for row in rows])),
        "p95_informed_regret": float(np.percentile([row["informed_regret"] for row in rows], 95)),
        "roofline_limited_rounds": len(limited),
        "least_roofline_fraction_where_limited": min(limited, default=None),
        "mean_roofline_fraction_where_limited": float(np.mean(limited)) if limited else None,
    }


def tiled(plan: StaticPlan, routing: RoundRouting, count: int) -> tuple[StaticPlan, RoundRouting]:
    """Repeat the MoE layers of a model until it has `count` of them: a synthetic model."""
    rows = [n % len(plan.layers) for n in range(count)]
    layers: list[PlacedLayer] = [
        replace(plan.layers[row], shape=replace(plan.layers[row].shape, layer=n, name=f"tiled{n}"))
        for n, row in enumerate(rows)
    ]
    numbers = [plan.layers[row].shape.layer for row in rows]
    draft, verify = (_tiled(stages, numbers) for stages in (plan.draft, plan.verify))
    deeper = replace(plan, draft=draft, verify=verify, layers=tuple(layers))
    return deeper, RoundRouting(
        routing.verify[rows],
        routing.asked[:, rows],
        routing.drafted[:, rows],
        routing.recent[rows],
        tuple(routing.promoted[row] for row in rows),
    )


def _tiled(stages: tuple[Stage, ...], numbers: list[int]) -> tuple[Stage, ...]:
    """Chain the dense work of these layers, each followed by its experts, and the head."""
    dense = {stage.part.layer: stage.part for stage in stages if stage.part is not None}
    chain: list[Stage] = []
    for n, number in enumerate(numbers):
        after = (len(chain) - 1,) if chain else ()
        chain.append(Stage("attention", after, replace(dense[number], layer=n)))
        chain.append(Stage("experts", (len(chain) - 1,), None, f"tiled{n}", len(chain) - 1))
    head = replace(dense[max(dense)], layer=len(numbers))
    return (*chain, Stage("head", (len(chain) - 1,), head))


def growth(options: Options) -> dict[str, Any]:
    """Time of the first schedule, of the bound, and of all of it, as tasks grow to 50,000."""
    cost, plan, trace, _ = prepare(Case("qwen3-30b-a3b", "elmoe3d-8gb", 16, 8, ()), options.ir)
    routing = take_rounds(trace, plan, "held-out", 1)[0]
    rows = []
    for layers in (12, 25, 50, 100, 200):
        problem = build(*tiled(plan, routing, layers), cost).problem
        start = time.perf_counter()
        lower_bound(problem)
        bound_seconds = time.perf_counter() - start
        row = {"layers": layers, **measure(problem, options.limit), "bound_seconds": bound_seconds}
        n = row["tasks"] * np.log(row["tasks"])
        row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        row["first_microseconds_per_n_log_n"] = row["first_schedule_seconds"] / n * 1e6
        row["bound_microseconds_per_n_log_n"] = bound_seconds / n * 1e6
        rows.append(row)
        print({k: v for k, v in row.items() if k not in ("rules_ms",)}, file=sys.stderr, flush=True)
    return {"model": "layers of qwen3-30b-a3b, tiled (synthetic)", "batch": 16, "draft_length": 8, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="every so many cases (default: all 198)")
    parser.add_argument("--first", type=int, default=0, help="the first case to take (default: 0)")
    parser.add_argument("--rounds", type=int, default=5, help="held-out rounds of each (default: 5)")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for each round (default: 30)")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once (default: 1)")
    parser.add_argument("--ir", type=Path, default=Path("/tmp/moec-traced"), help="folder that keeps traced modules")
    parser.add_argument("--growth", action="store_true", help="synthetic models of up to 200 layers instead")
    given = parser.parse_args()
    options = Options(given.rounds, given.limit, given.ir)
    if given.growth:
        print(json.dumps(growth(options), indent=1))
        return
    jobs = [(case, options) for case in cases()[given.first :: given.every]]
    # One process a case, so that its peak memory is its own.
    with ProcessPoolExecutor(given.jobs, max_tasks_per_child=1) as pool:
        results = list(pool.map(run, jobs))
    print(json.dumps({"limit_seconds": given.limit, "summary": summary(results), "cases": results}, indent=1))


if __name__ == "__main__":
    main()
