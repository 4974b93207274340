"""That rounds can follow each other as the steady state says: three of them in a row, task by task."""

from dataclasses import replace

from moe_passes.plan.round import Buffer, Schedule, SteadyState, Task
from moe_passes.verify import schedule
from moe_passes.verify.plan import Plan

ROUNDS = 3


def violations(plan: Plan) -> list[str]:
    """Return everything that is wrong with the steady state."""
    steady = plan.steady
    if steady is None:
        return ["the steady state is open"]
    if steady.schedule is None and steady.carried:
        return ["steady state: loads are carried, and nothing says when tasks run"]
    if steady.period < steady.lower_bound:
        return [f"steady state: the period of {steady.period} ns is below its bound of {steady.lower_bound} ns"]
    times = steady.schedule or plan.schedule
    if len(times.starts) != len(plan.tasks):
        return [f"steady state: it times {len(times.starts)} of {len(plan.tasks)} tasks"]
    wrong = []
    for number, mode in enumerate(times.modes):
        if not 0 <= mode < len(plan.tasks[number].modes):
            return [f"steady state: {plan.title(number)} runs in mode {mode}, which does not exist"]
        if times.starts[number] + plan.tasks[number].modes[mode].duration > steady.period:
            wrong.append(f"steady state: {plan.title(number)} ends after the period of {steady.period} ns")
    for number in steady.carried:
        if plan.work[number].kind != "load" or plan.tasks[number].after:
            wrong.append(f"steady state: {plan.title(number)} is carried; valid: loads that wait for nothing")
    unrolled = _unrolled(plan, steady, times)
    found = wrong or schedule.timing(unrolled) or schedule.addresses(unrolled)
    return [text if text.startswith("steady state") else f"steady state: {text}" for text in found]


def _unrolled(plan: Plan, steady: SteadyState, times: Schedule) -> Plan:
    """Write rounds in a row as one plan; the first finds its carried loads done.

    A carried load of round k + 1 runs in round k, and may begin once the last router of round k has run.
    """
    carried = set(steady.carried)
    tail = max(n for n, work in enumerate(plan.work) if work.kind == "attention")
    tasks: list[Task] = []
    starts: list[int] = []
    modes: list[int] = []
    work = []
    buffers: list[Buffer] = []
    offsets: list[int] = []
    coming: dict[int, int] = {}
    for k in range(ROUNDS):
        border = k * steady.period
        number_of: dict[int, int] = {}
        for number, task in enumerate(plan.tasks):
            if number in carried:
                if k:
                    number_of[number] = coming[number]
                continue
            number_of[number] = len(tasks)
            tasks.append(replace(task, after=tuple(number_of[b] for b in task.after if b in number_of)))
            starts.append(border + times.starts[number])
            modes.append(times.modes[number])
            work.append(plan.work[number])
        for number in steady.carried:
            coming[number] = len(tasks)
            tasks.append(replace(plan.tasks[number], after=(number_of[tail],)))
            starts.append(border + times.starts[number])
            modes.append(times.modes[number])
            work.append(plan.work[number])
        for buffer, offset in zip(plan.buffers, plan.offsets, strict=True):
            if buffer.last in number_of and (k or buffer.first not in carried):
                buffers.append(replace(buffer, first=number_of[buffer.first], last=number_of[buffer.last]))
                offsets.append(offset)
    for buffer, offset in zip(plan.buffers, plan.offsets, strict=True):
        if buffer.first in carried:
            buffers.append(replace(buffer, first=coming[buffer.first], last=coming[buffer.first]))
            offsets.append(offset)
    return replace(
        plan,
        tasks=tuple(tasks),
        work=tuple(work),
        buffers=tuple(buffers),
        offsets=tuple(offsets),
        schedule=Schedule(tuple(starts), tuple(modes)),
    )
