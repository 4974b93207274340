"""From a scheduled round to the cost estimate: energy, busy fractions, critical path, roofline."""

from dataclasses import dataclass
from typing import Any

from moe_passes.lower_to_tasks.problem import Work
from moe_passes.machine import Machine
from moe_passes.schedule_round.problem import Problem, Schedule

KNOBS = {
    "external bandwidth": "memories.external.bandwidth_gb_s",
    "hb bandwidth": "memories.hb.bank_bandwidth_gb_s",
    "compute": "engines.elements.w8a8_tops",
    "aggregation link": "links.aggregation.bandwidth_gb_s",
}
"""The field of the hardware file that each limit belongs to."""


@dataclass(frozen=True)
class Totals:
    """Work of a round, added up over its tasks."""

    hb_read_bytes: int
    hb_write_bytes: int
    external_read_bytes: int
    link_bytes: int
    w4a8_macs: int
    w8a8_macs: int


def add_up(work: tuple[Work, ...]) -> Totals:
    """Add up the work of all tasks."""
    return Totals(
        hb_read_bytes=sum(w.hb_read_bytes for w in work),
        hb_write_bytes=sum(w.hb_write_bytes for w in work),
        external_read_bytes=sum(w.external_read_bytes for w in work),
        link_bytes=sum(w.link_bytes for w in work),
        w4a8_macs=sum(w.w4a8_macs for w in work),
        w8a8_macs=sum(w.w8a8_macs for w in work),
    )


def joules(machine: Machine, totals: Totals, seconds: float) -> dict[str, float]:
    """Split the energy of a round by memory, engine, link and static power."""
    engine, hb = machine.engine, machine.hb
    return {
        "hb_read": totals.hb_read_bytes * hb.read_joules_per_byte if hb else 0.0,
        "hb_write": totals.hb_write_bytes * hb.write_joules_per_byte if hb else 0.0,
        "external_read": totals.external_read_bytes * machine.external.read_joules_per_byte,
        "elements": totals.w4a8_macs * engine.w4a8_joules_per_mac + totals.w8a8_macs * engine.w8a8_joules_per_mac,
        "aggregation_link": totals.link_bytes * machine.aggregation.joules_per_byte,
        "streamline_link": totals.external_read_bytes * machine.streamline.joules_per_byte,
        "static": machine.static_watts * seconds,
    }


def roofline_seconds(machine: Machine, totals: Totals) -> dict[str, float]:
    """Seconds that each resource would need for the work of a round if nothing ever waited."""
    engine, hb = machine.engine, machine.hb
    rate = min(machine.external.bytes_per_second, machine.streamline.bytes_per_second)
    return {
        "external bandwidth": totals.external_read_bytes / rate,
        "hb bandwidth": (totals.hb_read_bytes + totals.hb_write_bytes) / hb.bytes_per_second if hb else 0.0,
        "compute": totals.w4a8_macs / engine.w4a8_macs_per_second + totals.w8a8_macs / engine.w8a8_macs_per_second,
        "aggregation link": totals.link_bytes / machine.aggregation.bytes_per_second if hb else 0.0,
    }


def busy_fractions(problem: Problem, schedule: Schedule) -> dict[str, float]:
    """Share of the round in which each time-shared resource is in use."""
    makespan = schedule.makespan(problem)
    used = dict.fromkeys(range(len(problem.names)), 0)
    for number, task in enumerate(problem.tasks):
        mode = task.modes[schedule.modes[number]]
        for resource, amount in mode.uses:
            used[resource] += mode.duration * amount
    held = {b.resource for b in problem.buffers}
    return {
        name: used[r] / (makespan * problem.capacities[r])
        for r, name in enumerate(problem.names)
        if r not in held and name != "staging" and makespan and problem.capacities[r]
    }


def critical_path(problem: Problem, work: tuple[Work, ...], schedule: Schedule) -> list[dict[str, Any]]:
    """Follow, back from the last task, what each task waited for; sum the seconds by kind.

    A task waited for a predecessor, or for another task on one of its resources, that ended when it started; time in
    which it waited for neither (a full staging buffer) is `waiting`.
    """
    ends = [schedule.end(problem, n) for n in range(len(problem.tasks))]
    by_end: dict[int, list[int]] = {}
    for n, end in enumerate(ends):
        by_end.setdefault(end, []).append(n)
    seconds: dict[str, int] = {}
    current = max(range(len(ends)), key=lambda n: (ends[n], -n), default=-1)
    while current >= 0:
        duration = ends[current] - schedule.starts[current]
        seconds[work[current].kind] = seconds.get(work[current].kind, 0) + duration
        start = schedule.starts[current]
        if start == 0:
            break
        candidates = [n for n in by_end.get(start, []) if schedule.starts[n] < start]
        after = [n for n in candidates if n in problem.tasks[current].after]
        if not candidates:
            earlier = max(e for e in by_end if e < start)
            seconds["waiting"] = seconds.get("waiting", 0) + start - earlier
            candidates = [n for n in by_end[earlier] if schedule.starts[n] < earlier] or by_end[earlier]
        current = min(after or candidates)
    return [{"kind": kind, "seconds": value * 1e-9} for kind, value in sorted(seconds.items(), key=lambda i: -i[1])]
