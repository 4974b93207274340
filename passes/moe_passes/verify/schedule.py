"""That the schedule keeps to dependencies and capacities, and that nothing staged overlaps in time and address."""

from moe_passes.plan.model import ALIGNMENT_BYTES
from moe_passes.verify.plan import Plan


def violations(plan: Plan) -> list[str]:
    """Return everything that is wrong with start times, modes and addresses."""
    return timing(plan) + _hot_set(plan) + addresses(plan)


def timing(plan: Plan) -> list[str]:
    """Return everything that is wrong with start times and modes."""
    wrong = [f"{plan.title(n)} starts at {start}" for n, start in enumerate(plan.schedule.starts) if start < 0]
    return wrong + _dependencies(plan) + _resources(plan)


def _dependencies(plan: Plan) -> list[str]:
    return [
        f"{plan.title(number)} starts before {plan.title(before)}, which it waits for, has ended"
        for number, task in enumerate(plan.tasks)
        for before in task.after
        if plan.end(before) > plan.schedule.starts[number]
    ]


def _resources(plan: Plan) -> list[str]:
    """Walk over time once per resource; what is held as bytes is held from the start of a load on."""
    wrong = []
    users: dict[int, list[tuple[int, int, int, int]]] = {}
    for number, task in enumerate(plan.tasks):
        start, mode = plan.schedule.starts[number], task.modes[plan.schedule.modes[number]]
        for resource, amount in mode.uses:
            if mode.duration:
                users.setdefault(resource, []).append((start, start + mode.duration, amount, number))
    for buffer in plan.buffers:
        span = plan.schedule.starts[buffer.first], plan.end(buffer.last)
        if span[1] < span[0]:
            wrong.append(f"the slice of {plan.title(buffer.first)} is dropped before it is loaded")
        users.setdefault(buffer.resource, []).append((*span, buffer.amount, buffer.first))
    for resource, entries in users.items():
        running: list[tuple[int, int]] = []
        for start, end, amount, number in sorted(entries):
            running = [(until, units) for until, units in running if until > start]
            if end > start:
                running.append((end, amount))
            if sum(units for _, units in running) > plan.capacities[resource]:
                wrong.append(f"{plan.title(number)} overloads '{plan.names[resource]}' at {start}")
                break
    return wrong


def _hot_set(plan: Plan) -> list[str]:
    """What is written over is not read any more: neither by the draft, nor by its own computation."""
    wrong = []
    readers: dict[tuple[int, int], list[int]] = {}
    for number, work in enumerate(plan.work):
        if work.kind in ("draft-experts", "expert"):
            readers.setdefault((work.layer, work.expert), []).append(number)
    for number, work in enumerate(plan.work):
        if work.kind == "write":
            for reader in (*readers.get((work.layer, -1), ()), *readers.get((work.layer, work.replaces), ())):
                if plan.end(reader) > plan.schedule.starts[number]:
                    what = f"expert {work.replaces} before {plan.title(reader)} has read it"
                    wrong.append(f"{plan.title(number)} overwrites {what}")
    return wrong


def addresses(plan: Plan) -> list[str]:
    """Return everything that is wrong with where staged slices lie."""
    wrong = []
    held = []
    for buffer, offset in zip(plan.buffers, plan.offsets, strict=True):
        lower, upper = plan.schedule.starts[buffer.first], plan.end(buffer.last)
        title = plan.title(buffer.first)
        if offset < 0 or offset + buffer.amount > plan.capacities[buffer.resource]:
            wrong.append(f"the slice of {title} lies at {offset}, outside staging")
        elif offset % ALIGNMENT_BYTES:
            wrong.append(f"the slice of {title} lies at {offset}; valid: a multiple of {ALIGNMENT_BYTES}")
        elif upper > lower:
            held.append((lower, upper, offset, offset + buffer.amount, title))
    alive: list[tuple[int, int, int, int, str]] = []
    for entry in sorted(held):
        alive = [other for other in alive if other[1] > entry[0]]
        wrong += [
            f"the slices of {entry[4]} and {other[4]} share addresses"
            for other in alive
            if other[2] < entry[3] and entry[2] < other[3]
        ]
        alive.append(entry)
    return wrong
