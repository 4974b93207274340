"""Placements against every published baseline and against the bound, on held-out steps; prints JSON and a table.

    python benchmarks/partition.py --every 12         # every twelfth instance of all families
    python benchmarks/partition.py --family short --family drift     # those that once lost
    python benchmarks/partition.py --family grid --experts 256 --banks 64 --every 7 --jobs 1   # seconds on one core
    python benchmarks/partition.py --json > all.json  # everything: three hours

Families, of which all but some of `grid` are synthetic:

- `grid`: real traces of Mixtral-8x7B where MOE_DATA has them (train on one category, score on another), and synthetic
  traces with 64, 128 and 256 experts, top-8. A layer is placed alone (four together where HB holds a quarter of the
  bytes, because then they share it).
- `drift`: popularity changes in the middle of the trace, and the training split holds more of the older half.
- `uniform`: every expert is as likely as any other.
- `short`: 150 to 600 training tokens for 256 and 512 experts on 64 and 128 banks, scored on 4,096 tokens that follow.
- `topics`: trained on some requests and scored on others: those at one end of what sets requests apart most.
- `layers`: eight layers that fill the banks, on slow links.
- `spare`: room for a quarter, half or all of the experts once more.
- `prefill`: 4,096 tokens a step on fast links, where computation counts.

Experts are those of Qwen3-30B-A3B, banks and the external channel those of elmoe3d-8gb. Baselines are made from all
training steps.
"""

import argparse
import itertools
import json
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from moe_passes.estimate.registry import cost_model
from moe_passes.routing.traces import cut, split_of
from moe_passes.solve.placement.bound import any_residency_bound, lower_bound
from moe_passes.solve.placement.check import violations
from moe_passes.solve.placement.problem import Layer, LayerProblem, Problem, Rates, Solution
from moe_passes.solve.placement.solver import compare, solve
from moe_passes.solve.placement.step_time import chosen_replicas, step_seconds
from moe_passes.solve.placement.trial import trial_of
from public import FOLDER, public

from moe_compiler.hardware.loader import load_target
from moe_compiler.traces import synthetic

TOKENS, TOP_K, SEEDS = 32768, 8, (0, 1, 2)
WHOLE_BYTES, MSB_BYTES, HIDDEN, MACS = 5_013_504, 2_654_208, 2048, 4_718_592
MIXTRAL_WHOLE, MIXTRAL_MSB, MIXTRAL_HIDDEN, MIXTRAL_MACS = 187_170_816, 99_090_432, 4096, 176_160_768
SCORED_TOKENS, REQUEST_TOKENS = 4096, 256
LINKS = (4, 8, 16, 32, 64)
SLOW_LINK = 8
"""Aggregation links of at most so many GB/s are the slow half (two of five, and the slower three of the issue)."""
CAPACITY = {"resident": 1.0, "spare": 1.25, "quarter": 0.25}
LAYERS = {"resident": 1, "spare": 1, "quarter": 4}
WITHIN_BOUND = 1.01


@dataclass(frozen=True)
class Instance:
    """One instance; `source` is a seed or a pair of categories, `room` what HB holds, in all experts' bytes."""

    family: str
    source: str
    experts: int
    banks: int
    batch: int
    width: int
    link_gb_s: int
    room: float
    layers: int = 1
    tokens: int = TOKENS


def instances() -> list[Instance]:
    return [*grid(), *families()]


def grid() -> list[Instance]:
    cells = list(itertools.product((1, 4, 16), (1, 5), LINKS, CAPACITY))
    sources = [
        (f"seed{seed}", experts, banks)
        for seed, experts, banks in itertools.product(SEEDS, (64, 128, 256), (16, 32, 64))
    ]
    pairs = (("coding", "math"), ("reasoning", "roleplay"))
    there = [pair for pair in pairs if all(mixtral(name) is not None for name in pair)]
    if len(there) < len(pairs):
        print(f"real traces of Mixtral are not in {FOLDER} (MOE_DATA): skipped", file=sys.stderr)
    sources += [(f"mixtral-{a}-{b}", 8, banks) for a, b in there for banks in (16, 32, 64)]
    return [
        Instance("grid", source, experts, banks, batch, width, link, CAPACITY[room], LAYERS[room])
        for source, experts, banks in sources
        for batch, width, link, room in cells
    ]


