"""A round as values: its tasks and what each does, what is held across them, and when everything runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt

KINDS = ("attention", "draft-experts", "load", "expert", "write", "gather", "head")
"""What a task can be: `attention` is all dense work of a layer; `draft-experts` the resident experts of a layer in a
draft step; `load` brings what verify needs of an expert into staging; `expert` computes it; `write` puts what the next
hot set keeps of an expert into the banks of the one that it replaces; `gather` ends the experts of a layer; `head`."""

EXTERNAL = "external"
"""The resource that is the far memory with the link from it: loads take it, and what streams past the engine."""
DEEP = "deep"
"""The resource that what comes out of the deep memory takes."""
FAR_ENGINE = "far engine"
"""The resource that computes experts where they lie."""
BYTES_PER_ACTIVATION = 2
"""Partial sums and gathered activations travel as 16-bit numbers."""

LONGEST_NS = 10**13
"""Longest duration of a task: some hours; sums over a round stay within 64 bits."""


def nanoseconds(seconds: float) -> int:
    """Round up to whole nanoseconds, the unit of the scheduler: a duration is never understated."""
    return math.ceil(round(seconds * 1e9, 6))


@dataclass(frozen=True)
class Mode:
    """One way to run a task: its duration and (resource, amount) demands."""

    duration: int
    uses: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Task:
    """A task: alternatives, predecessors (task numbers), release time, and when it must have ended (None: any time).

    A round has no deadlines. List scheduling and windows overlook them; what they find is checked.
    """

    modes: tuple[Mode, ...]
    after: tuple[int, ...] = ()
    release: int = 0
    deadline: int | None = None


@dataclass(frozen=True)
class Buffer:
    """`amount` units of `resource`, held from the start of task `first` to the end of task `last`."""

    resource: int
    amount: int
    first: int
    last: int


@dataclass(frozen=True)
class Traffic:
    """Bytes and multiply-accumulates of a task, or of many added up: what energy and rooflines are computed from.

    What an engine of the far memory reads there and computes is `far_`: it crosses no link.
    """

    hb_read_bytes: int = 0
    hb_write_bytes: int = 0
    external_read_bytes: int = 0
    link_bytes: int = 0
    w4a8_macs: int = 0
    w8a8_macs: int = 0
    attention_macs: int = 0
    far_read_bytes: int = 0
    far_macs: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Traffic)))


@dataclass(frozen=True)
class Work:
    """What a task does.

    Attributes:
        kind: of `KINDS`.
        step: the draft step, or γ for verify.
        layer: decoder layer; the number of layers for the head.
        expert: that it is about, −1 where it is not about one.
        traffic: what it moves and computes.
        replaces: of a `write`, the resident that gives way; −1 otherwise.
        served: of `draft-experts`, the replica that serves each distinct expert, ascending: (expert, replica).
        where: the operation of the model behind it, as `file:line`; empty where that is not known.
    """

    kind: str
    step: int
    layer: int
    expert: int = -1
    traffic: Traffic = Traffic()
    replaces: int = -1
    served: tuple[tuple[int, int], ...] = ()
    where: str = ""


@dataclass(frozen=True)
class LayerRouting:
    """The routing of a round in one MoE layer; experts by id, −1 where there are fewer than k.

    Attributes:
        verify: [token, k], the target model's choice for the batch·(γ + 1) verified tokens.
        asked: [step, batch, k], the draft router's, before restriction.
        drafted: [step, batch, k], what the draft computes.
        promoted: (expert, resident that it replaces) of the next hot set.
    """

    verify: npt.NDArray[np.int64]
    asked: npt.NDArray[np.int64]
    drafted: npt.NDArray[np.int64]
    promoted: tuple[tuple[int, int], ...]


class HasTasks(Protocol):
    """Anything with tasks, a scheduling problem above all."""

    @property
    def tasks(self) -> Sequence[Task]:
        """In program order; a task's number is its position."""
        ...


@dataclass(frozen=True)
class Schedule:
    """Start time and mode of every task."""

    starts: tuple[int, ...]
    modes: tuple[int, ...]

    def end(self, problem: HasTasks, task: int) -> int:
        """Return when a task ends."""
        return self.starts[task] + problem.tasks[task].modes[self.modes[task]].duration

    def makespan(self, problem: HasTasks) -> int:
        """Return when the last task ends."""
        return max((self.end(problem, n) for n in range(len(problem.tasks))), default=0)


@dataclass(frozen=True)
class SteadyState:
    """Rounds that repeat.

    Attributes:
        period: time from the start of a round to the start of the next.
        lower_bound: of the period.
        carried: loads that run in the period before, task numbers of the round.
        schedule: of every task of the round, relative to the round's start; carried loads are those of the next round.
            None where nothing is carried and each round runs as it is scheduled.
    """

    period: int
    lower_bound: int
    carried: tuple[int, ...]
    schedule: Schedule | None


def add_up(work: Sequence[Work]) -> Traffic:
    """Add up the traffic of tasks."""
    return sum((w.traffic for w in work), Traffic())
