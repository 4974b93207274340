"""Scheduling problems on disk: the JSON of `moec schedule` (docs/schedule.md).

Numbers are read as decimals and scaled to whole ones, so that 0.1 + 0.2 is 0.3 and the schedule is exact.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import networkx as nx
from moe_passes.plan.errors import InputError
from moe_passes.plan.round import Buffer, Mode, Task
from moe_passes.solve.rcpsp.model import horizon
from moe_passes.solve.rcpsp.problem import Problem
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from moe_compiler.documents.json_file import malformed, read_json

LARGEST = 2**50
"""Of the whole numbers that the solver is given, and of the sum of all durations in them."""


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number")
    return Decimal(value)


Number = Annotated[Decimal, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)] | int


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ModeEntry(_Entry):
    """One way to run a task."""

    duration: Number
    uses: dict[str, Number] = {}


class TaskEntry(_Entry):
    """A task; `after` names tasks that must have ended."""

    id: Name
    after: list[Name] = []
    release: Number = Decimal(0)
    deadline: Number | None = None
    modes: Annotated[list[ModeEntry], Field(min_length=1)]


class BufferEntry(_Entry):
    """Held from the start of one task to the end of another."""

    resource: str
    amount: Number
    from_: Annotated[Name, Field(alias="from")]
    to: Name


class ProblemEntry(_Entry):
    """A whole file."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    resources: dict[str, Number]
    tasks: list[TaskEntry]
    buffers: list[BufferEntry] = []


@dataclass(frozen=True)
class Loaded:
    """A problem in whole numbers.

    Attributes:
        problem: what to solve.
        ids: of its tasks.
        scale: whole numbers per unit of time in the file.
    """

    problem: Problem
    ids: tuple[str | int, ...]
    scale: int

    def time(self, value: int) -> int | float:
        """Return a time in the file's unit."""
        return value // self.scale if value % self.scale == 0 else float(Decimal(value) / self.scale)


def read(path: Path) -> Loaded:
    """Read a problem.

    Raises:
        InputError: the message names file, field, value and what would be valid.
    """
    document = read_json(path, str(path), Decimal)
    return from_document(document, str(path))


def from_document(document: Any, where: str) -> Loaded:
    """Check what a file holds; `where` is its name.

    Raises:
        InputError: see `read`.
    """
    try:
        entry = ProblemEntry.model_validate(document)
    except ValidationError as error:
        raise malformed(error, where) from None
    return _load(entry, where)


def _load(entry: ProblemEntry, where: str) -> Loaded:
    numbers: dict[str | int, int] = {}
    for row, task in enumerate(entry.tasks):
        if task.id in numbers:
            raise InputError(f"{where}: tasks.{row}.id: '{task.id}' is the id of tasks.{numbers[task.id]}, too")
        numbers[task.id] = row
    times = [number for task in entry.tasks for number in (task.release, task.deadline, *_durations(task)) if number]
    scale, units = _scale(times, f"{where}: times"), _units(entry, where)
    names = tuple(entry.resources)
    place = {name: number for number, name in enumerate(names)}
    tasks = tuple(
        Task(
            modes=tuple(_mode(mode, scale, units, place) for mode in task.modes),
            after=tuple(dict.fromkeys(_known(i, numbers, f"{where}: tasks.{row}.after") for i in task.after)),
            release=int(task.release * scale),
            deadline=None if task.deadline is None else int(task.deadline * scale),
        )
        for row, task in enumerate(entry.tasks)
    )
    buffers = tuple(
        Buffer(
            place[buffer.resource],
            int(buffer.amount * units[buffer.resource]),
            _known(buffer.from_, numbers, f"{where}: buffers.{row}.from"),
            _known(buffer.to, numbers, f"{where}: buffers.{row}.to"),
        )
        for row, buffer in enumerate(entry.buffers)
        if buffer.amount
    )
    _check_demands(entry, where)
    capacities = tuple(int(capacity * units[name]) for name, capacity in entry.resources.items())
    try:
        problem = Problem(capacities, names, tasks, buffers)
    except InputError as error:
        raise InputError(f"{where}: {_with_ids(str(error), tuple(numbers))}") from None
    if entry.buffers:
        _check_order(entry, numbers, where)
    if horizon(problem) >= LARGEST:
        raise InputError(f"{where}: durations add up to {horizon(problem)} steps of 1/{scale}; valid: below 2**50")
    return Loaded(problem, tuple(numbers), scale)


