"""The dispatcher: list scheduling of a round that becomes known only as its routers run.

Some loads are guesses: they may start before verify's router has said whether they are needed. When it has, a guess
that was wrong and has not started is dropped; one that is loading ends in vain, and its bytes stay in the buffer until
then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_passes.plan.decisions import DispatchPlan
from moe_passes.plan.round import Buffer, Schedule
from moe_passes.solve.dispatch.problem import Guess, Unknown
from moe_passes.solve.rcpsp.greedy import ListScheduler
from moe_passes.solve.rcpsp.problem import Problem


@dataclass(frozen=True)
class Dispatched:
    """What the dispatcher did.

    Attributes:
        problem: the round, wrong guesses included.
        guesses: the loads that it guessed.
        schedule: what it ran; start −1 for what it dropped.
        dropped: wrong guesses that it did not start.
    """

    problem: Problem
    guesses: tuple[Guess, ...]
    schedule: Schedule
    dropped: frozenset[int]

    @property
    def makespan(self) -> int:
        """When the last task ended."""
        return self.schedule.makespan(self.problem)

    @property
    def wasted(self) -> tuple[int, ...]:
        """Numbers of the wrong guesses that were started."""
        wrong = (guess.task for guess in self.guesses if not guess.is_needed)
        return tuple(number for number in wrong if number not in self.dropped)

    @property
    def kept(self) -> list[int]:
        """Numbers of the tasks that it ran."""
        return [number for number in range(len(self.problem.tasks)) if number not in self.dropped]

    def executed(self) -> tuple[Problem, Schedule]:
        """Return what was run as a problem of its own, in which a wrong guess holds its bytes until it was known."""
        problem, schedule, kept = self.problem, self.schedule, self.kept
        numbers = {number: place for place, number in enumerate(kept)}
        held_to = {
            guess.task: max(guess.task, guess.decider, key=lambda number: schedule.end(problem, number))
            for guess in self.guesses
            if not guess.is_needed and guess.task in numbers
        }
        tasks = tuple(
            replace(problem.tasks[number], after=tuple(numbers[before] for before in problem.tasks[number].after))
            for number in kept
        )
        buffers = tuple(
            Buffer(b.resource, b.amount, numbers[b.first], numbers[held_to.get(b.first, b.last)])
            for b in problem.buffers
            if b.first in numbers
        )
        executed = Problem(problem.capacities, problem.names, tasks, buffers)
        modes = tuple(schedule.modes[number] for number in kept)
        return executed, Schedule(tuple(schedule.starts[number] for number in kept), modes)


def dispatch(round_: Unknown, plan: DispatchPlan) -> Dispatched:
    """Run a round, wrong guesses included; program order is a topological order.

    Raises:
        ValueError: buffers are never closed.
    """
    run = _Online(round_.problem, round_.guesses, plan)
    schedule = run.run()
    if schedule is None:
        raise ValueError("buffers are never closed: what closes them waits for a later task that opens one")
    return Dispatched(round_.problem, round_.guesses, schedule, frozenset(run.dropped))


class _Online(ListScheduler):
    def __init__(self, problem: Problem, guesses: Sequence[Guess], plan: DispatchPlan) -> None:
        super().__init__(problem, list(range(len(problem.tasks))), plan.order == "ready")
        self.only_first = plan.engine == "first"
        self.wrong = {guess.task: guess.decider for guess in guesses if not guess.is_needed}
        self.decides: dict[int, list[Guess]] = {}
        self.moments: dict[int, list[tuple[int, int]]] = {}
        self.decided: set[int] = set()
        self.loaded: set[int] = set()
        for guess in guesses:
            self.decides.setdefault(guess.decider, []).append(guess)
            for moment, permille in guess.moments if plan.order == "likelihood" else ():
                key = (1001 - permille) * len(problem.tasks) + guess.task
                if moment < 0:
                    self.priority[guess.task] = key
                else:
                    self.moments.setdefault(moment, []).append((guess.task, key))

    def _close(self, number: int) -> None:
        if number in self.wrong and self.wrong[number] not in self.decided:
            self.loaded.add(number)
            return
        super()._close(number)
        for task, key in self.moments.get(number, ()):
            self._change_key(task, key)
        if number in self.decides:
            self._decide(number)

    def _decide(self, decider: int) -> None:
        self.decided.add(decider)
        for guess in self.decides[decider]:
            if guess.is_needed:
                self._change_key(guess.task, guess.task)
            elif self.starts[guess.task] < 0:
                self.dropped.add(guess.task)
            elif guess.task in self.loaded:
                super()._close(guess.task)

    def _change_key(self, task: int, key: int) -> None:
        """Give a task another priority; an entry that is queued already is skipped once the task has started."""
        if self.starts[task] < 0 and not self.by_arrival and self.priority[task] != key:
            self.priority[task] = key
            if task in self.arrived:
                self._queue(task, key)