def families() -> list[Instance]:
    made = []
    decode = ((1, 1, 8), (4, 1, 8), (16, 1, 8), (16, 1, 64))
    for seed in SEEDS[:2]:
        source = f"seed{seed}"
        for experts, banks in ((64, 32), (128, 64)):
            for family, tokens in (("drift", 8192), ("uniform", 8192), ("topics", 16384)):
                made += [Instance(family, source, experts, banks, *step, 1.0, tokens=tokens) for step in decode]
            made += [Instance("prefill", source, experts, banks, 16, 256, link, 1.0) for link in (64, 256, 1024)]
        for (experts, banks), tokens in itertools.product(((256, 64), (512, 128)), (150, 300, 600)):
            made += [Instance("short", source, experts, banks, *step, 1.0, tokens=tokens) for step in decode]
        for (experts, banks), room in itertools.product(((128, 32), (256, 64), (512, 64)), (1.25, 1.5, 2.0)):
            made += [
                Instance("spare", source, experts, banks, batch, 1, link, room, tokens=16384)
                for batch, link in ((16, 2), (16, 4), (16, 16), (64, 4))
            ]
        made += [
            Instance("layers", source, experts, banks, batch, 1, link, 1.0, layers=8, tokens=8192)
            for experts, banks, batch, link in ((64, 64, 64, 1), (64, 16, 16, 1), (64, 64, 64, 4), (128, 64, 64, 1))
        ]
    return made


def mixtral(name: str) -> Path | None:
    """Return a real trace of Mixtral, None where it is not there."""
    return public(f"mixtral-8x7b-{name}.npz")


