"""A whole problem as a CP-SAT model."""

from collections.abc import Iterable

from ortools.sat.python import cp_model

from moe_passes.plan.round import Schedule
from moe_passes.solve.rcpsp.problem import Budget, Problem

WHOLE, PART, PART_WITH_BUFFERS, PART_SHARED = 0.25, 1.5, 0.5, 0.3
"""CP-SAT's deterministic time per second of a budget, so that a budget lasts about as long on the clock.

Measured on one core: a unit of it takes 1.5 to 8 seconds on whole problems of 30 to 2,000 tasks, 0.5 to 1.5 on parts
of them, 2 to 6 where buffers are held, 2.5 to 6 where tasks share resources without that."""


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
    model: cp_model.CpModel, budget: Budget, rate: float, most_conflicts: int = 2**62
) -> tuple[cp_model.CpSolverStatus, cp_model.CpSolver, float]:
    """Solve a model at a rate (`WHOLE`, `part_rate`); returns the status, the solver, and the seconds that it took."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = budget.workers
    solver.parameters.random_seed = budget.seed % 2**31
    solver.parameters.max_deterministic_time = budget.seconds * rate
    solver.parameters.max_number_of_conflicts = most_conflicts
    # Several workers stay deterministic if they exchange what they find at fixed points only.
    solver.parameters.interleave_search = budget.workers > 1
    # A linear relaxation sees little of disjunctions: without it, ft10 is proved in 1.4 s instead of 16 s.
    solver.parameters.linearization_level = 0
    # The newer propagator of sums can take minutes over 0.2 units of deterministic time where buffers are held.
    solver.parameters.new_linear_propagation = False
    # On parts of a problem, both can take a hundred times what deterministic time says.
    if rate != WHOLE:
        solver.parameters.cp_model_probing_level = 0
        solver.parameters.symmetry_level = 0
    status = solver.solve(model)
    return status, solver, float(solver.response_proto.deterministic_time) / rate


def part_rate(problem: Problem) -> float:
    """Return the rate for parts of a problem."""
    if problem.buffers:
        return PART_WITH_BUFFERS
    uses = (use for task in problem.tasks for mode in task.modes for use in mode.uses)
    return PART_SHARED if any(2 * amount <= problem.capacities[resource] for resource, amount in uses) else PART


def horizon(problem: Problem) -> int:
    """Return a time by which any problem that can be scheduled is done: the releases, then all durations.

    Where no task runs after the last release, everything later can start earlier: buffers are held for less, deadlines
    are met the sooner.
    """
    releases = max((task.release for task in problem.tasks), default=0)
    return releases + sum(max(mode.duration for mode in task.modes) for task in problem.tasks)
