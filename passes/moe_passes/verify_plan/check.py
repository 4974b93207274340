"""verify-plan: an independent checker of a complete plan. It shares no code with the passes that made the plan.

It takes plain lists, walks over time once per resource, and trusts nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedTask:
    """A task as the plan has it.

    Attributes:
        name: for messages.
        start: when it starts.
        duration: of the chosen mode.
        uses: (resource name, amount) of the chosen mode.
        after: task numbers it waits for.
    """

    name: str
    start: int
    duration: int
    uses: tuple[tuple[str, int], ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class PlannedBuffer:
    """A staged slice as the plan has it: from the start of `first` to the end of `last`, at `offset`."""

    first: int
    last: int
    size: int
    offset: int | None


@dataclass(frozen=True)
class NeededBytes:
    """Bytes that an expert computation needs and where they come from.

    Attributes:
        task: number of the computation.
        needed: bytes of the expert in full precision.
        resident: bytes of it in HB.
        streamed: bytes that the task itself reads from external memory.
    """

    task: int
    needed: int
    resident: int
    streamed: int


def violations(
    tasks: Sequence[PlannedTask],
    buffers: Sequence[PlannedBuffer],
    needs: Sequence[NeededBytes],
    capacities: dict[str, int],
    staging: str,
) -> list[str]:
    """Return everything that is wrong with a plan; empty if it is valid.

    Checked: dependencies; exclusive and shared resources; staging capacity over time; staging addresses; and that every
    byte an expert computation needs is resident, streamed, or staged before it starts and until it ends.
    """
    wrong = [f"{t.name} starts at {t.start}" for t in tasks if t.start < 0]
    wrong += _dependencies(tasks) + _resources(tasks, capacities)
    wrong += _staging(tasks, buffers, capacities.get(staging, 0))
    wrong += _arrivals(tasks, buffers, needs)
    return wrong


def _end(task: PlannedTask) -> int:
    return task.start + task.duration


def _dependencies(tasks: Sequence[PlannedTask]) -> list[str]:
    wrong = []
    for task in tasks:
        for number in task.after:
            if not 0 <= number < len(tasks):
                wrong.append(f"{task.name} waits for task {number}, which does not exist")
            elif _end(tasks[number]) > task.start:
                wrong.append(f"{task.name} starts before {tasks[number].name}, which it waits for, has ended")
    return wrong


def _resources(tasks: Sequence[PlannedTask], capacities: dict[str, int]) -> list[str]:
    wrong = []
    users: dict[str, list[tuple[int, int, int]]] = {}
    for number, task in enumerate(tasks):
        for name, amount in task.uses:
            if name not in capacities:
                wrong.append(f"{task.name} uses '{name}', which does not exist")
            elif task.duration:
                users.setdefault(name, []).append((task.start, number, amount))
    for name, entries in users.items():
        running: list[tuple[int, int]] = []
        for start, number, amount in sorted(entries):
            running = [(end, units) for end, units in running if end > start]
            running.append((_end(tasks[number]), amount))
            if sum(units for _, units in running) > capacities[name]:
                wrong.append(f"{tasks[number].name} overloads '{name}' at {start}")
    return wrong


def _staging(tasks: Sequence[PlannedTask], buffers: Sequence[PlannedBuffer], capacity: int) -> list[str]:
    wrong = []
    held = []
    for buffer in buffers:
        lower, upper = tasks[buffer.first].start, _end(tasks[buffer.last])
        if upper < lower:
            wrong.append(f"the slice of {tasks[buffer.first].name} is dropped before it is loaded")
        if buffer.offset is None:
            wrong.append(f"the slice of {tasks[buffer.first].name} has no address")
        elif buffer.offset < 0 or buffer.offset + buffer.size > capacity:
            wrong.append(f"the slice of {tasks[buffer.first].name} lies outside staging")
        else:
            held.append((lower, upper, buffer.offset, buffer.offset + buffer.size, buffer.first))
    alive: list[tuple[int, int, int, int, int]] = []
    for entry in sorted(held):
        lower, upper, low, high, first = entry
        alive = [other for other in alive if other[1] > lower]
        for other in alive:
            if upper > lower and other[2] < high and low < other[3]:
                wrong.append(f"the slices of {tasks[first].name} and {tasks[other[4]].name} share addresses")
        alive.append(entry)
        if sum(other[3] - other[2] for other in alive) > capacity:
            wrong.append(f"staging overflows when {tasks[first].name} starts")
    return wrong


def _arrivals(
    tasks: Sequence[PlannedTask], buffers: Sequence[PlannedBuffer], needs: Sequence[NeededBytes]
) -> list[str]:
    wrong = []
    staged: dict[int, int] = {}
    for buffer in buffers:
        if _end(tasks[buffer.first]) <= tasks[buffer.last].start:
            staged[buffer.last] = staged.get(buffer.last, 0) + buffer.size
        else:
            wrong.append(f"{tasks[buffer.last].name} starts before {tasks[buffer.first].name} has brought its slice")
    for need in needs:
        have = need.resident + need.streamed + staged.get(need.task, 0)
        if have < need.needed:
            wrong.append(f"{tasks[need.task].name} needs {need.needed} bytes, but {have} are there")
    return wrong
