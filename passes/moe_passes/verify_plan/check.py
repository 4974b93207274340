"""verify-plan: an independent checker of a complete plan. It shares no code with the passes that made the plan.

It takes plain lists, walks over time once per resource, and trusts nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedTask:
    """A task as the plan has it; times are whole nanoseconds.

    Attributes:
        name: for messages.
        kind: `attention`, `draft-experts`, `load`, `expert`, `write`, `gather` or `head`.
        step: of the draft, or γ for verify.
        layer: decoder layer.
        expert: −1 where the task is not about one.
        start: when it starts.
        duration: of the chosen mode.
        uses: (resource name, amount) of the chosen mode.
        after: task numbers it waits for.
        external_bytes: read from external memory.
        hb_bytes: read from HB, and for a `write` also written.
        macs: 8-bit multiply-accumulates, plus half the 4-bit ones.
        replaces: of a `write`, the resident expert that gives way; −1 otherwise.
    """

    name: str
    kind: str
    step: int
    layer: int
    expert: int
    start: int
    duration: int
    uses: tuple[tuple[str, int], ...]
    after: tuple[int, ...]
    external_bytes: int = 0
    hb_bytes: int = 0
    macs: float = 0.0
    replaces: int = -1


@dataclass(frozen=True)
class PlannedBuffer:
    """A staged slice as the plan has it: from the start of `first` to the end of `last`, at `offset`."""

    first: int
    last: int
    size: int
    offset: int | None


@dataclass(frozen=True)
class NeededBytes:
    """Bytes that an expert computation or a write needs and where they come from.

    Attributes:
        task: number of it.
        needed: bytes of the expert in full precision, or of what HB is to keep.
        resident: bytes of it in HB.
        streamed: bytes that the task itself reads from external memory.
    """

    task: int
    needed: int
    resident: int
    streamed: int


@dataclass(frozen=True)
class Facts:
    """What the plan is for, read from the machine, the model and the draft plan, not from the round.

    Attributes:
        layers: decoder layers.
        routed: per MoE layer, (fewest, most) distinct experts that a verify step can use.
        draft_length: γ.
        external_bytes_per_second: most that external memory gives.
        hb_bytes_per_second: most that HB gives; 0 without HB.
        macs_per_second: 8-bit peak.
        staging_bytes: of HB, as the draft plan has it.
        hb_bytes: capacity of HB.
        hb_used_bytes: dense weights, KV cache, staging and resident experts together.
        bank_bytes: per bank, resident expert bytes placed there.
        bank_capacity_bytes: of experts in one bank.
        residents: per MoE layer, the experts that HB holds in part or whole.
    """

    layers: int
    routed: dict[int, tuple[int, int]]
    draft_length: int
    external_bytes_per_second: float
    hb_bytes_per_second: float
    macs_per_second: float
    staging_bytes: int
    hb_bytes: int
    hb_used_bytes: int
    bank_bytes: tuple[float, ...]
    bank_capacity_bytes: float
    residents: dict[int, frozenset[int]]


def violations(
    tasks: Sequence[PlannedTask],
    buffers: Sequence[PlannedBuffer],
    needs: Sequence[NeededBytes],
    capacities: dict[str, int],
    facts: Facts,
) -> list[str]:
    """Return everything that is wrong with a plan; empty if it is valid.

    Checked: dependencies; exclusive and shared resources; staging capacity over time; staging addresses; that every
    byte an expert computation needs is resident, streamed, or staged before it starts and until it ends; that no task
    is faster than the machine; that the round is complete; that HB holds what it is said to hold; and that the next hot
    set overwrites nothing that is still needed.
    """
    staging = "staging"
    wrong = [f"{t.name} starts at {t.start}" for t in tasks if t.start < 0]
    wrong += _memory(capacities.get(staging, 0), facts) + _complete(tasks, facts) + _physics(tasks, facts)
    wrong += _dependencies(tasks) + _resources(tasks, capacities)
    wrong += _staging(tasks, buffers, capacities.get(staging, 0))
    wrong += _arrivals(tasks, buffers, needs) + _hot_set(tasks, facts)
    return wrong


def _memory(staging: int, facts: Facts) -> list[str]:
    wrong = []
    if staging > facts.staging_bytes:
        wrong.append(f"the round has {staging} bytes of staging, the draft plan {facts.staging_bytes}")
    if facts.hb_used_bytes > facts.hb_bytes:
        wrong.append(f"HB is to hold {facts.hb_used_bytes} bytes and has {facts.hb_bytes}")
    for bank, held in enumerate(facts.bank_bytes):
        if held > facts.bank_capacity_bytes * (1 + 1e-9) + len(facts.routed):
            wrong.append(f"bank {bank} is to hold {held:.0f} bytes of experts and has {facts.bank_capacity_bytes:.0f}")
    return wrong


def _complete(tasks: Sequence[PlannedTask], facts: Facts) -> list[str]:
    """Check that every step runs every layer once, and verify as many experts as routing can ask for."""
    wrong = []
    seen: dict[tuple[str, int, int], int] = {}
    for task in tasks:
        seen[task.kind, task.step, task.layer] = seen.get((task.kind, task.step, task.layer), 0) + 1
    for step in range(facts.draft_length + 1):
        for layer in range(facts.layers + 1):
            kind = "attention" if layer < facts.layers else "head"
            if seen.get((kind, step, layer), 0) != 1:
                wrong.append(f"step {step} has {seen.get((kind, step, layer), 0)} '{kind}' tasks of layer {layer}")
    for layer, (fewest, most) in facts.routed.items():
        found = [t.expert for t in tasks if t.kind == "expert" and t.layer == layer]
        if len(set(found)) != len(found) or not fewest <= len(found) <= most:
            wrong.append(f"verify computes {len(found)} experts of layer {layer}; valid: {fewest} to {most}, each once")
    return wrong


def _physics(tasks: Sequence[PlannedTask], facts: Facts) -> list[str]:
    """Check that no task is faster than the machine, and that bytes move over what carries them."""
    wrong = []
    for task in tasks:
        needed = [task.external_bytes / facts.external_bytes_per_second, task.macs / facts.macs_per_second]
        if facts.hb_bytes_per_second:
            needed.append(task.hb_bytes / facts.hb_bytes_per_second)
        if task.duration < max(needed) * 1e9 * (1 - 1e-9) - 1:
            wrong.append(f"{task.name} lasts {task.duration} ns, but its work takes {max(needed) * 1e9:.0f} ns")
        if task.external_bytes and "external" not in [name for name, amount in task.uses if amount]:
            wrong.append(f"{task.name} reads external memory without occupying it")
        if task.kind == "expert" and not task.macs:
            wrong.append(f"{task.name} computes nothing")
        if task.kind == "expert" and facts.hb_bytes_per_second and not task.hb_bytes:
            wrong.append(f"{task.name} reads nothing")
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
    return wrong


def _arrivals(
    tasks: Sequence[PlannedTask], buffers: Sequence[PlannedBuffer], needs: Sequence[NeededBytes]
) -> list[str]:
    """Check that what a task needs has been loaded when it starts, and is kept until it ends."""
    wrong = []
    slices: dict[tuple[int, int], dict[int, list[PlannedBuffer]]] = {}
    for buffer in buffers:
        load = tasks[buffer.first]
        slices.setdefault((load.layer, load.expert), {}).setdefault(buffer.first, []).append(buffer)
    for need in needs:
        task, have = tasks[need.task], need.resident + need.streamed
        for number, held in slices.get((task.layer, task.expert), {}).items():
            load, kept = tasks[number], [buffer for buffer in held if _end(tasks[buffer.last]) >= _end(task)]
            if _end(load) > task.start:
                wrong.append(f"{task.name} starts before {load.name} has brought its slice")
                continue
            if len(kept) < len(held):
                wrong.append(f"the slice of {load.name} is dropped before {task.name} ends")
            have += min(load.external_bytes, sum(buffer.size for buffer in kept))
        if have < need.needed:
            wrong.append(f"{task.name} needs {need.needed} bytes, but {have} are there")
        if task.kind == "expert" and task.hb_bytes + need.streamed < need.needed:
            wrong.append(f"{task.name} reads {task.hb_bytes + need.streamed} bytes of the {need.needed} that it needs")
    return wrong


def _hot_set(tasks: Sequence[PlannedTask], facts: Facts) -> list[str]:
    """Check that writes of the next hot set replace residents, each once, after all that reads them."""
    wrong = []
    replaced: set[tuple[int, int]] = set()
    for task in (task for task in tasks if task.kind == "write"):
        residents = facts.residents.get(task.layer, frozenset())
        if task.replaces not in residents or task.expert in residents or (task.layer, task.replaces) in replaced:
            wrong.append(f"{task.name} replaces expert {task.replaces}; valid: a resident, once, by one that is not")
        replaced.add((task.layer, task.replaces))
        for other in tasks:
            reads = other.kind == "draft-experts" or (other.kind == "expert" and other.expert == task.replaces)
            if other.layer == task.layer and reads and _end(other) > task.start:
                wrong.append(f"{task.name} overwrites expert {task.replaces} before {other.name} has read it")
    return wrong