def choices(instance: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out choices: [token, layer, k]."""
    if instance.source.startswith("mixtral"):
        _, train, test = instance.source.split("-")
        coding, other = (np.load(str(mixtral(name)))["experts"].astype(np.int64) for name in (train, test))
        return coding[:, : instance.layers], other[:, : instance.layers]
    seed, shape = int(instance.source.removeprefix("seed")), (instance.layers, instance.experts)
    if instance.family == "short":
        trace = generated(instance.tokens + SCORED_TOKENS, *shape, seed)
        return trace[: instance.tokens], trace[instance.tokens :]
    if instance.family == "uniform":
        scores = np.random.default_rng(seed).random((instance.tokens, *shape))
        trace = scores.argpartition(TOP_K, axis=2)[:, :, :TOP_K]
    elif instance.family == "drift":
        half = instance.tokens // 2
        trace = np.concatenate([generated(half, *shape, seed), generated(half, *shape, seed + 100)])
    elif instance.family == "topics":
        trace = by_topic(generated(instance.tokens, *shape, seed), instance.experts)
    else:
        trace = generated(instance.tokens, *shape, seed)
    border = split_of(len(trace), "train")[1]
    return trace[:border], trace[border:]


def by_topic(trace: np.ndarray, experts: int) -> np.ndarray:
    """Put requests in the order of the direction in which their use of experts differs most."""
    requests = trace.reshape(-1, REQUEST_TOKENS, *trace.shape[1:])
    use = np.stack([np.bincount(request[:, 0].ravel(), minlength=experts) for request in requests]).astype(float)
    first = np.linalg.svd(use - use.mean(axis=0), full_matrices=False)[0][:, 0]
    return requests[np.argsort(first, kind="stable")].reshape(trace.shape)


@lru_cache(maxsize=4)
def generated(tokens: int, layers: int, experts: int, seed: int) -> np.ndarray:
    return synthetic.generate(synthetic.Made(tokens, seed), layers, experts, TOP_K).experts


def steps_of(instance: Instance, tokens: np.ndarray) -> np.ndarray:
    steps = cut(0, len(tokens), instance.batch, instance.width)
    return tokens[steps.reshape(len(steps), -1)]


def problem(instance: Instance, train: np.ndarray) -> Problem:
    """The problem as `moec partition` solves it."""
    routing = steps_of(instance, train)
    making, trial = trial_of(train, instance.batch, instance.width, instance.experts)
    machine = load_target("elmoe3d-8gb", ()).machine()
    rates, banks = cost_model("analytic", machine).rates(), machine.hb.banks
    real = instance.source.startswith("mixtral")
    whole, msb, macs = (MIXTRAL_WHOLE, MIXTRAL_MSB, MIXTRAL_MACS) if real else (WHOLE_BYTES, MSB_BYTES, MACS)
    room = instance.room * instance.layers * instance.experts * whole
    return Problem(
        Rates(
            banks=instance.banks,
            bank_capacity_bytes=int(np.ceil(room / instance.banks)),
            bank_bytes_per_second=rates.bank_bytes_per_second,
            link_bytes_per_second=instance.link_gb_s * 1e9,
            external_bytes_per_second=rates.far_bytes_per_second,
            partial_sum_bytes=2 * (MIXTRAL_HIDDEN if real else HIDDEN),
            bank_macs_per_second=rates.w8a8_macs_per_second / banks,
        ),
        tuple(
            Layer(
                f"l{row}",
                instance.experts,
                msb,
                whole,
                routing[:, :, row],
                making=making[:, :, row],
                trial=trial[:, :, row],
                macs_per_token=macs,
            )
            for row in range(instance.layers)
        ),
    )


def held_out(here: Problem, solution: Solution, test: np.ndarray) -> dict[str, float]:
    total = np.zeros(len(test))
    for row, (layer, placed) in enumerate(zip(here.layers, solution.layers, strict=True)):
        total += step_seconds(here.rates, layer, placed.residency, placed.replicas, test[:, :, row])
    return {"mean_seconds": float(total.mean()), "p99_seconds": float(np.percentile(total, 99))}


def held_out_bound(here: Problem, solution: Solution, test: np.ndarray) -> float:
    total = 0.0
    for row, (layer, placed) in enumerate(zip(here.layers, solution.layers, strict=True)):
        seen = replace(layer, routing=test[:, :, row], making=None, trial=None)
        total += lower_bound(LayerProblem(here.rates, seen, placed.residency, 0.0, 0.0))
    return total


def hindsight(here: Problem, test: np.ndarray) -> float:
    """A bound on held-out steps for any residency at all, also one that is chosen on those very steps."""
    seen = (replace(layer, routing=test[:, :, row], making=None, trial=None) for row, layer in enumerate(here.layers))
    return any_residency_bound(Problem(here.rates, tuple(seen)))


def run(instance: Instance) -> dict[str, object]:
    train, held = choices(instance)
    test, here = steps_of(instance, held), problem(instance, train)
    compared = compare(here)
    start = time.perf_counter()
    solution = solve(here)
    seconds = time.perf_counter() - start
    assert violations(here, solution, chosen_replicas) == []
    scores = {}
    for name, placed in compared.items():
        alias = "shard-all" if name == f"shard-{instance.banks}" else name
        scores[alias] = held_out(here, placed, test) if placed is not None else None
    return {
        **asdict(instance),
        "kind": "real" if instance.source.startswith("mixtral") else "synthetic",
        "steps": {"train": len(here.layers[0].routing), "held_out": len(test)},
        "train": {"objective": solution.objective, "lower_bound": solution.lower_bound},
        "gap": 1 - solution.lower_bound / solution.objective,
        "held_out": {
            **held_out(here, solution, test),
            "bound_seconds": held_out_bound(here, solution, test),
            "any_residency_seconds": hindsight(here, test),
        },
        "baselines": scores,
        "solve_seconds_per_layer": seconds / len(here.layers),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def summary(results: list[dict[str, Any]]) -> Iterator[dict[str, object]]:
    grid_ = [r for r in results if r["family"] == "grid"]
    large, quarter = [r for r in grid_ if r["experts"] >= 64], CAPACITY["quarter"]
    families = {
        "all resident (with and without spare)": [r for r in large if r["room"] != quarter],
        "slow link, all resident": [r for r in large if r["room"] != quarter and r["link_gb_s"] <= SLOW_LINK],
        "a quarter resident": [r for r in large if r["room"] == quarter],
        "mixtral (real)": [r for r in grid_ if r["kind"] == "real"],
    }
    for name in dict.fromkeys(r["family"] for r in results if r["family"] != "grid"):
        families[name] = [r for r in results if r["family"] == name]
    for name, members in families.items():
        if members:
            yield {"family": name, **aggregate(members)}


def aggregate(members: list[dict[str, Any]]) -> dict[str, object]:
    """Ratios are baseline over ours, of held-out means: above 1, ours is faster."""
    ours = np.array([r["held_out"]["mean_seconds"] for r in members])
    single = {}
    for name in sorted({name for r in members for name in r["baselines"]}):
        single[name] = geometric([e["mean_seconds"] for e in entries_of(members, name)] / ours)
    best = min(single, key=lambda name: single[name])
    each = np.array([min(e["mean_seconds"] for e in r["baselines"].values() if e) for r in members])
    bounds = np.array([r["held_out"]["bound_seconds"] for r in members])
    any_ = np.array([r["held_out"]["any_residency_seconds"] for r in members])
    best_single = np.array([e["mean_seconds"] for e in entries_of(members, best)])
    open_ = each > WITHIN_BOUND * bounds
    return {
        "instances": len(members),
        "faster_than_best_single_baseline": single[best],
        "best_single_baseline": best,
        # What a residency that knew the held-out steps could win at the very most, with no link and no busiest bank.
        "best_single_baseline_over_any_residency": geometric(best_single / any_),
        "faster_than_eplb": single["eplb"],
        "faster_than_best_of_each": geometric(each / ours),
        "faster_than_best_of_each_where_open": geometric((each / ours)[open_]) if open_.any() else None,
        "open_instances": int(open_.sum()),
        "worst_ratio": float((each / ours).min()),
        "slower_by_over_1_percent": int((each / ours < 1 / WITHIN_BOUND).sum()),
        "mean_gap": float(np.mean([r["gap"] for r in members])),
        "mean_solve_seconds_per_layer": float(np.mean([r["solve_seconds_per_layer"] for r in members])),
        "most_solve_seconds_per_layer": max(r["solve_seconds_per_layer"] for r in members),
        "peak_mib": max(r["peak_mib"] for r in members),
    }


def entries_of(members: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Scores of one baseline; where it does not fit an instance, it shards over all banks."""
    return [r["baselines"].get(name) or r["baselines"]["shard-all"] for r in members]


def geometric(ratios: np.ndarray) -> float:
    return float(np.exp(np.log(ratios).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="run every Nth instance of the grid (default: all)")
    parser.add_argument("--family", action="append", help="only this family; repeatable")
    parser.add_argument("--experts", type=int, help="only instances with so many experts")
    parser.add_argument("--banks", type=int, help="only instances on so many banks")
    parser.add_argument("--jobs", type=int, default=2, help="instances at once (default: 2)")
    parser.add_argument("--json", action="store_true", help="print every instance as JSON")
    options = parser.parse_args()
    chosen = [
        instance
        for instance in [i for i in instances() if options.family is None or i.family in options.family][
            :: options.every
        ]
        if options.experts in (None, instance.experts) and options.banks in (None, instance.banks)
    ]
    results = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for done, result in enumerate(pool.map(run, chosen), 1):
            results.append(result)
            print(f"\r{done}/{len(chosen)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    rows = list(summary(results))
    if options.json:
        print(json.dumps({"summary": rows, "instances": results}, indent=1))
        return
    for row in rows:
        print("\n".join(f"{key:38} {value}" for key, value in row.items()), end="\n\n")


if __name__ == "__main__":
    main()