def _with_ids(text: str, ids: tuple[str | int, ...]) -> str:
    """Name the tasks of a cycle, which the problem knows by number."""
    head, found, cycle = text.partition("in a cycle: ")
    if not found:
        return text
    return head + found + " → ".join(f"'{ids[int(number)]}'" for number in cycle.strip("[]").split(", "))


def _check_order(entry: ProblemEntry, numbers: dict[str | int, int], where: str) -> None:
    """Refuse buffers that would be closed before they are opened."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(numbers.values())
    graph.add_edges_from((numbers[before], numbers[task.id]) for task in entry.tasks for before in task.after)
    place = {task: at for at, task in enumerate(nx.topological_sort(graph))}
    for row, buffer in enumerate(entry.buffers):
        opened, closed = numbers[buffer.from_], numbers[buffer.to]
        # Only what stands earlier in a topological order can come before.
        if place[closed] < place[opened] and nx.has_path(graph, closed, opened):
            raise InputError(
                f"{where}: buffers.{row}.to: '{buffer.to}' ends before '{buffer.from_}' ('from') starts; "
                f"valid: '{buffer.from_}' or a task that does not come before it"
            )


def _durations(task: TaskEntry) -> Iterable[Decimal]:
    return (mode.duration for mode in task.modes)


def _units(entry: ProblemEntry, where: str) -> dict[str, int]:
    """Return the whole numbers per unit of each resource."""
    amounts: dict[str, list[Decimal]] = {name: [capacity] for name, capacity in entry.resources.items()}
    for row, task in enumerate(entry.tasks):
        for place, mode in enumerate(task.modes):
            for name, amount in mode.uses.items():
                _resource(name, amounts, f"{where}: tasks.{row}.modes.{place}.uses").append(amount)
    for row, buffer in enumerate(entry.buffers):
        _resource(buffer.resource, amounts, f"{where}: buffers.{row}.resource").append(buffer.amount)
    return {name: _scale(values, f"{where}: amounts of '{name}'") for name, values in amounts.items()}


def _resource(name: str, known: dict[str, list[Decimal]], where: str) -> list[Decimal]:
    if name not in known:
        raise InputError(f"{where}: resource '{name[:60]}' does not exist; valid: {', '.join(known)[:200] or 'none'}")
    return known[name]


def _check_demands(entry: ProblemEntry, where: str) -> None:
    for row, task in enumerate(entry.tasks):
        for place, mode in enumerate(task.modes):
            for name, amount in mode.uses.items():
                _fits(amount, entry.resources[name], f"{where}: tasks.{row}.modes.{place}.uses.{name}")
    for row, buffer in enumerate(entry.buffers):
        _fits(buffer.amount, entry.resources[buffer.resource], f"{where}: buffers.{row}.amount")


def _fits(amount: Decimal, capacity: Decimal, where: str) -> None:
    if amount > capacity:
        raise InputError(f"{where}: {amount} is above the capacity, {capacity}")


def _scale(values: list[Decimal], where: str) -> int:
    """Return the power of ten that makes all values whole."""
    places = max((max(0, -int(value.normalize().as_tuple().exponent)) for value in values), default=0)
    largest = max(values, default=Decimal(0))
    if places > 18 or largest * 10**places >= LARGEST:
        raise InputError(f"{where}: up to {largest} with {places} decimal places; valid: whole steps below 2**50")
    return int(10**places)


def _known(name: str | int, numbers: dict[str | int, int], where: str) -> int:
    if name not in numbers:
        raise InputError(f"{where}: task '{str(name)[:60]}' does not exist")
    return numbers[name]


def _mode(mode: ModeEntry, scale: int, units: dict[str, int], place: dict[str, int]) -> Mode:
    uses = tuple((place[name], int(amount * units[name])) for name, amount in mode.uses.items() if amount)
    return Mode(int(mode.duration * scale), uses)
