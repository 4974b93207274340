"""What delays a task of the scheduled round, how much later it could start, and what runs meanwhile."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from moe_passes.plan.errors import InputError

from moe_compiler.documents.explanation import Explanation
from moe_compiler.documents.folder import CompiledFolder
from moe_compiler.documents.plan import PlanDocument, Task
from moe_compiler.explanation.words import listed, seconds

TOLERANCE_SECONDS = 5e-10
"""Half of the scheduler's nanosecond: times in plan.json are seconds."""
SHOWN = 6


@dataclass(frozen=True)
class ScheduledRound:
    """The round of plan.json, and which task must end before which can start: by data, by resource, by staging."""

    plan: PlanDocument

    @property
    def tasks(self) -> list[Task]:
        """In program order."""
        return self.plan.round.tasks

    def end(self, task: int) -> float:
        """Seconds at which a task ends."""
        return self.tasks[task].start_seconds + self.tasks[task].seconds

    @cached_property
    def makespan(self) -> float:
        """Seconds of the round."""
        return max((self.end(n) for n in range(len(self.tasks))), default=0.0)

    @cached_property
    def before(self) -> list[dict[int, str]]:
        """For every task, those that end before it can start, and why."""
        found: list[dict[int, str]] = [dict.fromkeys(task.after, "its data") for task in self.tasks]
        for resource, order in self._by_resource.items():
            for number, other in self._neighbours(order):
                found[other].setdefault(number, resource)
        for number, other in self._staging():
            found[other].setdefault(number, "staging")
        return found

    @cached_property
    def _by_resource(self) -> dict[str, list[int]]:
        orders: dict[str, list[int]] = {}
        for task in sorted(self.tasks, key=lambda t: (t.start_seconds, t.id)):
            for resource in task.uses:
                orders.setdefault(resource, []).append(task.id)
        return orders

    def _neighbours(self, order: list[int]) -> Iterator[tuple[int, int]]:
        """Yield what leaves a resource, and what enters it next; several may hold a resource at once."""
        starts = [self.tasks[number].start_seconds for number in order]
        for place, number in enumerate(order):
            following = bisect_left(starts, self.end(number) - TOLERANCE_SECONDS, lo=place + 1)
            if following < len(order):
                yield number, order[following]

    def _staging(self) -> Iterator[tuple[int, int]]:
        """Yield what frees bytes of staging, and what takes some of them next."""
        free: list[tuple[int, int, int]] = []
        for held in sorted(self.plan.round.staged, key=lambda held: self.tasks[held.first].start_seconds):
            low, high = held.offset, held.offset + held.bytes
            taken = [part for part in free if part[0] < high and low < part[1]]
            yield from ((last, held.first) for _, _, last in taken if last != held.first)
            free = [part for part in free if part not in taken] + [(low, high, held.last)]

    @cached_property
    def tails(self) -> list[float]:
        """For every task, the seconds that must pass after its end, in this order of everything."""
        tails = [0.0] * len(self.tasks)
        for number in sorted(range(len(self.tasks)), key=lambda n: (-self.tasks[n].start_seconds, -n)):
            for before in self.before[number]:
                tails[before] = max(tails[before], self.tasks[number].seconds + tails[number])
        return tails

    def slack(self, task: int) -> float:
        """Seconds that a task could start later without a longer round, all else in its order."""
        return max(0.0, self.makespan - self.end(task) - self.tails[task])

    def waited_for(self, task: int) -> list[tuple[int, str]]:
        """Return what ended when a task started, and why that counts; the data it needs first."""
        start = self.tasks[task].start_seconds
        found = [
            (number, why)
            for number, why in self.before[task].items()
            if abs(self.end(number) - start) < TOLERANCE_SECONDS
        ]
        return sorted(found, key=lambda pair: (pair[1] != "its data", pair[0]))

    def chain(self) -> list[int]:
        """Return a chain of tasks from the start of the round to its end, each of which waited for the one before."""
        current = max(range(len(self.tasks)), key=lambda n: (self.end(n), -n), default=-1)
        found = [] if current < 0 else [current]
        seen = set(found)
        while current >= 0:
            # Tasks of no time at all may each have ended when the other started.
            current = next((number for number, _ in self.waited_for(current) if number not in seen), -1)
            found += [current] if current >= 0 else []
            seen.add(current)
        return found[::-1]


