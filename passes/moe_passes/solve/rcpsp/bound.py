"""A lower bound on the makespan of a round, without search: the best of several, each of them proved.

**Critical path.** head(j) is a time before which no schedule can start j, tail(j) a time that must pass after j ends.
The longest path gives both, with the shortest mode of every task.

**One machine.** Let every task of a set T occupy more than half of resource k in each of its modes: no two of them
ever overlap. In any schedule the tasks of a subset S ⊆ T run one after another, none before the smallest head in S,
and after the last of them at least the smallest tail in S passes:

    makespan ≥ min_{j ∈ S} head(j) + Σ_{j ∈ S} p_j + min_{j ∈ S} tail(j).

The largest of these over all S is the length of Jackson's preemptive schedule: at every moment, of the tasks whose
head has passed, the one with the longest tail runs (Carlier, "The one-machine sequencing problem", EJOR 11, 1982).

**Energy.** Task j takes at least e_j = min_m p_jm·r_jmk unit-seconds of resource k, which gives R_k a second. With the
tasks whose head is at least h: makespan ≥ h + Σ e_j / R_k + min tail. The same holds for a pool of resources of equal
capacity R, which give |pool|·R together: where experts have replicas, what no bank must do alone all banks must.

**Joins.** The one-machine bound holds for the start of a task v with T restricted to ancestors of v, with the tail
replaced by the time that must pass between the end of j and the start of v: 0 if v waits for j directly, else at least
the shortest duration among the successors of j, one of which stands on every path from j to v. This raises head(v),
and through it the heads of all that follow: a round is a chain of layers, and the loads of each layer cannot start
before its router, so the bound adds layers up where a longest path sees one load of each. Joins are visited in
topological order.

**Buffers.** Let every task j of T occupy more than half of resource k, as above, and open buffers of a_j > 0 bytes in
a buffer resource of C bytes, none of which can close before time H. Whatever of T starts before H holds its bytes at
H, so its durations sum to at most K = max {Σ p_j x_j : Σ a_j x_j ≤ C, 0 ≤ x_j ≤ 1}. If Σ_{j ∈ T} p_j > K, the rest of
T starts at H or later, and so do all other tasks that occupy more than half of the resource and whose head is at least
H: with a set O of those, one after another, the last of them ends at H + Σ_{j ∈ T} p_j − K + Σ_{j ∈ O} p_j at the
earliest. This holds for the whole round and for each join. H is tried where the densest task, filling all of C, would
leave the most.

Every step is an implication for arbitrary schedules, so the result never exceeds the optimum.
"""

import heapq
from collections import Counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moe_passes.solve.rcpsp.problem import Problem

MOST_JOINS = 400
MOST_THRESHOLDS = 4
"""Values of H that are tried for a machine and join."""
Array = npt.NDArray[np.int64]

PATH, LAYERS, MACHINE, BUFFER, WORK = "critical path", "layer by layer", "one at a time", "buffer", "work"
"""What a bound rests on: the longest path; what joins wait for, added up along it; tasks of which no two overlap; what
a buffer has room for; or the work of a resource."""


class Bound(NamedTuple):
    """The largest of the bounds, what it rests on, and the resource of it (−1 of a path of durations alone)."""

    value: int
    kind: str
    resource: int

    def words(self, problem: Problem) -> str:
        """Say what it rests on."""
        return self.kind if self.resource < 0 else f"{self.kind}: {problem.names[self.resource]}"


def lower_bound(problem: Problem) -> int:
    """Return a proved lower bound on the makespan, in the problem's time unit."""
    return active_bound(problem).value


