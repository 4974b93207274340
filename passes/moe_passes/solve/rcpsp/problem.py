"""schedule-round as a resource-constrained project scheduling problem.

Tasks j with modes m ∈ M_j, each with a duration p_jm and demands r_jmk on unit resources k of capacity R_k; precedence
(i, j): S_j ≥ S_i + p_i; release times: S_j ≥ r_j; deadlines: S_j + p_j ≤ d_j; buffers b: `amount` units of a buffer
resource are held in [S_first, S_last + p_last). Minimise the makespan max_j S_j + p_j. Times are whole numbers
(nanoseconds in the compiler). In the literature: multi-mode resource-constrained project scheduling with release times
and cumulative storage, MPS | prec, r_j, d_j | C_max.

A draft-verify round (`tasks/build.py` builds it) is such a problem:

- resources k: `external` (the far memory with the link from it, R = 1, or 2 where loads share it), `link` (aggregation,
  R = 1), one for every group of banks with their elements (R = 1), the far engine and the deep memory where there are
  such, and the buffer `staging` (R = bytes);
- tasks j: dense parts, draft experts, loads, verify experts, writes of the next hot set, gathers;
- modes M_j of an expert: near memory, on the banks of each replica; or one, as it streams past all elements; or by the
  far engine, beside a load or not. Of a load: with all of the link, or half of one that is shared;
- precedence: the graph of the IR. A load waits for the draft router that first asked for its expert; for nothing, so it
  is released at time zero, if its expert is always needed; for verify's router otherwise. A write waits for the load,
  and for the last reader of the resident that it replaces;
- buffers b: each staged slot, from the start of its load to the end of the expert, or of the write.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

import numpy as np
import numpy.typing as npt

from moe_passes.plan.errors import InputError
from moe_passes.plan.round import Buffer, Schedule, Task


@dataclass(frozen=True)
class Problem:
    """A whole problem; tasks stand in program order, which list scheduling falls back on.

    Attributes:
        capacities: of every resource.
        names: of every resource.
        tasks: in program order; a task's number is its position.
        buffers: what is held across tasks.
        order: task numbers in a topological order, computed.

    Raises:
        InputError: an unknown task or resource, a negative duration, a demand above a capacity, or a cycle.
    """

    capacities: tuple[int, ...]
    names: tuple[str, ...]
    tasks: tuple[Task, ...]
    buffers: tuple[Buffer, ...] = ()
    order: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        for number, task in enumerate(self.tasks):
            self._check_task(number, task)
        for number, buffer in enumerate(self.buffers):
            self._check_buffer(number, buffer)
        object.__setattr__(self, "order", self._topological_order())

    def _topological_order(self) -> tuple[int, ...]:
        if all(before < number for number, task in enumerate(self.tasks) for before in task.after):
            return tuple(range(len(self.tasks)))
        graph = {n: task.after for n, task in enumerate(self.tasks)}
        try:
            return tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise InputError(f"tasks wait for each other in a cycle: {error.args[1]}") from None

    def _check_task(self, number: int, task: Task) -> None:
        if not task.modes:
            raise InputError(f"task {number} has no mode")
        if task.release < 0:
            raise InputError(f"task {number}: release {task.release} is negative")
        if task.deadline is not None and task.deadline < 0:
            raise InputError(f"task {number}: deadline {task.deadline} is negative")
        for i in task.after:
            if not 0 <= i < len(self.tasks):
                raise InputError(f"task {number} waits for task {i}, which does not exist")
        for mode in task.modes:
            if mode.duration < 0:
                raise InputError(f"task {number}: duration {mode.duration} is negative")
            for resource, amount in mode.uses:
                if not 0 <= resource < len(self.capacities):
                    raise InputError(f"task {number} uses resource {resource}, which does not exist")
                if not 0 <= amount <= self.capacities[resource]:
                    raise InputError(
                        f"task {number} uses {amount} of '{self.names[resource]}'; "
                        f"its capacity is {self.capacities[resource]}"
                    )

    def _check_buffer(self, number: int, buffer: Buffer) -> None:
        for task in (buffer.first, buffer.last):
            if not 0 <= task < len(self.tasks):
                raise InputError(f"buffer {number} names task {task}, which does not exist")
        if not 0 <= buffer.resource < len(self.capacities):
            raise InputError(f"buffer {number} uses resource {buffer.resource}, which does not exist")
        capacity = self.capacities[buffer.resource]
        if not 0 < buffer.amount <= capacity:
            raise InputError(
                f"buffer {number} (task {buffer.first}) needs {buffer.amount:,} bytes of "
                f"'{self.names[buffer.resource]}', which has {capacity:,}"
            )

    @cached_property
    def unit(self) -> int:
        """The largest step of time that divides all durations and releases; 1 where there are none but zeros.

        Some best schedule starts every task at a multiple of it: with modes and orders fixed, the earliest starts are
        sums of durations and releases.
        """
        times = (time for task in self.tasks for time in (task.release, *(mode.duration for mode in task.modes)))
        return math.gcd(*times) or 1

    def in_units(self, unit: int) -> "Problem":
        """Return the problem with times in steps that divide all durations and releases; deadlines are rounded down."""
        if unit == 1:
            return self
        tasks = (
            replace(
                task,
                modes=tuple(replace(mode, duration=mode.duration // unit) for mode in task.modes),
                release=task.release // unit,
                deadline=None if task.deadline is None else task.deadline // unit,
            )
            for task in self.tasks
        )
        return Problem(self.capacities, self.names, tuple(tasks), self.buffers)

    def without_deadlines(self, kept: Iterable[int]) -> "Problem":
        """Return the problem with the deadlines of some tasks only."""
        due = set(kept)
        tasks = (task if number in due else replace(task, deadline=None) for number, task in enumerate(self.tasks))
        return Problem(self.capacities, self.names, tuple(tasks), self.buffers)

    @cached_property
    def signatures(self) -> list[int]:
        """For every task, a number; tasks of the same one can start under the same conditions."""
        numbers: dict[tuple[object, ...], int] = {}
        keys = ((number in self.opened, *(mode.uses for mode in task.modes)) for number, task in enumerate(self.tasks))
        return [numbers.setdefault(key, len(numbers)) for key in keys]

    @cached_property
    def needs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For every signature and mode, a column: the signature [column], and what it takes of each [k, column]."""
        owners: list[int] = []
        rows: list[list[int]] = []
        for number, signature in enumerate(self.signatures):
            if owners and signature <= owners[-1]:
                continue  # Signatures are numbered as they come.
            for mode in self.tasks[number].modes:
                row = [0] * len(self.capacities)
                for resource, amount in mode.uses:
                    row[resource] = max(row[resource], amount)
                owners.append(signature)
                rows.append(row)
        needs = np.array(rows, dtype=np.int64).reshape(len(rows), len(self.capacities))
        return np.array(owners, dtype=np.int64), np.ascontiguousarray(needs.T)

    def shortest(self, task: int) -> int:
        """Return the duration of a task's shortest mode."""
        return min(mode.duration for mode in self.tasks[task].modes)

    @cached_property
    def opened(self) -> dict[int, dict[int, int]]:
        """For every task that opens buffers, how much it takes of each resource for them."""
        return _amounts((buffer.first, buffer) for buffer in self.buffers)

    @cached_property
    def closed(self) -> dict[int, dict[int, int]]:
        """For every task that closes buffers, how much it gives back of each resource."""
        return _amounts((buffer.last, buffer) for buffer in self.buffers)

    @cached_property
    def successors(self) -> list[list[int]]:
        """For every task, the tasks that wait for it."""
        result: list[list[int]] = [[] for _ in self.tasks]
        for number, task in enumerate(self.tasks):
            for before in task.after:
                result[before].append(number)
        return result


