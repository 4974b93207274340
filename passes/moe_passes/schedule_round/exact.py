"""Plain CP-SAT on a whole problem: any resources, buffers and deadlines, for instances that are small enough.

The best list schedule is the hint and the fall-back, so the answer is never worse; CP-SAT's bound and the one of
`bound.py` are both proved, so the larger one counts. Where deadlines cannot be met, the smallest set of them that
contradict is found by implicit hitting sets (Ignatiev, Previti, Liffiton, Marques-Silva, "Smallest MUS extraction with
minimal hitting set dualization", CP 2015): a smallest set that meets every known correction set (deadlines of which
one must be given up) is either a contradiction, and then there is no smaller one, or can be met, and then what has to
be given up beside it is another correction set.
"""

from dataclasses import dataclass

from ortools.sat.python import cp_model

from moe_passes.schedule_round.bound import lower_bound
from moe_passes.schedule_round.check import violations
from moe_passes.schedule_round.greedy import RULES, list_schedule
from moe_passes.schedule_round.problem import Problem, Schedule

MOST_CORRECTIONS = 200
CONFLICT_SECONDS = 5.0
"""Deterministic, for each question about a set of deadlines."""


@dataclass(frozen=True)
class Answer:
    """What is known of a problem.

    Attributes:
        status: `optimal`, `feasible`, `infeasible` (proved) or `unknown`.
        schedule: the best one, None where there is none.
        lower_bound: proved bound on the makespan.
        greedy: makespan of the best list schedule that meets everything, None if none does.
        conflict: where infeasible, tasks whose deadlines contradict; none where not even without deadlines there is a
            schedule.
        is_smallest: whether no smaller set contradicts.
    """

    status: str
    schedule: Schedule | None
    lower_bound: int
    greedy: int | None
    conflict: tuple[int, ...] = ()
    is_smallest: bool = True


def solve_exactly(problem: Problem, seed: int = 0, time_limit_seconds: float = 30.0) -> Answer:
    """Schedule a problem.

    Args:
        problem: what to schedule.
        seed: CP-SAT's.
        time_limit_seconds: deterministic.
    """
    bound, best = lower_bound(problem), _best_list_schedule(problem)
    greedy = None if best is None else best.makespan(problem)
    if best is not None and greedy == bound:
        return Answer("optimal", best, bound, greedy)
    # Of a problem without any schedule, every bound is true, also one beyond the horizon.
    bound = min(bound, horizon(problem))
    model = _Model(problem, bound, best)
    model.require(range(len(problem.tasks)))
    model.model.minimize(model.makespan)
    status, solver = _run(model.model, seed, time_limit_seconds)
    if status == cp_model.INFEASIBLE:
        conflict, is_smallest = _conflict(problem, seed)
        return Answer("infeasible", None, bound, None, conflict, is_smallest)
    bound = max(bound, round(solver.best_objective_bound)) if status != cp_model.UNKNOWN else bound
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        found = model.schedule(solver)
        if best is None or found.makespan(problem) < best.makespan(problem):
            best = found
    if best is None:
        return Answer("unknown", None, bound, None)
    makespan = best.makespan(problem)
    bound = min(bound, makespan)
    return Answer("optimal" if makespan == bound else "feasible", best, bound, greedy)


def _best_list_schedule(problem: Problem) -> Schedule | None:
    found = [schedule for rule in RULES if (schedule := list_schedule(problem, rule)) is not None]
    valid = [schedule for schedule in found if not violations(problem, schedule)]
    return min(valid, key=lambda schedule: schedule.makespan(problem), default=None)


def _run(model: cp_model.CpModel, seed: int, limit: float) -> tuple[cp_model.CpSolverStatus, cp_model.CpSolver]:
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % 2**31
    solver.parameters.max_deterministic_time = limit
    # A linear relaxation sees little of disjunctions: without it, ft10 is proved in 1.4 s instead of 16 s.
    solver.parameters.linearization_level = 0
    return solver.solve(model), solver


def _conflict(problem: Problem, seed: int) -> tuple[tuple[int, ...], bool]:
    """Return the smallest set of tasks whose deadlines contradict, or a set that does, and which of both."""
    due = [number for number, task in enumerate(problem.tasks) if task.deadline is not None]
    corrections: list[list[int]] = []
    for _ in range(MOST_CORRECTIONS):
        chosen = _smallest_hitting_set(due, corrections, seed)
        model = _Model(problem, 0, None)
        met = model.require_if(due)
        for number in chosen:
            model.model.add(met[number] == 1)
        model.model.maximize(sum(met.values()))
        status, solver = _run(model.model, seed, CONFLICT_SECONDS)
        if status == cp_model.INFEASIBLE:
            return tuple(chosen), True
        if status == cp_model.UNKNOWN:
            break
        corrections.append([number for number in due if not solver.value(met[number])])
    return tuple(due), False