def name_of(task: Task, length: int) -> str:
    """Word a task."""
    of = f"expert {task.expert} of layer {task.layer}" if task.expert is not None else f"layer {task.layer}"
    step = "verify" if task.step >= length else f"draft step {task.step + 1}"
    what = {"head": "head"}.get(task.kind, f"{task.kind} of {of}")
    return f"task {task.id} ({what}, {step})"


def explain_task(of: CompiledFolder, number: int) -> Explanation:
    """Say what delays a task.

    Raises:
        InputError: there is no such task.
    """
    tasks = of.plan.round.tasks
    if not 0 <= number < len(tasks):
        raise InputError(f"--task {number}: the scheduled round has tasks 0 to {len(tasks) - 1}")
    round_, task, length = ScheduledRound(of.plan), tasks[number], of.plan.draft.length
    waits, slack = round_.waited_for(number), round_.slack(number)
    start, end = task.start_seconds, round_.end(number)
    others = [t for t in tasks if t.id != number and t.start_seconds < end and round_.end(t.id) > start]
    held = [h for h in of.plan.round.staged if number in (h.first, h.last)]
    figures = {
        "task": number,
        "kind": task.kind,
        "start_seconds": start,
        "end_seconds": end,
        "slack_seconds": slack,
        "waited_for": [{"task": n, "why": why} for n, why in waits],
        "meanwhile": [t.id for t in others],
        "is_critical": slack < TOLERANCE_SECONDS,
    }
    sentences = [
        f"T{name_of(task, length)[1:]} runs from {seconds(start)} to {seconds(end)} on {listed(task.uses, 4)}.",
        _waiting(round_, task, waits, length),
        "It cannot start later without a longer round: it is on a longest chain."
        if figures["is_critical"]
        else f"It could start {seconds(slack)} later without a longer round, everything else in its order.",
        f"Meanwhile run {listed([name_of(t, length) for t in others], SHOWN)}."
        if others
        else "Nothing runs meanwhile.",
        *(
            f"It holds {h.bytes} bytes of staging from byte {h.offset} on, with task "
            f"{h.last if h.first == number else h.first}."
            for h in held[:2]
        ),
    ]
    return Explanation(question=f"What delays task {number}?", sentences=sentences, figures=figures)


def _waiting(round_: ScheduledRound, task: Task, waits: list[tuple[int, str]], length: int) -> str:
    if waits:
        number, why = waits[0]
        because = {"its data": "whose result it needs", "staging": "which frees the bytes of staging that it takes"}
        reason = because.get(why, f"which holds {why} before it")
        more = f", and for {len(waits) - 1} more that ended then" if len(waits) > 1 else ""
        return f"It waited for {name_of(round_.tasks[number], length)}, {reason}{more}."
    if task.start_seconds < TOLERANCE_SECONDS:
        return "It waits for nothing: it starts the round."
    ready = max((round_.end(n) for n in round_.before[task.id]), default=0.0)
    return f"Nothing that it needs ended then: it could have started {seconds(task.start_seconds - ready)} earlier."


def explain_round(of: CompiledFolder) -> Explanation:
    """Say which tasks the scheduled round's length comes from."""
    round_, length = ScheduledRound(of.plan), of.plan.draft.length
    chain = round_.chain()
    by_kind: dict[str, float] = {}
    for number in chain:
        task = round_.tasks[number]
        by_kind[task.kind] = by_kind.get(task.kind, 0.0) + task.seconds
    ranked = sorted(by_kind.items(), key=lambda pair: -pair[1])
    longest = sorted(chain, key=lambda n: -round_.tasks[n].seconds)[:3]
    uncovered = round_.makespan - sum(by_kind.values())
    figures = {
        "makespan_seconds": round_.makespan,
        "chain": chain,
        "seconds_by_kind": dict(ranked),
        "longest": longest,
        "waiting_seconds": uncovered,
    }
    sentences = [
        f"The scheduled training round takes {seconds(round_.makespan)}. Back from its last task, a chain of "
        f"{len(chain)} tasks that waited for each other takes "
        + listed([f"{seconds(value)} in {kind}" for kind, value in ranked], 8)
        + (f", and {seconds(uncovered)} of waiting for none of them" if uncovered > TOLERANCE_SECONDS else "")
        + ".",
        "The longest on it: "
        f"{listed([f'{name_of(round_.tasks[n], length)}, {seconds(round_.tasks[n].seconds)}' for n in longest])}.",
    ]
    return Explanation(question="Which tasks delay the round?", sentences=sentences, figures=figures)
