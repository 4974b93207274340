"""Whether `--draft-length auto` loses: held-out token time against every fixed γ; table on stderr, JSON on stdout.

    python benchmarks/auto.py --every 12
    python benchmarks/auto.py --models olmoe-1b-7b gpt-oss-20b --batches 1 4

For each model, target, batch and trace: what select-draft takes when γ is open, and what it takes for each γ from 0 to
16 whose closed form is near the best draft's, the best of its kinds on the rounds that judge, are dispatched on the
same stretch of held-out tokens, with every expert striped over all banks (placement comes later and serves all alike).
The traces: like the model's own routing, barely local (like Mixtral), and very local (like Gemma). Mean and worst are
over cases; `seconds` is of choosing.
"""

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
from models import MODELS
from moe_passes.estimate.feasibility import Footprint, check_fits, footprint
from moe_passes.estimate.registry import cost_model
from moe_passes.ir.dialects import context
from moe_passes.ir.module import append, expert_stores, only, write_machine
from moe_passes.ir.phases import read_stages
from moe_passes.ir.pipeline import parse_pipeline, run_pipeline
from moe_passes.plan.errors import InfeasibleError
from moe_passes.plan.model import ModelShape
from moe_passes.plan.request import AUTO_LENGTH, Request
from moe_passes.routing.traces import RoutingTrace, cut_rounds, evenly, popularity
from moe_passes.solve.dispatch.solver import mean_makespan
from moe_passes.solve.draft import prepare
from moe_passes.solve.draft.problem import Candidate, Choice, Problem
from moe_passes.solve.draft.solver import Search, refill, solve
from moe_passes.tasks.build import build_unknown
from moe_passes.tasks.judging import Bench
from moe_passes.tasks.rounds import follow_rounds, split_tokens
from moe_passes.tasks.stages import Stage, parts

from moe_compiler.cli.main import collect_seldom
from moe_compiler.frontend.graph import trace as trace_model
from moe_compiler.frontend.models import load_model
from moe_compiler.hardware.loader import load_target
from moe_compiler.traces import synthetic
from moe_compiler.traces.like import like_of

TARGETS, BATCHES = ("elmoe3d-4gb", "elmoe3d-8gb"), (1, 4, 16)
CONTEXT = 1024
HELD_OUT_ROUNDS, HELD_OUT_TOKENS = 16, 64
CLOSE = 0.03
"""Kinds of residents whose closed form is within this of the best are all judged: it is no better than that."""
BEHIND = 0.2
"""A γ whose closed form is so much behind the best draft's is not dispatched; 0 and what auto takes always are."""


class Model:
    """A traced model: what of it decides nothing but shapes."""

    def __init__(self, name: str) -> None:
        self.name = name
        module = trace_model(load_model(name), 1, context())
        append(module, Request(1, CONTEXT, AUTO_LENGTH, 0, 0.0))
        write_machine(module, load_target(TARGETS[0]).machine())
        run_pipeline(module, parse_pipeline("raise-moe"))
        self.shape = only(module, ModelShape)
        self.layers = tuple(layer for _, layer in expert_stores(module, "auto"))
        self.phases: tuple[tuple[Stage, ...], tuple[Stage, ...]] = read_stages(module, "auto")

    def footprint(self, request: Request) -> Footprint:
        return footprint(self.shape, request, self.layers, parts(self.phases[1]))


def likes(model: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((like_of(model), "mixtral-8x7b", "gemma-4-26b-a4b")))


def made_trace(model: Model, batch: int, like: str) -> RoutingTrace:
    first = model.layers[0]
    return synthetic.generate(synthetic.made_for(batch, 0, like), len(model.layers), first.experts, first.top_k)


