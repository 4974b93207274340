"""The problem once more, without any scheduling constraint: a second opinion on what CP-SAT says of `model.py`.

A proof that CP-SAT makes by its propagators of intervals is only as good as these (OR-Tools 9.15 has one that proves
what is not so). Here there are none: pairs of uses of a resource are ordered by Boolean variables and linear
constraints, so a fault in one formulation would have to come with another fault, in other code, to be believed.

A *use* u is a mode of a task, or a buffer: an amount of a resource from a start to an end. Whatever is used at once is
used at the moment that one of the uses starts, so the capacity holds everywhere if it holds at every start (Pritsker,
Watters, Wolfe, Management Science 16, 1969, by start instead of by period). For each use v and every other use u of
the resource, one of three is true: u has ended (e_u ≤ s_v), or has not begun (s_u > s_v), or counts (x_uv); and
amount_v + Σ_u amount_u·x_uv ≤ capacity, where v is used at all and for longer than no time.
"""

from dataclasses import dataclass

from ortools.sat.python import cp_model

from moe_passes.plan.round import Schedule
from moe_passes.solve.rcpsp.model import horizon, run
from moe_passes.solve.rcpsp.problem import Budget, Problem

MOST_PAIRS = 8000
"""Pairs of uses of one resource, over all resources: beyond, the model is too large to prove anything."""


@dataclass(frozen=True)
class _Use:
    """An amount of a resource between two times; it counts where `literal` is true."""

    amount: int
    start: cp_model.IntVar
    end: cp_model.IntVar
    literal: cp_model.IntVar
    owner: tuple[str, int]


def is_small(problem: Problem) -> bool:
    """Say whether a problem has few enough pairs of uses for a second opinion."""
    users = [0] * len(problem.capacities)
    for task in problem.tasks:
        for mode in task.modes:
            for resource, amount in mode.uses if mode.duration else ():
                users[resource] += amount > 0
    for buffer in problem.buffers:
        users[buffer.resource] += 1
    return sum(count * count for count in users) <= MOST_PAIRS


def search(problem: Problem, best: Schedule | None, budget: Budget) -> tuple[str, Schedule | None]:
    """Look for a schedule, for a shorter one where there is one.

    Args:
        problem: what to schedule, deadlines included.
        best: what has to be beaten; None for any schedule.
        budget: what it may cost.

    Returns:
        `optimal` with the best schedule, one that is better, if it found one, with `feasible`, `none` if it is proved
        that there is none that is better, or `unknown`.
    """
    latest = horizon(problem) if best is None else best.makespan(problem) - 1
    model = _Pairwise(problem, latest)
    status, solver, _ = run(model.model, budget)
    if status == cp_model.INFEASIBLE:
        return "none", None
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return "optimal" if status == cp_model.OPTIMAL else "feasible", model.schedule(solver)
    return "unknown", None


class _Pairwise:
    """The model: starts, ends, modes, and the order of uses, pair by pair."""

    def __init__(self, problem: Problem, latest: int) -> None:
        self.problem, self.latest, self.model = problem, latest, cp_model.CpModel()
        self.starts = [self._time(task.release) for task in problem.tasks]
        self.ends = [self._time(0) for _ in problem.tasks]
        self.picks = [[self.model.new_bool_var("") for _ in task.modes] for task in problem.tasks]
        self.uses: dict[int, list[_Use]] = {}
        for number in range(len(problem.tasks)):
            self._add_task(number)
        for number in range(len(problem.buffers)):
            self._add_buffer(number)
        for resource, uses in self.uses.items():
            self._limit(problem.capacities[resource], uses)
        self.model.minimize(self._makespan())

    def _time(self, earliest: int) -> cp_model.IntVar:
        # Where a release is later than the latest end, the model has no solution, which an empty domain cannot say.
        return self.model.new_int_var(earliest, max(earliest, self.latest), "")

    def _makespan(self) -> cp_model.IntVar:
        last = self.model.new_int_var(min(0, self.latest), self.latest, "")
        for end in self.ends:
            self.model.add(end <= last)
        return last

    def _add_task(self, number: int) -> None:
        task, start, end = self.problem.tasks[number], self.starts[number], self.ends[number]
        self.model.add(sum(self.picks[number]) == 1)
        for before in task.after:
            self.model.add(self.ends[before] <= start)
        if task.deadline is not None:
            self.model.add(end <= task.deadline)
        for mode, pick in zip(task.modes, self.picks[number], strict=True):
            self.model.add(end - start == mode.duration).only_enforce_if(pick)
            for resource, amount in mode.uses if mode.duration else ():
                if amount:
                    use = _Use(amount, start, end, pick, ("task", number))
                    self.uses.setdefault(resource, []).append(use)

    def _add_buffer(self, number: int) -> None:
        buffer = self.problem.buffers[number]
        start, end = self.starts[buffer.first], self.ends[buffer.last]
        self.model.add(end >= start)
        is_held = self.model.new_bool_var("")
        self.model.add(end <= start).only_enforce_if(~is_held)
        use = _Use(buffer.amount, start, end, is_held, ("buffer", number))
        self.uses.setdefault(buffer.resource, []).append(use)

    def _limit(self, capacity: int, uses: list[_Use]) -> None:
        for v in uses:
            counted = [(u.amount, self._counts(u, v)) for u in uses if u.owner != v.owner]
            total = sum(amount * literal for amount, literal in counted)
            self.model.add(total <= capacity - v.amount).only_enforce_if(v.literal)

    def _counts(self, u: _Use, v: _Use) -> cp_model.IntVar:
        """Return a variable that is true if u is used when v starts."""
        counts, has_ended, is_later = (self.model.new_bool_var("") for _ in range(3))
        self.model.add(u.end <= v.start).only_enforce_if(has_ended)
        self.model.add(u.start >= v.start + 1).only_enforce_if(is_later)
        self.model.add_bool_or(counts, has_ended, is_later, ~u.literal)
        return counts

    def schedule(self, solver: cp_model.CpSolver) -> Schedule:
        """Read a solution."""
        modes = tuple(next(m for m, pick in enumerate(picks) if solver.value(pick)) for picks in self.picks)
        return Schedule(tuple(solver.value(start) for start in self.starts), modes)
