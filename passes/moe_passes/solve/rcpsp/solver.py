"""schedule-round's solvers behind one interface: problem and budget in, answer out.

`list`: the best of several list schedules. `exact`: plain CP-SAT on the whole problem, a glance first, since what is
easy is proved at once. `mixed`: plain CP-SAT for a part of the budget, then large-neighbourhood search. `windows`:
rolling windows that grow. In all but `list`, iterated justification comes before the long searches. `auto` takes what
suits the size. Every method starts from the best list schedule, so no answer is worse than it, and reports the larger
of the bounds of `bound.py` and of CP-SAT.

The formulas of `bound.py` are our proof; CP-SAT's is believed where a second formulation (`pairwise.py`), small enough
for it, says the same. The answer says whose word it is.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from moe_passes.plan.decisions import SolverRecord
from moe_passes.plan.round import Schedule
from moe_passes.solve.rcpsp import exact, justification, neighbourhoods, pairwise, windows
from moe_passes.solve.rcpsp.bound import active_bound
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.greedy import RULES, list_schedule
from moe_passes.solve.rcpsp.justification import turn_seconds
from moe_passes.solve.rcpsp.problem import Answer, Budget, Problem

PASS = "schedule-round"
SEARCHED = "search: nothing shorter exists"
"""What a bound rests on that is CP-SAT's."""
EXACT_TASKS, EXACT_WITH_BUFFERS = 500, 100
"""Up to so many tasks (and buffers), plain CP-SAT has the whole budget: it sees little of buffers."""
MIXED_TASKS = 2500
"""Up to so many, it has a share of it; beyond, it finds nothing."""
GLANCE_SHARE, JUSTIFICATION_SHARE, EXACT_SHARE = 0.05, 0.2, 0.2
"""Of the budget; what follows has the rest."""

SECOND_SHARE = 0.2
"""Of the budget, for the second formulation, which has it on top."""

Found = tuple[str, Schedule | None, int]


def solve(problem: Problem, budget: Budget, method: str = "auto") -> Answer:
    """Schedule a problem; the same budget gives the same answer.

    Args:
        problem: what to schedule.
        budget: what it may cost.
        method: `auto`, or one of `METHODS`.

    Returns:
        The answer; its schedule is checked by `check.py`.
    """
    scaled = problem.in_units(problem.unit)
    bound = active_bound(scaled)
    answer = _solve(scaled, bound.value, budget, method).times(problem.unit)
    answer = replace(answer, limit=bound.words(problem) if answer.proof == "bound" else SEARCHED)
    wrong = [] if answer.schedule is None else violations(problem, answer.schedule)
    if wrong:
        raise AssertionError(f"{PASS}: method {method}: " + "; ".join(wrong[:5]))
    return answer


def _solve(problem: Problem, bound: int, budget: Budget, method: str) -> Answer:
    rule, best = _best_list_schedule(problem, budget)
    budget = replace(budget, seconds=max(0.0, budget.seconds - len(RULES) * turn_seconds(problem) / 2))
    greedy = None if best is None else best.makespan(problem)
    if best is not None and budget.is_close(best.makespan(problem), bound):
        return Answer(_status(problem, best, bound), best, bound, greedy, "bound", rule)
    chosen = METHODS[method if method != "auto" else _suitable(problem, best)]
    status, schedule, proved = chosen(problem, best, bound, budget)
    if status == "infeasible":
        return _no_schedule(problem, bound, budget)
    if proved == bound:
        return Answer(status, schedule, bound, greedy, "bound", rule)
    answer = Answer(status, schedule, proved, greedy, "cp-sat", rule)
    return _second_opinion(problem, answer, bound, budget) if status == "optimal" else answer


def _second_opinion(problem: Problem, answer: Answer, bound: int, budget: Budget) -> Answer:
    """Ask the other formulation whether there is nothing shorter; where they differ, only our own bound is left."""
    if not pairwise.is_small(problem):
        return answer
    status, shorter = pairwise.search(problem, answer.schedule, _share(budget, SECOND_SHARE))
    if status == "none":
        return replace(answer, proof="two models")
    if shorter is None or violations(problem, shorter):
        return answer
    return replace(answer, status=_status(problem, shorter, bound), schedule=shorter, lower_bound=bound, proof="bound")


def _no_schedule(problem: Problem, bound: int, budget: Budget) -> Answer:
    """Say which deadlines contradict, if the other formulation agrees that they do."""
    tasks, is_smallest = exact.conflict(problem, budget)
    answer = Answer("infeasible", None, bound, None, "cp-sat", None, tasks, is_smallest)
    if not pairwise.is_small(problem):
        return answer
    status, _ = pairwise.search(problem.without_deadlines(tasks), None, _share(budget, SECOND_SHARE))
    if status == "none":
        return replace(answer, proof="two models")
    if status == "unknown":
        return answer
    _, found = pairwise.search(problem, None, _share(budget, SECOND_SHARE))
    if found is None or violations(problem, found):
        return Answer("unknown", None, bound, None, "bound")
    return Answer(_status(problem, found, bound), found, bound, None, "bound")