def _smallest_hitting_set(elements: list[int], sets: list[list[int]], seed: int) -> list[int]:
    model = cp_model.CpModel()
    picks = {element: model.new_bool_var("") for element in elements}
    for members in sets:
        model.add_bool_or([picks[element] for element in members])
    model.minimize(sum(picks.values()))
    _, solver = _run(model, seed, CONFLICT_SECONDS)
    return [element for element in elements if solver.value(picks[element])]


class _Model:
    """The problem as a CP-SAT model; deadlines are added by `require` or `require_if`."""

    def __init__(self, problem: Problem, bound: int, hint: Schedule | None) -> None:
        self.problem, self.model = problem, cp_model.CpModel()
        self.horizon = horizon(problem)
        self.starts = [self.model.new_int_var(task.release, self.horizon, "") for task in problem.tasks]
        self.ends = [self.model.new_int_var(0, self.horizon, "") for _ in problem.tasks]
        self.makespan = self.model.new_int_var(bound, self.horizon, "")
        self.picks: list[list[cp_model.IntVar]] = []
        self.users: dict[int, list[tuple[cp_model.IntervalVar, int]]] = {}
        for number in range(len(problem.tasks)):
            self._add_task(number)
        self._add_buffers()
        for resource, entries in self.users.items():
            self._limit(problem.capacities[resource], entries)
        if hint is not None:
            self._hint(hint)

    def _add_task(self, number: int) -> None:
        task, start, end = self.problem.tasks[number], self.starts[number], self.ends[number]
        picks = [self.model.new_bool_var("") for _ in task.modes]
        self.picks.append(picks)
        self.model.add_exactly_one(picks)
        for mode, pick in zip(task.modes, picks, strict=True):
            if not mode.duration:
                self.model.add(end == start).only_enforce_if(pick)
                continue
            interval = self.model.new_optional_interval_var(start, mode.duration, end, pick, "")
            for resource, amount in mode.uses:
                if amount:
                    self.users.setdefault(resource, []).append((interval, amount))
        for before in task.after:
            self.model.add(start >= self.ends[before])
        self.model.add(self.makespan >= end)

    def _add_buffers(self) -> None:
        for buffer in self.problem.buffers:
            size = self.model.new_int_var(0, self.horizon, "")
            held = self.model.new_interval_var(self.starts[buffer.first], size, self.ends[buffer.last], "")
            self.users.setdefault(buffer.resource, []).append((held, buffer.amount))

    def _limit(self, capacity: int, entries: list[tuple[cp_model.IntervalVar, int]]) -> None:
        # A buffer may be held for no time at all, which only a cumulative constraint overlooks.
        if all(2 * amount > capacity for _, amount in entries) and not self.problem.buffers:
            self.model.add_no_overlap([interval for interval, _ in entries])
        else:
            self.model.add_cumulative([i for i, _ in entries], [amount for _, amount in entries], capacity)

    def _hint(self, schedule: Schedule) -> None:
        for number in range(len(self.problem.tasks)):
            self.model.add_hint(self.starts[number], schedule.starts[number])
            self.model.add_hint(self.ends[number], schedule.end(self.problem, number))
            for mode, pick in enumerate(self.picks[number]):
                self.model.add_hint(pick, mode == schedule.modes[number])
        self.model.add_hint(self.makespan, schedule.makespan(self.problem))

    def require(self, tasks: range) -> None:
        """Meet the deadlines of tasks."""
        for number in tasks:
            deadline = self.problem.tasks[number].deadline
            if deadline is not None:
                self.model.add(self.ends[number] <= deadline)

    def require_if(self, tasks: list[int]) -> dict[int, cp_model.IntVar]:
        """Say of each task's deadline whether it is met."""
        met = {number: self.model.new_bool_var("") for number in tasks}
        for number, variable in met.items():
            self.model.add(self.ends[number] <= self.problem.tasks[number].deadline).only_enforce_if(variable)
        return met

    def schedule(self, solver: cp_model.CpSolver) -> Schedule:
        """Read a solution."""
        modes = tuple(next(m for m, pick in enumerate(picks) if solver.value(pick)) for picks in self.picks)
        return Schedule(tuple(solver.value(start) for start in self.starts), modes)


def horizon(problem: Problem) -> int:
    """Return a time by which any problem that can be scheduled is done: the releases, then all durations.

    Where no task runs after the last release, everything later can start earlier: buffers are held for less, deadlines
    are met the sooner.
    """
    releases = max((task.release for task in problem.tasks), default=0)
    return releases + sum(max(mode.duration for mode in task.modes) for task in problem.tasks)
