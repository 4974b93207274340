"""List scheduling: at every moment start the ready task that a priority rule ranks first."""

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moe_passes.plan.round import Schedule
from moe_passes.solve.rcpsp.bound import longest_tails
from moe_passes.solve.rcpsp.problem import Problem

RULES = ("program", "tail", "ready", "program-double", "tail-double")
"""Priority rules: program order, longest tail first, first come first served. A `-double` rule keeps room for two
buffers of what is needed soon instead of one, so that one can be filled while the other is used."""


def list_schedule(problem: Problem, rule: str) -> Schedule | None:
    """Schedule by one rule of `RULES`.

    Returns:
        The schedule, or None where buffers are never closed: what closes them waits for a task that finds no room. That
        cannot happen if nothing between the opening and the closing of a buffer waits for a task that stands later in
        program order and opens one.
    """
    name, _, double = rule.partition("-")
    run = ListScheduler(problem, _priorities(problem, name), by_arrival=name == "ready")
    run.reserved = 2 if double else 1
    return run.run()


def _priorities(problem: Problem, rule: str) -> list[int]:
    count = len(problem.tasks)
    if rule != "tail":
        return list(range(count))
    durations = np.array([problem.shortest(n) for n in range(count)], dtype=np.int64)
    priorities: list[int] = (-(longest_tails(problem, durations, problem.successors) + durations)).tolist()
    return priorities


def schedule_by(problem: Problem, priority: Sequence[int] | npt.NDArray[np.int64]) -> Schedule | None:
    """Schedule with given priorities (lowest first; ties by task number).

    A task that opens a buffer is started only if, with it, the largest buffer still fits for every earlier task in
    program order that has not opened its own: what is needed soon always finds room.
    """
    return ListScheduler(problem, [int(p) for p in priority], by_arrival=False).run()


MANY_QUEUES = 500
"""Of tasks that start under the same conditions: from so many on, they are looked at all at once."""
NOTHING = np.iinfo(np.int64).max
"""The key of an empty queue."""