def held_out_seconds(bench: Bench, choice: Choice, trace: RoutingTrace) -> float:
    """Mean seconds of held-out rounds, with the residents that all training tokens choose."""
    counts = popularity(trace)
    chosen = Choice(choice.setting, refill(bench.problem, choice, counts), choice.is_even)
    plan = bench.plan(chosen, trace, _training(bench, choice, trace))
    tokens = split_tokens(trace, plan, "held-out")
    taken = evenly(len(tokens), max(HELD_OUT_ROUNDS, HELD_OUT_TOKENS // (choice.setting.length + 1)))
    rounds = follow_rounds(trace, plan, counts, tokens, taken)
    return mean_makespan((build_unknown(of, r, bench.cost).unknown() for of, r in rounds), plan.dispatch) * 1e-9


def _training(bench: Bench, choice: Choice, trace: RoutingTrace) -> np.ndarray:
    return cut_rounds(trace.tokens, bench.request.batch, choice.setting.length + 1, "train", 256).tokens


def bench_for(
    model: Model, target: str, batch: int, like: str, overrides: tuple[str, ...] = ()
) -> tuple[Bench, RoutingTrace]:
    """Set up select-draft's problem, with γ left open.

    Raises:
        InfeasibleError: the model does not fit.
    """
    request = Request(batch, CONTEXT, AUTO_LENGTH, 0, 0.0)
    of, cost = model.footprint(request), cost_model(request.cost_model, load_target(target, overrides).machine())
    check_fits(cost, of)
    trace = made_trace(model, batch, like)
    problem = prepare.prepare(cost, request, of, parts(model.phases[0]), parts(model.phases[1]), trace)
    return Bench(cost, request, of.model.hidden, of.layers, model.phases, problem), trace


def case(model: Model, target: str, batch: int, like: str) -> dict[str, Any] | None:
    """Compare auto with every fixed γ; None where the model does not fit."""
    try:
        bench, trace = bench_for(model, target, batch, like)
    except InfeasibleError:
        return None
    problem = bench.problem
    began = time.perf_counter()
    auto = solve(problem, bench.seconds, bench.longer_seconds).best
    seconds = time.perf_counter() - began
    chosen, longest = auto.choice.setting.length, min(prepare.LONGEST_AUTO, max(problem.lengths))
    found = {n: fixed_length(problem, n) for n in range(longest + 1)}
    least = min(c.estimate for n, candidates in found.items() if n for c in candidates)
    near = [n for n, of in found.items() if n in (0, chosen) or min(c.estimate for c in of) <= least * (1 + BEHIND)]
    fixed = {n: auto if n == chosen else best_of(bench, found[n]) for n in near}
    times = {n: held_out_seconds(bench, c.choice, trace) / c.tokens for n, c in fixed.items()}
    mine = times[chosen]
    best = min(times, key=lambda n: times[n])
    return {
        "model": model.name,
        "target": target,
        "batch": batch,
        "like": like,
        "auto": chosen,
        "best": best,
        "over_best": mine / times[best] - 1,
        "over_plain": mine / times[0] - 1,
        "token_seconds": times,
        "left_out": sorted(set(found) - set(near)),
        "seconds": seconds,
    }


def best_of(bench: Bench, found: list[Candidate]) -> Candidate:
    """Return what is best on the rounds that judge."""
    return min(found, key=lambda c: bench.seconds(c.choice) / c.tokens) if len(found) > 1 else found[0]


def fixed_length(problem: Problem, length: int) -> list[Candidate]:
    """Return the candidates of one γ that are among the best by the closed form, one of each kind at most."""
    search = Search(problem)
    found = [candidate for form in problem.slices for candidate in search.descend(form, (length,))]
    best = min(candidate.estimate for candidate in found)
    return [candidate for candidate in found if candidate.estimate <= best * (1 + CLOSE)]


def show(row: dict[str, Any]) -> str:
    return (
        f"{row['model']:18} {row['target']:12} batch {row['batch']:2} like {row['like']:16} auto γ {row['auto']:2} "
        f"best γ {row['best']:2} over best {row['over_best']:+6.1%} over plain {row['over_plain']:+6.1%} "
        f"({row['seconds']:.0f} s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="default: all")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES), help="default: 1 4 16")
    parser.add_argument("--every", type=int, default=1, help="of all cases (default: each)")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    options = parser.parse_args()
    collect_seldom()
    cases = [(m, t, b, like) for m in options.models for t in TARGETS for b in options.batches for like in likes(m)]
    model, rows = None, []
    for name, target, batch, like in cases[options.first :: options.every]:
        if model is None or model.name != name:
            model = Model(name)
        row = case(model, target, batch, like)
        if row is not None:
            rows.append(row)
            print(show(row), file=sys.stderr, flush=True)
    summary = {
        "cases": len(rows),
        "mean_over_best": float(np.mean([row["over_best"] for row in rows])) if rows else None,
        "worst_over_best": max((row["over_best"] for row in rows), default=None),
        "worst_over_plain": max((row["over_plain"] for row in rows), default=None),
    }
    print(json.dumps({"summary": summary, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
