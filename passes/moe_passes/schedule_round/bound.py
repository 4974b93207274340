"""A lower bound on the makespan of a round, without search.

**Heads and tails.** head(j) is a time before which no schedule can start j, tail(j) a time that must pass after j ends.
The longest path gives both.

**One machine.** Let every task of a set T occupy all of resource k in each of its modes (amounts above half the
capacity suffice: two of them never overlap). In any schedule the tasks of T that have a head of at least h run one
after another, none before h, and after the last of them at least their smallest tail passes. Hence for every h

    makespan ≥ h + Σ_{j ∈ T, head(j) ≥ h} p_j + min_{j ∈ T, head(j) ≥ h} tail(j).

**Joins.** The same holds for the start of a task v with T restricted to ancestors of v, with the tail replaced by the
time that must pass between the end of j and the start of v: 0 if v waits for j directly, else at least the shortest
duration among the successors of j, one of which stands on every path from j to v. This raises head(v), and through
it the heads of all that follow: a round is a chain of layers, and the loads of each layer cannot start before its
router, so the bound adds layers up where a longest path sees one load of each. Joins are visited in topological order.

**Buffers.** Let every task j of T occupy all of resource k, as above, and open buffers of a_j > 0 bytes in a buffer
resource of C bytes, none of which can close before time H. Whatever of T starts before H holds its bytes at H, so its
durations sum to at most K = max {Σ p_j x_j : Σ a_j x_j ≤ C, 0 ≤ x_j ≤ 1}. If Σ_{j ∈ T} p_j > K, the rest of T starts at
H or later, one after another, and the last of T ends at H + Σ_{j ∈ T} p_j − K at the earliest. This holds for the whole
round and for each join.

Every step is an implication for arbitrary schedules, so the result never exceeds the optimum.
"""

import numpy as np
import numpy.typing as npt

from moe_passes.schedule_round.problem import Problem

MOST_JOINS = 400
MOST_THRESHOLDS = 12
"""Values of H that are tried for a machine and join."""


def lower_bound(problem: Problem) -> int:
    """Return a proved lower bound on the makespan, in the problem's time unit."""
    if not problem.tasks:
        return 0
    durations = np.array([problem.shortest(n) for n in range(len(problem.tasks))], dtype=np.int64)
    successors = problem.successors()
    tails = longest_tails(problem, durations, successors)
    machines = [np.array(members, dtype=np.int64) for members in _machines(problem)]
    joins, buffers = _joins(problem), _Buffers(problem)
    next_shortest = np.array([min((durations[s] for s in later), default=0) for later in successors], dtype=np.int64)
    heads = np.zeros(len(problem.tasks), dtype=np.int64)
    ancestors: dict[int, int] = {}
    for task in problem.order:
        before = problem.tasks[task].after
        head = max((int(heads[b] + durations[b]) for b in before), default=0)
        heads[task] = max(head, problem.tasks[task].release)
        mask = 0
        for b in before:
            mask |= ancestors[b] | (1 << b)
        ancestors[task] = mask
        if task not in joins:
            continue
        gaps = next_shortest.copy()
        gaps[list(before)] = 0
        for members in machines:
            inside = members[[bool(mask >> int(n) & 1) for n in members]]
            if len(inside) > 1:
                heads[task] = max(heads[task], _one_machine(heads[inside], durations[inside], gaps[inside]))
                heads[task] = max(heads[task], buffers.one_machine(inside, heads, durations, gaps))
    best = int((heads + durations + tails).max())
    for m in machines:
        best = max(best, _one_machine(heads[m], durations[m], tails[m]))
        best = max(best, buffers.one_machine(m, heads, durations, tails))
    return best


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
        members: npt.NDArray[np.int64],
        heads: npt.NDArray[np.int64],
        durations: npt.NDArray[np.int64],
        tails: npt.NDArray[np.int64],
    ) -> int:
        """Evaluate the buffer bound of one machine's tasks for some values of H (a head of 0 is a valid one)."""
        best = 0
        for resource, capacity in self.capacities.items():
            amounts = self.amounts[resource]
            opening = members[amounts[members] > 0]
            closing = np.array(
                [min(int(heads[c] + durations[c]) for c in self.closers[resource][int(n)]) for n in opening],
                dtype=np.int64,
            )
            for threshold in _spread(np.unique(closing), MOST_THRESHOLDS):
                late = opening[closing >= threshold]
                rest = int(durations[late].sum()) - _knapsack(durations[late], amounts[late], capacity)
                if rest > 0:
                    best = max(best, int(threshold + rest + tails[late].min()))
        return best


def _spread(values: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Keep at most `most` values, evenly spread, the first among them."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]


def _knapsack(values: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], capacity: int) -> int:
    """Return the value of the fractional knapsack, rounded up."""
    order = np.argsort(-values / sizes, kind="stable")
    filled = np.cumsum(sizes[order])
    whole = int(np.searchsorted(filled, capacity, side="right"))
    value = int(values[order[:whole]].sum())
    if whole < len(order):
        left = capacity - (int(filled[whole - 1]) if whole else 0)
        value += -(-left * int(values[order[whole]]) // int(sizes[order[whole]]))
    return value


def longest_tails(
    problem: Problem, durations: npt.NDArray[np.int64], successors: list[list[int]]
) -> npt.NDArray[np.int64]:
    """Return, for every task, the longest path from its end to the end of the round."""
    tails = np.zeros(len(problem.tasks), dtype=np.int64)
    for task in reversed(problem.order):
        tails[task] = max((int(durations[s] + tails[s]) for s in successors[task]), default=0)
    return tails


def _machines(problem: Problem) -> list[list[int]]:
    """Find, per resource, the tasks of which no two can overlap; of equal sets only one is kept."""
    members: dict[int, list[int]] = {}
    for number, task in enumerate(problem.tasks):
        demands = [{k for k, amount in mode.uses if 2 * amount > problem.capacities[k]} for mode in task.modes]
        for resource in sorted(set.intersection(*demands)):
            members.setdefault(resource, []).append(number)
    return [list(tasks) for tasks in dict.fromkeys(tuple(tasks) for tasks in members.values())]


def _joins(problem: Problem) -> set[int]:
    """Choose the tasks that wait for most others: where a layer ends."""
    several = [n for n, task in enumerate(problem.tasks) if len(task.after) > 1]
    waits = sorted(several, key=lambda n: -len(problem.tasks[n].after))
    return set(waits[:MOST_JOINS])


def _one_machine(heads: npt.NDArray[np.int64], durations: npt.NDArray[np.int64], tails: npt.NDArray[np.int64]) -> int:
    """Evaluate the one-machine bound for every threshold h at once."""
    order = np.argsort(-heads, kind="stable")
    total = np.cumsum(durations[order])
    least = np.minimum.accumulate(tails[order])
    return int((heads[order] + total + least).max())