class ListScheduler:
    """The state of one run of list scheduling."""

    def __init__(self, problem: Problem, priority: list[int], by_arrival: bool) -> None:
        self.problem, self.priority, self.by_arrival = problem, priority, by_arrival
        count = len(problem.tasks)
        self.free = list(problem.capacities)
        self.waiting = [len(set(task.after)) for task in problem.tasks]
        self.successors, self.signatures = problem.successors, problem.signatures
        self.starts, self.modes = [-1] * count, [0] * count
        self.opens, self.closes = problem.opened, problem.closed
        self.unopened = sorted(self.opens)
        self.first_unopened = 0
        self.largest: dict[int, int] = {}
        for amounts in self.opens.values():
            for resource, amount in amounts.items():
                self.largest[resource] = max(self.largest.get(resource, 0), amount)
        self.ready: dict[int, list[tuple[int, int]]] = {}
        self.arrived: set[int] = set()
        self.dropped: set[int] = set()
        self.only_first = False
        self.reserved = 1
        self.events: list[tuple[int, int, int]] = []
        queues = max(self.signatures, default=0) + 1
        self.has_many = type(self) is ListScheduler and queues >= MANY_QUEUES and not self.opens
        self.heads = np.full(queues if self.has_many else 0, NOTHING)

    def run(self) -> Schedule | None:
        """Run to the end; None if tasks are left that can never start."""
        for number, task in enumerate(self.problem.tasks):
            if not self.waiting[number]:
                heapq.heappush(self.events, (task.release, 0, number))
        started = 0
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                _, finished, number = heapq.heappop(self.events)
                self._finish(number, now) if finished else self._arrive(number, now)
            started += self._start_many(now) if self.has_many else self._start_all(now)
        is_complete = started + len(self.dropped) == len(self.problem.tasks)
        return Schedule(tuple(self.starts), tuple(self.modes)) if is_complete else None

    def _arrive(self, number: int, now: int) -> None:
        self.arrived.add(number)
        self._queue(number, now if self.by_arrival else self.priority[number])

    def _queue(self, number: int, key: int) -> None:
        signature = self.signatures[number]
        heapq.heappush(self.ready.setdefault(signature, []), (key, number))
        if self.has_many:
            self._look_at_head(signature)

    def _finish(self, number: int, now: int) -> None:
        for resource, amount in self.problem.tasks[number].modes[self.modes[number]].uses:
            self.free[resource] += amount
        self._close(number)
        for later in self.successors[number]:
            self.waiting[later] -= 1
            if not self.waiting[later]:
                release = self.problem.tasks[later].release
                if release > now:
                    heapq.heappush(self.events, (release, 0, later))
                else:
                    self._arrive(later, now)

    def _close(self, number: int) -> None:
        for resource, amount in self.closes.get(number, {}).items():
            self.free[resource] += amount

    def _start_all(self, now: int) -> int:
        """Start what can start; of the tasks of one signature, only the first is looked at."""
        started, queues = 0, list(self.ready.items())
        while True:
            best: tuple[int, int, int] | None = None
            possible = []
            for signature, queue in queues:
                while queue and self._is_stale(*queue[0]):
                    heapq.heappop(queue)
                if not queue:
                    continue
                key, number = queue[0]
                if best is None or queue[0] < best[:2]:
                    mode = self._fastest_mode(number)
                    if mode < 0:
                        continue  # Until time goes on, nothing becomes free.
                    if not self._has_room(number):
                        number = self._earliest(signature)
                        mode = self._fastest_mode(number) if number >= 0 and self._has_room(number) else -1
                    if mode >= 0:
                        best = (key, number, mode)
                possible.append((signature, queue))
            if best is None:
                return started
            self._start(*best[1:], now)
            started, queues = started + 1, possible

    def _start_many(self, now: int) -> int:
        """Start what can start, as `_start_all` does, where there are many queues and no buffers."""
        owners, needs = self.problem.needs
        started = 0
        while True:
            fitting = owners[(needs <= np.array(self.free)[:, None]).all(axis=0)]
            ready = fitting[self.heads[fitting] < NOTHING]
            if not len(ready):
                return started
            first = ready[self.heads[ready] == self.heads[ready].min()].tolist()
            _, number = min(self.ready[signature][0] for signature in first)
            heapq.heappop(self.ready[self.signatures[number]])
            self._start(number, self._fastest_mode(number), now)
            self._look_at_head(self.signatures[number])
            started += 1

    def _look_at_head(self, signature: int) -> None:
        queue = self.ready[signature]
        self.heads[signature] = queue[0][0] if queue else NOTHING

    def _earliest(self, signature: int) -> int:
        """Return the task for which room is kept, if it has arrived and is of this signature; −1 otherwise."""
        first = self._first_unopened()
        return first if first in self.arrived and self.signatures[first] == signature else -1

    def _fastest_mode(self, number: int) -> int:
        """Return the fastest mode that finds free what it uses, −1 if none does."""
        chosen, shortest, free = -1, -1, self.free
        for index, mode in enumerate(self.problem.tasks[number].modes):
            for resource, amount in mode.uses:
                if free[resource] < amount:
                    break
            else:
                if chosen < 0 or mode.duration < shortest:
                    chosen, shortest = index, mode.duration
            if self.only_first:
                break
        return chosen

    def _has_room(self, number: int) -> bool:
        """Say whether the buffers that a task opens fit, with what is kept for an earlier one."""
        if number not in self.opens:
            return True
        first = self._first_unopened()
        kept = 0 if first < 0 or first >= number else self.reserved
        return all(self.free[r] >= amount + kept * self.largest[r] for r, amount in self.opens[number].items())

    def _first_unopened(self) -> int:
        """Return the first task in program order that has not opened its buffers; −1 if all have."""
        unopened = self.unopened
        while self.first_unopened < len(unopened) and self._is_settled(unopened[self.first_unopened]):
            self.first_unopened += 1
        return unopened[self.first_unopened] if self.first_unopened < len(unopened) else -1

    def _is_stale(self, key: int, number: int) -> bool:
        """Say whether an entry of a queue is of a task that is settled, or that has another priority by now."""
        return self._is_settled(number) or (not self.by_arrival and key != self.priority[number])

    def _is_settled(self, number: int) -> bool:
        return self.starts[number] >= 0 or number in self.dropped

    def _start(self, number: int, mode: int, now: int) -> None:
        self.starts[number], self.modes[number] = now, mode
        chosen = self.problem.tasks[number].modes[mode]
        for resource, amount in chosen.uses:
            self.free[resource] -= amount
        for resource, amount in self.opens.get(number, {}).items():
            self.free[resource] -= amount
        heapq.heappush(self.events, (now + chosen.duration, 1, number))
