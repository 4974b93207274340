"""List scheduling: at every moment start the ready task that a priority rule ranks first."""

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moe_passes.schedule_round.bound import longest_tails
from moe_passes.schedule_round.problem import Problem, Schedule

RULES = ("program", "tail", "ready")
"""Priority rules: program order, longest tail first, first come first served."""


def list_schedule(problem: Problem, rule: str) -> Schedule | None:
    """Schedule by one rule of `RULES`.

    Returns:
        The schedule, or None where the rule fills a buffer with what is needed too late (never for `program`, if
        program order is a topological order and each single buffer fits).
    """
    priority = _priorities(problem, rule)
    return schedule_by(problem, priority, by_arrival=rule == "ready")


def _priorities(problem: Problem, rule: str) -> npt.NDArray[np.int64]:
    count = len(problem.tasks)
    if rule != "tail":
        return np.arange(count, dtype=np.int64)
    durations = np.array([problem.shortest(n) for n in range(count)], dtype=np.int64)
    return -(longest_tails(problem, durations, problem.successors()) + durations)


def schedule_by(
    problem: Problem, priority: Sequence[int] | npt.NDArray[np.int64], by_arrival: bool = False
) -> Schedule | None:
    """Schedule with given priorities (lowest first; ties by task number).

    A task that opens a buffer is started only if, with it, the largest buffer still fits for every earlier task in
    program order that has not opened its own: what is needed soon always finds room.
    """
    return _Run(problem, [int(p) for p in priority], by_arrival).run()


class _Run:
    """The state of one run of list scheduling."""

    def __init__(self, problem: Problem, priority: list[int], by_arrival: bool) -> None:
        self.problem, self.priority, self.by_arrival = problem, priority, by_arrival
        count = len(problem.tasks)
        self.free = list(problem.capacities)
        self.waiting = [len(set(task.after)) for task in problem.tasks]
        self.successors = problem.successors()
        self.starts, self.modes = [-1] * count, [0] * count
        self.opens: dict[int, dict[int, int]] = {}
        self.closes: dict[int, dict[int, int]] = {}
        for buffer in problem.buffers:
            for task, changes in ((buffer.first, self.opens), (buffer.last, self.closes)):
                amounts = changes.setdefault(task, {})
                amounts[buffer.resource] = amounts.get(buffer.resource, 0) + buffer.amount
        self.unopened = sorted(self.opens)
        self.first_unopened = 0
        self.largest: dict[int, int] = {}
        for amounts in self.opens.values():
            for resource, amount in amounts.items():
                self.largest[resource] = max(self.largest.get(resource, 0), amount)
        self.ready: dict[tuple[object, ...], list[tuple[int, int]]] = {}
        self.events: list[tuple[int, int, int]] = []

    def run(self) -> Schedule | None:
        """Run to the end; None if tasks are left that can never start."""
        for number, task in enumerate(self.problem.tasks):
            if not self.waiting[number]:
                heapq.heappush(self.events, (task.release, 0, number))
        left = len(self.problem.tasks)
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                _, finished, number = heapq.heappop(self.events)
                self._finish(number, now) if finished else self._arrive(number, now)
            left -= self._start_all(now)
        return None if left else Schedule(tuple(self.starts), tuple(self.modes))

    def _arrive(self, number: int, now: int) -> None:
        task = self.problem.tasks[number]
        signature: tuple[object, ...] = (number in self.opens, *(mode.uses for mode in task.modes))
        key = now if self.by_arrival else self.priority[number]
        heapq.heappush(self.ready.setdefault(signature, []), (key, number))

    def _finish(self, number: int, now: int) -> None:
        for resource, amount in self.problem.tasks[number].modes[self.modes[number]].uses:
            self.free[resource] += amount
        for resource, amount in self.closes.get(number, {}).items():
            self.free[resource] += amount
        for later in self.successors[number]:
            self.waiting[later] -= 1
            if not self.waiting[later]:
                release = self.problem.tasks[later].release
                if release > now:
                    heapq.heappush(self.events, (release, 0, later))
                else:
                    self._arrive(later, now)

    def _start_all(self, now: int) -> int:
        started = 0
        while True:
            best: tuple[int, int, int, tuple[object, ...]] | None = None
            for signature, queue in self.ready.items():
                if not queue or (best is not None and queue[0] >= best[:2]):
                    continue
                mode = self._possible_mode(queue[0][1])
                if mode >= 0:
                    best = (*queue[0], mode, signature)
            if best is None:
                return started
            _, number, mode, signature = best
            heapq.heappop(self.ready[signature])
            self._start(number, mode, now)
            started += 1

    def _possible_mode(self, number: int) -> int:
        """Return the fastest mode that can start now, −1 if none can."""
        for resource, amount in self.opens.get(number, {}).items():
            if not self._has_room(number, resource, amount):
                return -1
        chosen, shortest = -1, -1
        for index, mode in enumerate(self.problem.tasks[number].modes):
            fits = all(self.free[resource] >= amount for resource, amount in mode.uses)
            if fits and (chosen < 0 or mode.duration < shortest):
                chosen, shortest = index, mode.duration
        return chosen

    def _has_room(self, number: int, resource: int, amount: int) -> bool:
        while self.first_unopened < len(self.unopened) and self.starts[self.unopened[self.first_unopened]] >= 0:
            self.first_unopened += 1
        earliest = self.first_unopened >= len(self.unopened) or self.unopened[self.first_unopened] >= number
        reserve = 0 if earliest else self.largest[resource]
        return self.free[resource] >= amount + reserve

    def _start(self, number: int, mode: int, now: int) -> None:
        self.starts[number], self.modes[number] = now, mode
        chosen = self.problem.tasks[number].modes[mode]
        for resource, amount in chosen.uses:
            self.free[resource] -= amount
        for resource, amount in self.opens.get(number, {}).items():
            self.free[resource] -= amount
        heapq.heappush(self.events, (now + chosen.duration, 1, number))
