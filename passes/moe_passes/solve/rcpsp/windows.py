"""Rolling windows: re-schedule what runs within a window of time with CP-SAT, everything else staying where it is.

CP-SAT finds nothing on a whole round, so it is given small pieces: all tasks that run within a window of time are free,
everything else stays, and the longest remaining path is minimised. The window's answer becomes an order of priorities,
list scheduling moves everything behind it forward, and the result is kept if it is not longer.
"""

from dataclasses import replace

import numpy as np
from ortools.sat.python import cp_model

from moe_passes.plan.round import Schedule
from moe_passes.solve.rcpsp.bound import longest_tails
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.greedy import schedule_by
from moe_passes.solve.rcpsp.model import limit, run
from moe_passes.solve.rcpsp.problem import Budget, Problem

FIRST_SIZE, LARGEST_SIZE = 80, 640
"""Tasks that are free at a time; twice as many after a sweep that gained nothing."""
SECONDS_PER_WINDOW = 0.25
SECONDS_PER_TASK = 2.5e-5
"""Charged per window and task of the round: building the window's model and rebuilding the list
schedule visit every task. Measured on one core: 0.08 s a window at 2,959 tasks."""


def improve(problem: Problem, schedule: Schedule, bound: int, budget: Budget) -> Schedule:
    """Return a schedule that is not longer; it stops at the budget, or when the largest windows gain nothing."""
    best, spent, size = schedule, 0.0, FIRST_SIZE
    durations = np.array([problem.shortest(n) for n in range(len(problem.tasks))], dtype=np.int64)
    tails = longest_tails(problem, durations, problem.successors)
    while spent < budget.seconds and size <= LARGEST_SIZE and not budget.is_over:
        before = best.makespan(problem)
        by_start = sorted(range(len(problem.tasks)), key=lambda n: (best.starts[n], n))
        for first in range(0, len(by_start), size // 2):
            if spent >= budget.seconds or budget.is_over or budget.is_close(best.makespan(problem), bound):
                return best
            window = by_start[first : first + size]
            seconds = min(SECONDS_PER_WINDOW, budget.seconds - spent)
            starts, used = _solve_window(problem, best, window, tails, replace(budget, seconds=seconds))
            spent += used + SECONDS_PER_TASK * len(problem.tasks)
            if starts is not None:
                best = _keep_better(problem, best, starts)
        if best.makespan(problem) >= before:
            size *= 2
    return best


def _keep_better(problem: Problem, best: Schedule, starts: list[int]) -> Schedule:
    """Rebuild by the new order; keep it if it is shorter and legal."""
    rebuilt = schedule_by(problem, starts)
    if rebuilt is None or rebuilt.makespan(problem) >= best.makespan(problem):
        return best
    # List scheduling overlooks deadlines, and closes a buffer before it is opened where nothing else orders the two.
    return best if violations(problem, rebuilt) else rebuilt


def _solve_window(
    problem: Problem, schedule: Schedule, window: list[int], tails: np.ndarray, budget: Budget
) -> tuple[list[int] | None, float]:
    """Re-schedule the window's tasks against everything else; return all start times and the time spent."""
    model = cp_model.CpModel()
    free = set(window)
    low = min(schedule.starts[n] for n in window)
    high = max(schedule.end(problem, n) for n in window)
    variables = _WindowVariables(problem, schedule, free, low, high, model)
    variables.add_precedence()
    variables.add_resources()
    variables.add_buffers()
    goal = model.new_int_var(0, int(high + tails.max()), "goal")
    for n in window:
        model.add(goal >= variables.ends[n] + int(tails[n]))
        model.add_hint(variables.starts[n], schedule.starts[n])
    model.minimize(goal)
    status, solver, spent = run(model, budget, is_part=True)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, spent
    starts = list(schedule.starts)
    for n in window:
        starts[n] = solver.value(variables.starts[n])
    return starts, spent


class _WindowVariables:
    """CP-SAT variables of the tasks in a window, and constraints against the tasks outside it."""

    def __init__(
        self,
        problem: Problem,
        schedule: Schedule,
        free: set[int],
        low: int,
        high: int,
        model: cp_model.CpModel,
    ) -> None:
        self.problem, self.schedule, self.free, self.model = problem, schedule, free, model
        self.low, self.high = low, high
        self.starts: dict[int, cp_model.IntVar] = {}
        self.ends: dict[int, cp_model.IntVar] = {}
        self.optional: dict[int, list[tuple[cp_model.IntervalVar, int]]] = {}
        for n in sorted(free):
            self._add_task(n)

    def _add_task(self, n: int) -> None:
        task, model = self.problem.tasks[n], self.model
        start = model.new_int_var(max(self.low, task.release), self.high, f"s{n}")
        latest = self.high if task.deadline is None else min(self.high, task.deadline)
        end = model.new_int_var(self.low, latest, f"e{n}")
        self.starts[n], self.ends[n], self.optional[n] = start, end, []
        chosen = []
        for m, mode in enumerate(task.modes):
            if len(task.modes) == 1:
                self.optional[n].append((model.new_interval_var(start, mode.duration, end, f"i{n}"), m))
                continue
            literal = model.new_bool_var(f"m{n}.{m}")
            chosen.append(literal)
            interval = model.new_optional_interval_var(start, mode.duration, end, literal, f"i{n}.{m}")
            self.optional[n].append((interval, m))
        if chosen:
            model.add_exactly_one(chosen)

    def add_precedence(self) -> None:
        """Wait for predecessors; end before successors that stay where they are."""
        for n, task in enumerate(self.problem.tasks):
            for before in task.after:
                if n in self.free and before in self.free:
                    self.model.add(self.starts[n] >= self.ends[before])
                elif n in self.free:
                    self.model.add(self.starts[n] >= self.schedule.end(self.problem, before))
                elif before in self.free:
                    self.model.add(self.ends[before] <= self.schedule.starts[n])

    def add_resources(self) -> None:
        """Respect the capacity of every unit resource, also against tasks that stay."""
        intervals: dict[int, list[tuple[cp_model.IntervalVar, int]]] = {}
        for n, alternatives in self.optional.items():
            for interval, m in alternatives:
                mode = self.problem.tasks[n].modes[m]
                for resource, amount in mode.uses if mode.duration else ():
                    intervals.setdefault(resource, []).append((interval, amount))
        for n, task in enumerate(self.problem.tasks):
            if n in self.free or not self._overlaps(self.schedule.starts[n], self.schedule.end(self.problem, n)):
                continue
            for resource, amount in task.modes[self.schedule.modes[n]].uses:
                if resource in intervals:
                    intervals[resource].append((self._fixed(n), amount))
        for resource, entries in intervals.items():
            limit(self.model, self.problem, resource, entries)

    def add_buffers(self) -> None:
        """Respect the capacity of every buffer resource."""
        held: dict[int, list[tuple[cp_model.IntervalVar, int]]] = {}
        touched: set[int] = set()
        for number, buffer in enumerate(self.problem.buffers):
            opened = self.starts.get(buffer.first, self.schedule.starts[buffer.first])
            closed = self.ends.get(buffer.last, self.schedule.end(self.problem, buffer.last))
            if isinstance(opened, int) and isinstance(closed, int):
                if not self._overlaps(opened, closed):
                    continue
                interval = self.model.new_fixed_size_interval_var(opened, closed - opened, f"b{number}")
            else:
                touched.add(buffer.resource)
                size = self.model.new_int_var(0, 1 << 50, f"h{number}")
                interval = self.model.new_interval_var(opened, size, closed, f"b{number}")
            held.setdefault(buffer.resource, []).append((interval, buffer.amount))
        for resource in touched:
            limit(self.model, self.problem, resource, held[resource])

    def _overlaps(self, start: int, end: int) -> bool:
        return start < self.high and end > self.low

    def _fixed(self, n: int) -> cp_model.IntervalVar:
        start = self.schedule.starts[n]
        return self.model.new_fixed_size_interval_var(start, self.schedule.end(self.problem, n) - start, f"f{n}")
