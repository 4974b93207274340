"""The predicted timeline as a Perfetto trace: phases, one track per resource, staging and bandwidth."""

from collections.abc import Iterator

from moe_passes.ir.round import Round
from moe_passes.plan.round import EXTERNAL, Schedule, Task, Work
from moe_passes.solve.rcpsp.problem import Problem

from moe_compiler.backend.phases import BANDWIDTH, PHASES, label, phase
from moe_compiler.backend.trace_file import Slice, summed, write_trace

STAGING = "staging"


def timeline(round_: Round, title: str) -> bytes:
    """Serialise a scheduled round; a task is a slice on the track of every resource that it occupies."""
    problem, schedule = round_.problem, round_.schedule("emit")
    length = max((work.step for work in round_.work), default=0)
    spans = [(start, schedule.end(problem, n)) for n, start in enumerate(schedule.starts)]
    held = [(spans[buffer.first][0], spans[buffer.last][1], float(buffer.amount)) for buffer in problem.buffers]
    rates = [
        (start, end, work.traffic.external_read_bytes / (end - start))
        for work, (start, end) in zip(round_.work, spans, strict=True)
        if work.traffic.external_read_bytes and end > start
    ]
    shared = {buffer.resource for buffer in problem.buffers}
    tracks = [name for number, name in enumerate(problem.names) if number not in shared and name != STAGING]
    slices = [*_phases(round_.work, spans, length), *_slices(round_, schedule, length)]
    levels = [*summed(STAGING, "bytes", held), *summed(BANDWIDTH, "GB/s", rates)]
    return write_trace(title, [PHASES, *tracks], slices, levels)


def _phases(work: tuple[Work, ...], spans: list[tuple[int, int]], length: int) -> Iterator[Slice]:
    """Give every step a slice from the start of its first computation to the end of its last."""
    for step in range(length + 1):
        of = [span for part, span in zip(work, spans, strict=True) if part.step == step and part.kind != "load"]
        if of:
            yield Slice(PHASES, phase(step, length), min(start for start, _ in of), max(end for _, end in of))


def _slices(round_: Round, schedule: Schedule, length: int) -> Iterator[Slice]:
    problem = round_.problem
    is_load = [work.kind == "load" for work in round_.work]
    used = {before for task in problem.tasks for before in task.after if is_load[before]}
    for number, (task, work) in enumerate(zip(problem.tasks, round_.work, strict=True)):
        loads = tuple(before + 1 for before in task.after if is_load[before])
        for place, name in enumerate(_tracks(problem, task, schedule.modes[number], work)):
            yield Slice(
                name,
                label(work.kind, work.step, length, -1 if work.kind == "head" else work.layer, work.expert),
                schedule.starts[number],
                schedule.end(problem, number),
                _details(number, work),
                (number + 1,) if number in used and not place else (),
                loads if not place else (),
            )


def _tracks(problem: Problem, task: Task, mode: int, work: Work) -> list[str]:
    """Return the tracks of a task; that of a load's source comes first: arrows start there."""
    names = [problem.names[resource] for resource, amount in task.modes[mode].uses if amount]
    return sorted(names, key=lambda name: name != EXTERNAL) if work.kind == "load" else names


def _details(number: int, work: Work) -> tuple[tuple[str, int | str], ...]:
    traffic = work.traffic
    found: dict[str, int | str] = {"task": number, "layer": work.layer}
    found |= {"expert": work.expert} if work.expert >= 0 else {}
    found |= {"replaces": work.replaces} if work.replaces >= 0 else {}
    found |= {name: amount for name, amount in vars(traffic).items() if amount}
    found |= {"operation": work.where} if work.where else {}
    return tuple(found.items())