def active_bound(problem: Problem) -> Bound:
    """Return a proved lower bound on the makespan, in the problem's time unit, and which of the bounds it is."""
    if not problem.tasks:
        return Bound(0, PATH, -1)
    durations = np.array([problem.shortest(n) for n in range(len(problem.tasks))], dtype=np.int64)
    tails = longest_tails(problem, durations, problem.successors)
    machines = [(resource, np.array(members, dtype=np.int64)) for resource, members in _machines(problem)]
    buffers = _Buffers(problem)
    heads, waits = _heads(problem, durations, machines, buffers)
    lengths = heads + durations + tails
    found = [_path_bound(int(lengths.max()), int(lengths.argmax()), waits)]
    for resource, m in machines:
        found.append(Bound(_preemptive(heads[m], durations[m], tails[m]), MACHINE, resource))
        found.append(buffers.one_machine(m, heads, durations, tails))
    return max([*found, _energy(problem, heads, tails)], key=lambda bound: bound.value)


class _Wait(NamedTuple):
    """Why a task cannot start before its head.

    Attributes:
        since: the task from which its head is counted; −1 where from the start.
        resource: that a join waits for; −1 where the path alone says so.
        extra: by how much that is later than the path says.
    """

    since: int
    resource: int = -1
    extra: int = 0


def _path_bound(value: int, last: int, waits: dict[int, _Wait]) -> Bound:
    """Name what the longest path to a task rests on: what its joins waited for longest, if they waited."""
    waited: Counter[int] = Counter()
    while last >= 0:
        wait = waits[last]
        waited[wait.resource] += wait.extra
        last = wait.since
    [(slowest, extra)] = waited.most_common(1)
    return Bound(value, LAYERS, slowest) if extra else Bound(value, PATH, -1)


def _heads(
    problem: Problem, durations: Array, machines: list[tuple[int, Array]], buffers: "_Buffers"
) -> tuple[Array, dict[int, _Wait]]:
    """Return the head of every task, raised at joins, and why it is what it is."""
    joins, successors = _joins(problem), problem.successors
    next_shortest = np.array([min((durations[s] for s in later), default=0) for later in successors], dtype=np.int64)
    heads = np.zeros(len(problem.tasks), dtype=np.int64)
    ancestors: dict[int, int] = {}
    waits: dict[int, _Wait] = {}
    for task in problem.order:
        before = problem.tasks[task].after
        since = max(before, key=lambda b: int(heads[b] + durations[b]), default=-1)
        path = int(heads[since] + durations[since]) if before else 0
        head = max(path, problem.tasks[task].release)
        heads[task], waits[task] = head, _Wait(since if path == head else -1)
        mask = 0
        for b in before:
            mask |= ancestors[b] | (1 << b)
        ancestors[task] = mask
        if task not in joins:
            continue
        gaps = next_shortest.copy()
        gaps[list(before)] = 0
        is_ancestor = _bits(mask, len(problem.tasks))
        for resource, members in machines:
            inside = members[is_ancestor[members]]
            if len(inside) < 2:
                continue
            end, first = _one_machine(heads[inside], durations[inside], gaps[inside])
            held = buffers.one_machine(inside, heads, durations, gaps).value
            if max(end, held) > heads[task]:
                heads[task] = max(end, held)
                waits[task] = _Wait(int(inside[first]) if end >= held else since, resource, int(heads[task]) - head)
    return heads, waits


