"""MiniMalloc's instances, allocated by us and by plain CP-SAT in its two-dimensional form, same core, same run; JSON.

    python benchmarks/allocate.py                         # A to E in the folder of public data (MOE_DATA)
    python benchmarks/allocate.py --limit 20 more/*.csv   # others; the capacity is in the name, NAME.CAPACITY.csv

The instances are Google's: github.com/google/minimalloc, folder benchmarks/challenging.
"""

import argparse
import json
import resource
import time
from pathlib import Path

from moe_passes.solve.allocation.check import violations
from moe_passes.solve.allocation.problem import Problem
from moe_passes.solve.allocation.solver import solve
from ortools.sat.python import cp_model
from public import FOLDER

from moe_compiler.formats.allocation_file import read

THERE = sorted((FOLDER / "minimalloc").glob("*.csv"))


def ours(problem: Problem, limit: float, seed: int) -> dict[str, object]:
    start = time.perf_counter()
    found = solve(problem, seed, limit)
    seconds = time.perf_counter() - start
    solved = found.status in ("optimal", "feasible")
    assert not solved or violations(problem, found.offsets) == []
    return {"status": found.status, "seconds": seconds, "peak": found.peak_bytes if solved else None}


def plain(problem: Problem, limit: float, seed: int) -> dict[str, object]:
    """One model: rectangles of lifetime and address that do not overlap; for as many seconds of the clock."""
    model = cp_model.CpModel()
    times, lines = [], []
    for buffer in problem.buffers:
        offset = model.new_int_var(0, problem.capacity_bytes - buffer.size, "")
        times.append(model.new_fixed_size_interval_var(buffer.lower, buffer.upper - buffer.lower, ""))
        lines.append(model.new_fixed_size_interval_var(offset, buffer.size, ""))
    model.add_no_overlap_2d(times, lines)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers, solver.parameters.random_seed = 1, seed
    solver.parameters.max_time_in_seconds = limit
    start = time.perf_counter()
    status = solver.status_name(solver.solve(model)).lower()
    return {"status": status, "seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="*", type=Path, default=THERE, help="instances (default: those of the public data)"
    )
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for each (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the searches (default: 0)")
    options = parser.parse_args()
    results = []
    for path in options.files:
        problem = Problem(int(path.name.split(".")[-2]), read(path).buffers, alignment_bytes=1)
        results.append(
            {
                "instance": path.name,
                "buffers": len(problem.buffers),
                "ours": ours(problem, options.limit, options.seed),
                "plain_cp_sat": plain(problem, options.limit, options.seed),
            }
        )
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"limit_seconds": options.limit, "peak_mib": peak_mib, "instances": results}, indent=1))


if __name__ == "__main__":
    main()
