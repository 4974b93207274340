"""From rounds as they were run to what limits them: busy fractions, critical path, roofline; means over rounds."""

from collections.abc import Mapping, Sequence

import numpy as np
from moe_passes.estimate.cost import CostModel, Rates
from moe_passes.plan.machine import Machine
from moe_passes.plan.round import Schedule, Traffic, Work
from moe_passes.solve.rcpsp.problem import Problem
from moe_passes.verify.expected import named_banks

RESAMPLED = 2000
"""Times that rounds are drawn anew for a confidence interval."""


def confidence(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean seconds of rounds, by drawing them anew."""
    random, values = np.random.default_rng(0), np.array(seconds)
    # A draw at a time: of a long run all of them together would take as much memory as a model.
    drawn = [random.choice(values, len(values)).mean() for _ in range(RESAMPLED)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def knobs(machine: Machine) -> dict[str, str]:
    """Return the field of the hardware file that each limit belongs to."""
    near, far = machine.hb, machine.external
    loads = f"memories.{far.given}.bandwidth_gb_s"
    if machine.streamline.bytes_per_second < far.bytes_per_second:
        loads = f"links.{machine.streamline.given}.bandwidth_gb_s"
    engine, link = machine.engine, machine.aggregation
    return {
        "external bandwidth": loads,
        "hb bandwidth": f"memories.{near.given}.{'bank_' if near.banks > 1 else ''}bandwidth_gb_s",
        "compute": f"engines.{engine.given}.tops",
        "aggregation link": f"links.{link.given}.bandwidth_gb_s",
        **({"far engine": f"engines.{machine.far_engine.name}.bandwidth_gb_s"} if machine.far_engine else {}),
    }


def roofline_seconds(cost: CostModel, traffic: Traffic) -> dict[str, float]:
    """Seconds that each resource would need for the work of a round if nothing ever waited."""
    rates = cost.rates()
    near = cost.space().banks * rates.bank_bytes_per_second
    seconds = {
        "external bandwidth": traffic.external_read_bytes / rates.load_bytes_per_second,
        "hb bandwidth": (traffic.hb_read_bytes + traffic.hb_write_bytes) / near,
        "compute": traffic.w4a8_macs / rates.w4a8_macs_per_second
        + traffic.w8a8_macs / rates.w8a8_macs_per_second
        + traffic.attention_macs / rates.attention_macs_per_second,
        "aggregation link": traffic.link_bytes / rates.link_bytes_per_second,
    }
    return seconds | ({"far engine": _far_seconds(rates, traffic)} if rates.computes_far else {})


def _far_seconds(rates: Rates, traffic: Traffic) -> float:
    read = traffic.far_read_bytes / rates.far_engine_bytes_per_second
    return max(read, traffic.far_macs / rates.far_engine_macs_per_second)


def mean(of: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of every figure; one that is missing is 0."""
    names = dict.fromkeys(name for figures in of for name in figures)
    return {name: sum(figures.get(name, 0.0) for figures in of) / len(of) for name in names}


def busy_fractions(problem: Problem, schedule: Schedule) -> dict[str, float]:
    """Share of the round in which each time-shared resource is in use; `banks` is the mean over banks."""
    makespan = schedule.makespan(problem)
    used = dict.fromkeys(range(len(problem.names)), 0)
    for number, task in enumerate(problem.tasks):
        mode = task.modes[schedule.modes[number]]
        for resource, amount in mode.uses:
            used[resource] += mode.duration * amount
    held = {b.resource for b in problem.buffers}
    shares = {
        name: used[r] / (makespan * problem.capacities[r])
        for r, name in enumerate(problem.names)
        if r not in held and name != "staging" and makespan and problem.capacities[r]
    }
    groups = {name: len(banks) for name in shares if (banks := named_banks(name)) is not None}
    if not groups:
        return shares
    busy = sum(shares.pop(name) * size for name, size in groups.items())
    return shares | {"banks": busy / sum(groups.values())}


def critical_path(problem: Problem, work: tuple[Work, ...], schedule: Schedule) -> dict[str, float]:
    """Follow, back from the last task, what each task waited for; return the seconds of each kind.

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
    return {kind: value * 1e-9 for kind, value in seconds.items()}