def _best_list_schedule(problem: Problem, budget: Budget) -> tuple[str | None, Schedule | None]:
    """Return the shortest list schedule that meets everything, and its rule."""
    # Without buffers, there is no room to be kept for two of them.
    rules = [rule for rule in RULES if problem.buffers or not rule.endswith("-double")]
    candidates = [(rule, list_schedule(problem, rule)) for rule in rules if rule == RULES[0] or not budget.is_over]
    shortest = sorted(
        ((rule, schedule) for rule, schedule in candidates if schedule is not None),
        key=lambda pair: pair[1].makespan(problem),
    )
    return next(((rule, s) for rule, s in shortest if not violations(problem, s)), (None, None))


def _suitable(problem: Problem, best: Schedule | None) -> str:
    size = len(problem.tasks) + len(problem.buffers)
    if best is None or size <= (EXACT_WITH_BUFFERS if problem.buffers else EXACT_TASKS):
        return "exact"
    return "mixed" if size <= MIXED_TASKS else "windows"


def _status(problem: Problem, schedule: Schedule | None, bound: int) -> str:
    if schedule is None:
        return "unknown"
    return "optimal" if schedule.makespan(problem) <= bound else "feasible"


def _list(problem: Problem, best: Schedule | None, bound: int, budget: Budget) -> Found:
    return _status(problem, best, bound), best, bound


def _start(problem: Problem, best: Schedule | None, bound: int, budget: Budget) -> Schedule | None:
    return None if best is None else justification.improve(problem, best, bound, _share(budget, JUSTIFICATION_SHARE))


def _share(budget: Budget, share: float) -> Budget:
    return replace(budget, seconds=share * budget.seconds)


def _exact(problem: Problem, best: Schedule | None, bound: int, budget: Budget) -> Found:
    status, best, bound = exact.search(problem, best, bound, _share(budget, GLANCE_SHARE))
    if status in ("optimal", "infeasible"):
        return status, best, bound
    if pairwise.is_small(problem):
        best = _glance(problem, best, budget)
    best = _start(problem, best, bound, budget)
    return exact.search(problem, best, bound, _share(budget, 1 - GLANCE_SHARE - JUSTIFICATION_SHARE))


def _glance(problem: Problem, best: Schedule | None, budget: Budget) -> Schedule | None:
    """Ask the other formulation for something shorter, which it finds where times creep in the first."""
    _, shorter = pairwise.search(problem, best, _share(budget, GLANCE_SHARE))
    return best if shorter is None or violations(problem, shorter) else shorter


def _mixed(problem: Problem, best: Schedule | None, bound: int, budget: Budget) -> Found:
    best = _start(problem, best, bound, budget)
    status, best, bound = exact.search(problem, best, bound, _share(budget, EXACT_SHARE))
    if best is None or status == "optimal":
        return status, best, bound
    rest = _share(budget, 1 - JUSTIFICATION_SHARE - EXACT_SHARE)
    best = neighbourhoods.improve(problem, best, bound, rest)
    return _status(problem, best, bound), best, bound


def _windows(problem: Problem, best: Schedule | None, bound: int, budget: Budget) -> Found:
    best = _start(problem, best, bound, budget)
    if best is None:
        return "unknown", None, bound
    best = windows.improve(problem, best, bound, _share(budget, 1 - JUSTIFICATION_SHARE))
    return _status(problem, best, bound), best, bound


METHODS: dict[str, Callable[[Problem, Schedule | None, int, Budget], Found]] = {
    "list": _list,
    "windows": _windows,
    "mixed": _mixed,
    "exact": _exact,
}
"""Each: problem, a schedule to start from, a lower bound, budget → status, schedule, lower bound."""


CLOSE_ENOUGH = 1e-3
"""The search of a round stops when the gap to the bound is at most this."""


PATIENCE_SECONDS, PATIENCE = 60.0, 20.0
"""A round's search that takes so long, and so many times its budget, stands still by deterministic time."""


def round_budget(seconds: float, seed: int, workers: int = 1) -> Budget:
    """Return the budget of a round: it need not be optimal to the nanosecond.

    The same input gives the same output but where the clock has to end what would else run on without end.
    """
    until = time.monotonic() + PATIENCE_SECONDS + PATIENCE * seconds
    return Budget(seconds, seed, workers, CLOSE_ENOUGH, until=until)


def checked(problem: Problem, answer: Answer) -> Schedule:
    """Return the schedule of an answer after the independent check."""
    wrong = ["there is none"] if answer.schedule is None else violations(problem, answer.schedule)
    if answer.schedule is None or wrong:
        raise AssertionError(f"{PASS}: " + "; ".join(wrong[:5]))
    return answer.schedule


def record(answer: Answer, makespan: int, instance: str, seed: int) -> SolverRecord:
    """Say in seconds what the solver answered in nanoseconds."""
    return SolverRecord(
        pass_name=PASS,
        instance=instance,
        status=answer.status,
        objective=makespan * 1e-9,
        lower_bound=answer.lower_bound * 1e-9,
        greedy=(makespan if answer.greedy is None else answer.greedy) * 1e-9,
        seed=seed,
        unit="s",
        limit=answer.limit,
    )
