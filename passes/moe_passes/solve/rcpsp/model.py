"""A whole problem as a CP-SAT model."""

import math
import time
from collections.abc import Iterable

from ortools.sat.python import cp_model

from moe_passes.plan.round import Schedule
from moe_passes.solve import cp_sat
from moe_passes.solve.rcpsp.problem import Budget, Problem

RATE = 0.05
"""CP-SAT's deterministic time per second of a budget, so that a budget lasts about as long on the clock.

Measured on one core with OR-Tools 9.14: a unit of it takes 10 to 40 seconds on problems of 100 to 3,000 tasks, and far
more where it stands still: on 1,000 operations with three modes each, some hundreds."""


class WholeModel:
    """Every task with all its modes; deadlines are added by `require` or `require_if`.

    Attributes:
        model: the CP-SAT model.
        starts: of every task.
        ends: of every task.
        makespan: at least every end.
    """

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
            limit(self.model, problem, resource, entries)
        if hint is not None:
            self.hint(hint)

    def _add_task(self, number: int) -> None:
        task, start, end = self.problem.tasks[number], self.starts[number], self.ends[number]
        picks = [self.model.new_bool_var("") for _ in task.modes]
        self.picks.append(picks)
        self.model.add_exactly_one(picks)
        for mode, pick in zip(task.modes, picks, strict=True):
            self.model.add(end - start == mode.duration).only_enforce_if(pick)
            uses = [(resource, amount) for resource, amount in mode.uses if amount and mode.duration]
            # An interval has no end of its own: CP-SAT 9.11 to 9.15 proves what is not so where one that is absent
            # shares its end with another mode (tests/passes/solve/rcpsp/test_ortools.py).
            interval = self.model.new_optional_fixed_size_interval_var(start, mode.duration, pick, "") if uses else None
            for resource, amount in uses:
                self.users.setdefault(resource, []).append((interval, amount))
        for before in task.after:
            self.model.add(start >= self.ends[before])
        self.model.add(self.makespan >= end)

    def _add_buffers(self) -> None:
        for buffer in self.problem.buffers:
            size = self.model.new_int_var(0, self.horizon, "")
            held = self.model.new_interval_var(self.starts[buffer.first], size, self.ends[buffer.last], "")
            self.users.setdefault(buffer.resource, []).append((held, buffer.amount))

    def hint(self, schedule: Schedule) -> None:
        """Start the search from a schedule."""
        self.model.clear_hints()
        for number in range(len(self.problem.tasks)):
            self.model.add_hint(self.starts[number], schedule.starts[number])
            self.model.add_hint(self.ends[number], schedule.end(self.problem, number))
            for mode, pick in enumerate(self.picks[number]):
                self.model.add_hint(pick, mode == schedule.modes[number])
        self.model.add_hint(self.makespan, schedule.makespan(self.problem))

    def require(self, tasks: Iterable[int]) -> None:
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


def limit(
    model: cp_model.CpModel, problem: Problem, resource: int, entries: list[tuple[cp_model.IntervalVar, int]]
) -> None:
    """Respect the capacity of a resource that intervals take so much of."""
    capacity = problem.capacities[resource]
    # A buffer may be held for no time at all, which only a cumulative constraint overlooks.
    is_held = any(buffer.resource == resource for buffer in problem.buffers)
    if all(2 * amount > capacity for _, amount in entries) and not is_held:
        model.add_no_overlap([interval for interval, _ in entries])
    else:
        model.add_cumulative([i for i, _ in entries], [amount for _, amount in entries], capacity)


def run(
    model: cp_model.CpModel, budget: Budget, most_conflicts: int = 2**62, *, is_part: bool = False
) -> tuple[int, cp_model.CpSolver, float]:
    """Solve a model, of a whole problem or a part; returns the status, the solver, and the seconds that it took."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = budget.workers
    solver.parameters.random_seed = budget.seed % 2**31
    solver.parameters.max_deterministic_time = budget.seconds * RATE
    solver.parameters.max_number_of_conflicts = most_conflicts
    if budget.until < math.inf:
        solver.parameters.max_time_in_seconds = max(0.0, budget.until - time.monotonic())
    # Several workers stay deterministic if they exchange what they find at fixed points only.
    solver.parameters.interleave_search = budget.workers > 1
    # A linear relaxation sees little of disjunctions: without it, ft10 is proved in 1.4 s instead of 16 s.
    solver.parameters.linearization_level = 0
    # The newer propagator of sums can take minutes over 0.2 units of deterministic time where buffers are held.
    solver.parameters.new_linear_propagation = False
    # On rounds of 700 tasks this propagator takes a quarter of an hour over 0.006 units of deterministic time (9.14),
    # and job shops are solved as well without it.
    solver.parameters.use_precedences_in_disjunctive_constraint = False
    # This part of presolve has proved what is not so (google/or-tools issue 5293).
    solver.parameters.presolve_inclusion_work_limit = 0
    # On parts of a problem, both can take a hundred times what deterministic time says.
    if is_part:
        solver.parameters.cp_model_probing_level = 0
        solver.parameters.symmetry_level = 0
    status = cp_sat.run(solver, model)
    return status, solver, float(solver.response_proto.deterministic_time) / RATE


def horizon(problem: Problem) -> int:
    """Return a time by which any problem that can be scheduled is done: the releases, then all durations.

    Where no task runs after the last release, everything later can start earlier: buffers are held for less, deadlines
    are met the sooner.
    """
    releases = max((task.release for task in problem.tasks), default=0)
    return releases + sum(max(mode.duration for mode in task.modes) for task in problem.tasks)