def _amounts(buffers: Iterable[tuple[int, Buffer]]) -> dict[int, dict[int, int]]:
    """Add up buffers by task and resource."""
    result: dict[int, dict[int, int]] = {}
    for task, buffer in buffers:
        amounts = result.setdefault(task, {})
        amounts[buffer.resource] = amounts.get(buffer.resource, 0) + buffer.amount
    return result


PROOFS = ("bound", "two models", "cp-sat")
"""Who proves: the formulas of `bound.py`; CP-SAT on two formulations, of which one has linear constraints alone; CP-SAT
on one formulation."""


@dataclass(frozen=True)
class Budget:
    """What a search may cost.

    Attributes:
        seconds: of CP-SAT's deterministic time, so that the answer is the same on every machine.
        seed: of the search.
        workers: of CP-SAT, and of the machine's cores.
        close_enough: relative distance to the bound at which the search stops.
        until: when it stops by the clock (`time.monotonic`), whatever deterministic time says: CP-SAT's can stand still
            for minutes. Never, unless a caller asks for it: what the clock stops depends on the machine.
    """

    seconds: float
    seed: int = 0
    workers: int = 1
    close_enough: float = 0.0
    until: float = math.inf

    @property
    def is_over(self) -> bool:
        """Whether the clock has stopped the search."""
        return time.monotonic() >= self.until

    def is_close(self, makespan: int, bound: int) -> bool:
        """Say whether a schedule is good enough."""
        return makespan <= bound * (1 + self.close_enough)


@dataclass(frozen=True)
class Answer:
    """What is known of a problem.

    Attributes:
        status: `optimal`, `feasible`, `infeasible` (proved) or `unknown`.
        schedule: the best one, None where there is none.
        lower_bound: proved bound on the makespan.
        greedy: makespan of the best list schedule that meets everything, None if none does.
        proof: whose word the bound, or that there is no schedule, is; of `PROOFS`.
        rule: the list rule behind it.
        conflict: where infeasible, tasks whose deadlines contradict; none where not even without deadlines there is a
            schedule.
        is_smallest: whether no smaller set contradicts, by CP-SAT's word.
        limit: what the bound of formulas rests on, and the resource of it; empty where nothing is known of it.
    """

    status: str
    schedule: Schedule | None
    lower_bound: int
    greedy: int | None
    proof: str
    rule: str | None = None
    conflict: tuple[int, ...] = ()
    is_smallest: bool = True
    limit: str = ""

    def times(self, unit: int) -> "Answer":
        """Return the answer with every time multiplied."""
        schedule = self.schedule
        return replace(
            self,
            schedule=schedule and Schedule(tuple(start * unit for start in schedule.starts), schedule.modes),
            lower_bound=self.lower_bound * unit,
            greedy=None if self.greedy is None else self.greedy * unit,
        )
