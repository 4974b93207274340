"""Schedule the tasks of a file: read, solve, check, and the document that `moec schedule --json` prints."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_passes.plan.errors import InputError
from moe_passes.plan.request import SEED, WORKERS

from moe_compiler.formats.schedule_file import Loaded, read

MOST_OF_LIMIT, SECONDS_PER_TASK = 1.5, 5e-5
"""When the clock stops a search that deterministic time does not: so many limits, and so much for every task."""

if TYPE_CHECKING:
    from moe_passes.solve.rcpsp.problem import Budget


def schedule(
    file: str | Path,
    *,
    time_limit: float = 30.0,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Schedule tasks on shared resources for the least makespan, with a proved bound.

    Args:
        file: the problem (docs/schedule.md).
        time_limit: deterministic seconds of search.
        seed: of the search.
        workers: of CP-SAT.
        progress: told how many tasks there are.

    Returns:
        The document of docs/schedule.md.

    Raises:
        InputError: the file or an argument is wrong.
    """
    from moe_passes.solve.rcpsp.problem import Budget

    if not 0 < time_limit < math.inf:
        raise InputError(f"--time-limit {time_limit}; valid: a number of seconds above 0")
    began = time.monotonic()
    budget = Budget(time_limit, SEED.check("--seed", seed), WORKERS.check("--workers", workers))
    loaded = read(Path(file))
    most_seconds = MOST_OF_LIMIT * time_limit + SECONDS_PER_TASK * len(loaded.ids)
    budget = replace(budget, until=began + most_seconds)
    progress(f"{len(loaded.ids)} tasks")
    return _solve(loaded, budget)


def _solve(loaded: Loaded, budget: "Budget") -> dict[str, Any]:
    from moe_passes.solve.rcpsp.check import violations
    from moe_passes.solve.rcpsp.solver import solve

    answer = solve(loaded.problem, budget)
    document: dict[str, Any] = {
        "status": answer.status,
        "makespan": None,
        "lower_bound": loaded.time(answer.lower_bound),
        "gap": None,
        "greedy": None if answer.greedy is None else loaded.time(answer.greedy),
        "proof": answer.proof,
        "seed": budget.seed,
        "stopped_by_clock": budget.is_over,
        "tasks": [],
    }
    if answer.status == "infeasible":
        conflict = [loaded.ids[number] for number in answer.conflict]
        return document | {"conflict": conflict, "conflict_is_smallest": answer.is_smallest}
    if answer.schedule is None:
        return document
    wrong = violations(loaded.problem, answer.schedule)
    if wrong:
        raise AssertionError("schedule: " + "; ".join(wrong[:5]))
    makespan, bound = answer.schedule.makespan(loaded.problem), answer.lower_bound
    document["makespan"] = loaded.time(makespan)
    document["gap"] = (makespan - bound) / makespan if makespan else 0.0
    document["tasks"] = [
        {"id": name, "start": loaded.time(start), "mode": mode}
        for name, start, mode in zip(loaded.ids, answer.schedule.starts, answer.schedule.modes, strict=True)
    ]
    return document