def _bits(mask: int, count: int) -> npt.NDArray[np.bool_]:
    """Turn a set of tasks, one bit each, into a mask."""
    packed = np.frombuffer(mask.to_bytes(count // 8 + 1, "little"), dtype=np.uint8)
    return np.unpackbits(packed, bitorder="little")[:count].astype(np.bool_)


class _Buffers:
    """What every task opens in each buffer resource, and the task that closes it first."""

    def __init__(self, problem: Problem) -> None:
        self.capacities = {b.resource: problem.capacities[b.resource] for b in problem.buffers}
        self.amounts = {r: np.zeros(len(problem.tasks), dtype=np.int64) for r in self.capacities}
        self.closers: dict[int, list[tuple[int, ...]]] = {r: [()] * len(problem.tasks) for r in self.capacities}
        for b in problem.buffers:
            self.amounts[b.resource][b.first] += b.amount
            self.closers[b.resource][b.first] += (b.last,)

    def one_machine(
        self,
        members: Array,
        heads: Array,
        durations: Array,
        tails: Array,
    ) -> Bound:
        """Evaluate the buffer bound of one machine's tasks for some values of H (a head of 0 is a valid one)."""
        best = Bound(0, BUFFER, -1)
        for resource, capacity in self.capacities.items():
            amounts = self.amounts[resource]
            opening = members[amounts[members] > 0]
            if not len(opening) or int(amounts[opening].sum()) <= capacity:
                continue
            closing = np.array(
                [min(int(heads[c] + durations[c]) for c in self.closers[resource][int(n)]) for n in opening],
                dtype=np.int64,
            )
            others = members[amounts[members] == 0]
            besides = heads[others], durations[others]
            for threshold in _thresholds(
                closing, durations[opening], amounts[opening], tails[opening], capacity, besides
            ):
                late = opening[closing >= threshold]
                rest = int(durations[late].sum()) - _knapsack(durations[late], amounts[late], capacity)
                if rest > 0:
                    later = others[heads[others] >= threshold]
                    tail = tails[np.concatenate([late, later])].min()
                    value = int(threshold + rest + durations[later].sum() + tail)
                    best = max(best, Bound(value, BUFFER, resource), key=lambda bound: bound.value)
        return best


def _thresholds(
    closing: Array, durations: Array, amounts: Array, tails: Array, capacity: int, others: tuple[Array, Array]
) -> list[int]:
    """Choose the values of H for which the buffer bound is likely to be the largest."""
    order = np.argsort(-closing, kind="stable")
    density = np.maximum.accumulate(durations[order] / amounts[order])
    rest = np.cumsum(durations[order]) - capacity * density
    least = np.minimum.accumulate(tails[order])
    heads = others[0]
    times = np.unique(np.concatenate([closing, heads[heads <= closing.max()]]))
    last = len(closing) - np.searchsorted(np.sort(closing), times, side="left") - 1
    value = times + rest[last] + _work_from(*others, times) + least[last]
    likely = np.argsort(-value, kind="stable")[:MOST_THRESHOLDS]
    return [int(h) for h in times[likely]]


def _work_from(heads: Array, durations: Array, times: Array) -> Array:
    """Return, for each time, the durations of all tasks whose head is not before it."""
    order = np.argsort(heads, kind="stable")
    left = np.append(np.cumsum(durations[order][::-1])[::-1], 0)
    return np.asarray(left[np.searchsorted(heads[order], times, side="left")])


def _knapsack(values: Array, sizes: Array, capacity: int) -> int:
    """Return the value of the fractional knapsack, rounded up."""
    order = np.argsort(-values / sizes, kind="stable")
    filled = np.cumsum(sizes[order])
    whole = int(np.searchsorted(filled, capacity, side="right"))
    value = int(values[order[:whole]].sum())
    if whole < len(order):
        left = capacity - (int(filled[whole - 1]) if whole else 0)
        value += -(-left * int(values[order[whole]]) // int(sizes[order[whole]]))
    return value


def longest_tails(problem: Problem, durations: Array, successors: list[list[int]]) -> Array:
    """Return, for every task, the longest path from its end to the end of the round."""
    tails = np.zeros(len(problem.tasks), dtype=np.int64)
    for task in reversed(problem.order):
        tails[task] = max((int(durations[s] + tails[s]) for s in successors[task]), default=0)
    return tails


def _machines(problem: Problem) -> list[tuple[int, list[int]]]:
    """Find, per resource, the tasks of which no two can overlap; of equal sets only the first is kept."""
    members: dict[int, list[int]] = {}
    for number, task in enumerate(problem.tasks):
        demands = [{k for k, amount in mode.uses if 2 * amount > problem.capacities[k]} for mode in task.modes]
        for resource in sorted(set.intersection(*demands)):
            members.setdefault(resource, []).append(number)
    first: dict[tuple[int, ...], int] = {}
    for resource, tasks in members.items():
        first.setdefault(tuple(tasks), resource)
    return [(resource, list(tasks)) for tasks, resource in first.items()]


def _joins(problem: Problem) -> set[int]:
    """Choose the tasks that wait for most others: where a layer ends."""
    several = [n for n, task in enumerate(problem.tasks) if len(task.after) > 1]
    waits = sorted(several, key=lambda n: -len(problem.tasks[n].after))
    return set(waits[:MOST_JOINS])


def _one_machine(heads: Array, durations: Array, tails: Array) -> tuple[int, int]:
    """Evaluate the one-machine bound for every threshold h at once; the bound, and whose head is its threshold."""
    order = np.argsort(-heads, kind="stable")
    total = np.cumsum(durations[order])
    least = np.minimum.accumulate(tails[order])
    ends = heads[order] + total + least
    return int(ends.max()), int(order[ends.argmax()])


def _preemptive(heads: Array, durations: Array, tails: Array) -> int:
    """Return the length of Jackson's preemptive schedule of one machine."""
    best, now = 0, 0
    waiting: list[tuple[int, int]] = []
    order = np.argsort(heads, kind="stable").tolist()
    arrivals = [(int(heads[n]), int(durations[n]), int(tails[n])) for n in order] + [(1 << 62, 0, 0)]
    for arrival, duration, tail in arrivals:
        while waiting and now < arrival:
            longest, left = waiting[0]
            done = min(left, arrival - now)
            now += done
            if done == left:
                heapq.heappop(waiting)
                best = max(best, now - longest)
            else:
                waiting[0] = (longest, left - done)
        now = max(now, arrival)
        if duration:
            heapq.heappush(waiting, (-tail, duration))
        elif arrival < 1 << 62:
            best = max(best, arrival + tail)
    return best


def _energy(problem: Problem, heads: Array, tails: Array) -> Bound:
    """Evaluate the energy bound of every pool of resources for every threshold h."""
    found = (Bound(_pool_energy(problem, pool, heads, tails), WORK, pool[0]) for pool in _pools(problem))
    return max(found, key=lambda bound: bound.value, default=Bound(0, WORK, -1))


def _pools(problem: Problem) -> list[tuple[int, ...]]:
    """Return every resource alone, and those of one capacity of which some task has the choice."""
    chosen: set[int] = set()
    for task in problem.tasks:
        used = [{k for k, amount in mode.uses if amount} for mode in task.modes]
        chosen.update(k for modes in used for k in modes if any(k not in other for other in used))
    alike: dict[int, list[int]] = {}
    for resource in sorted(chosen):
        alike.setdefault(problem.capacities[resource], []).append(resource)
    alone = [(resource,) for resource in range(len(problem.capacities))]
    return alone + [tuple(pool) for pool in alike.values() if len(pool) > 1]


def _pool_energy(problem: Problem, pool: tuple[int, ...], heads: Array, tails: Array) -> int:
    inside = set(pool)
    energy: dict[int, int] = {}
    for number, task in enumerate(problem.tasks):
        least = min(sum(mode.duration * amount for k, amount in mode.uses if k in inside) for mode in task.modes)
        if least:
            energy[number] = least
    members = np.array(list(energy), dtype=np.int64)
    order = members[np.argsort(-heads[members], kind="stable")]
    # Energies can exceed 64 bits: bytes times nanoseconds.
    best, total, latest = 0, 0, 1 << 62
    capacity = len(pool) * problem.capacities[pool[0]]
    for n in order.tolist():
        total += energy[n]
        latest = min(latest, int(tails[n]))
        best = max(best, int(heads[n]) - (-total // capacity) + latest)
    return best
