"""Re-plan: the best change of an older plan that moves no more than so many bytes, and what more would gain.

A byte moves when a bank comes to hold more of an expert than before: Σ over experts and banks of what it holds now
beyond what it held then. What a bank gives up costs nothing.

First it is decided which experts are resident (one comes, one of its size goes, and leaves it its banks), then where
they lie, in two ways of which the better one counts: single experts move to better banks; or whole layers take the
placement that a fresh solve gives them, its banks numbered for the fewest bytes to move, and then single experts move.
Both take what gains most seconds per byte first. So every prefix of the moves is a plan, and prefixes are the
trade-off of gain against bytes.
"""

import heapq
from dataclasses import dataclass, replace

import numpy as np
from ortools.graph.python.linear_sum_assignment import SimpleLinearSumAssignment

from moe_passes.plan.decisions import NONE, Banks, Replicas, shared_banks
from moe_passes.plan.errors import InputError
from moe_passes.solve.placement.bound import lower_bound
from moe_passes.solve.placement.problem import (
    FloatArray,
    IntArray,
    Layer,
    LayerProblem,
    Placement,
    Problem,
    Solution,
    parts,
)
from moe_passes.solve.placement.search import State, is_significant, runs_sum
from moe_passes.solve.placement.solver import WORK, solve
from moe_passes.solve.placement.step_time import external_seconds, mean_seconds, served

UNITS = 1_000_000
"""Of the most bytes that a bank can keep: assignments know integers only."""
CURVE_POINTS = 32
"""Exchanges of residents after which the trade-off is reported."""


@dataclass(frozen=True)
class Plan:
    """An older plan of one layer.

    Attributes:
        residency: [expert].
        replicas: banks of every replica.
    """

    residency: IntArray
    replicas: Replicas


@dataclass(frozen=True)
class Replanned:
    """The new plan and what it took.

    Attributes:
        solution: placements; `baseline` and `greedy` of a layer are the older plan.
        moved_bytes: bytes that move.
        curve: (bytes moved, mean seconds of a training step) after every move, from the older plan on.
    """

    solution: Solution
    moved_bytes: float
    curve: tuple[tuple[float, float], ...]


def replan(
    problem: Problem, previous: list[Plan], budget_bytes: float, seed: int = 0, jobs: int = 1, work: int = WORK
) -> Replanned:
    """Improve an older plan within a budget.

    Args:
        problem: machine and layers.
        previous: the older plan.
        budget_bytes: that may move; infinite for any.
        seed: of the fresh solve.
        jobs: processes of the fresh solve.
        work: table cells that the fresh solve of a layer may price.

    Raises:
        InputError: the older plan is of other layers or experts, or does not fit the banks.
    """
    _check(problem, previous)
    before = [_seconds(problem, layer, plan) for layer, plan in zip(problem.layers, previous, strict=True)]
    plans, swaps = _exchange_residents(problem, previous, budget_bytes)
    asked = [replace(layer, residency=plan.residency) for layer, plan in zip(problem.layers, plans, strict=True)]
    fresh = solve(Problem(problem.rates, tuple(asked)), seed, jobs, work)
    adopted, switches = _adopt(problem, previous, plans, fresh, budget_bytes)
    ways = [plans, adopted]
    # Numbered for the fewest bytes, layers may not fit together; as the fresh solve numbers them, they do.
    whole = [Plan(placed.residency, placed.replicas) for placed in fresh.layers]
    if (moved := moved_bytes(problem, previous, whole)) <= budget_bytes:
        ways.append(whole)
        switches.append((moved, fresh.objective))
    ended = [_moved_on(problem, previous, way, budget_bytes) for way in ways]
    plans = min((way for way, _ in ended), key=lambda way: _total(problem, way))
    curve = _envelope([(0.0, sum(before)), *swaps, *switches, *(point for _, points in ended for point in points)])
    if _total(problem, plans) > sum(before):
        plans, curve = previous, curve[:1]
    layers = [_placement(problem, *entry) for entry in zip(problem.layers, plans, previous, strict=True)]
    return Replanned(Solution(tuple(layers), seed), moved_bytes(problem, previous, plans), tuple(curve))


def _total(problem: Problem, plans: list[Plan]) -> float:
    return sum(_seconds(problem, layer, plan) for layer, plan in zip(problem.layers, plans, strict=True))


def _moved_on(
    problem: Problem, previous: list[Plan], plans: list[Plan], budget: float
) -> tuple[list[Plan], list[tuple[float, float]]]:
    """Move single experts from where plans have come to."""
    movers = _Movers(problem, previous, plans)
    curve = movers.run(budget, moved_bytes(problem, previous, plans))
    return movers.current, curve


def _envelope(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the points that no point with fewer bytes is as fast as."""
    kept: list[tuple[float, float]] = []
    for moved, seconds in sorted(points):
        if not kept or seconds < kept[-1][1]:
            kept.append((moved, seconds))
    return tuple(kept)


def _adopt(
    problem: Problem, previous: list[Plan], plans: list[Plan], fresh: Solution, budget: float
) -> tuple[list[Plan], list[tuple[float, float]]]:
    """Let whole layers take the placement of a fresh solve, most seconds gained per byte first."""
    banks, limit = problem.rates.banks, problem.rates.bank_capacity_bytes + len(plans)
    result, moved, offers = list(plans), moved_bytes(problem, previous, plans), []
    held = [_held(layer, plan, banks) for layer, plan in zip(problem.layers, plans, strict=True)]
    for row, (layer, placed) in enumerate(zip(problem.layers, fresh.layers, strict=True)):
        plan = Plan(placed.residency, _aligned(layer, Plan(placed.residency, placed.replicas), previous[row], banks))
        gain = _seconds(problem, layer, plans[row]) - placed.objective
        old = _held(layer, previous[row], banks)
        comes = np.maximum(_held(layer, plan, banks) - old, 0.0).sum() - np.maximum(held[row] - old, 0.0).sum()
        if gain > 0:
            offers.append((-gain / max(float(comes), 1.0), row, plan, float(comes)))
    seconds, total, curve = _total(problem, plans), np.sum([h.sum(axis=0) for h in held], axis=0), []
    for _, row, plan, comes in sorted(offers, key=lambda offer: offer[:2]):
        after = total + _held(problem.layers[row], plan, banks).sum(axis=0) - held[row].sum(axis=0)
        if moved + comes > budget:
            break
        if after.max() > limit:
            continue
        seconds += _seconds(problem, problem.layers[row], plan) - _seconds(problem, problem.layers[row], result[row])
        result[row], total, moved = plan, after, moved + comes
        curve.append((moved, seconds))
    return result, curve


def _aligned(layer: Layer, new: Plan, old: Plan, banks: int) -> Replicas:
    """Number the banks of a new plan so that the fewest bytes move: an assignment of its banks to the older plan's."""
    come, stay = _held(layer, new, banks), _held(layer, old, banks)
    kept = np.zeros((banks, banks))
    for expert in np.flatnonzero(come.any(axis=1) & stay.any(axis=1)):
        kept += np.minimum(come[expert][:, None], stay[expert][None, :])
    cost = np.round((kept.max() - kept) * (UNITS / max(kept.max(), 1.0))).astype(np.int64)
    assignment = SimpleLinearSumAssignment()
    assignment.add_arcs_with_cost(*np.divmod(np.arange(banks * banks), banks), cost.ravel())
    assignment.solve()
    number = [assignment.right_mate(bank) for bank in range(banks)]
    return tuple(tuple(tuple(sorted(number[bank] for bank in copy)) for copy in copies) for copies in new.replicas)


def moved_bytes(problem: Problem, previous: list[Plan], plans: list[Plan]) -> float:
    """Return the bytes that banks hold now and did not hold then."""
    banks = problem.rates.banks
    return sum(
        float(np.maximum(_held(layer, new, banks) - _held(layer, old, banks), 0.0).sum())
        for layer, old, new in zip(problem.layers, previous, plans, strict=True)
    )


def _held(layer: Layer, plan: Plan, banks: int) -> FloatArray:
    """Bytes of each expert in each bank: [expert, bank]."""
    held = np.zeros((layer.experts, banks))
    for expert, size in enumerate(layer.resident_bytes(plan.residency).tolist()):
        for copy in plan.replicas[expert]:
            held[expert, list(copy)] += size / len(copy)
    return held


def _check(problem: Problem, previous: list[Plan]) -> None:
    if len(previous) != len(problem.layers):
        raise InputError(f"the previous plan has {len(previous)} layers; this model has {len(problem.layers)}")
    total = np.zeros(problem.rates.banks)
    for layer, plan in zip(problem.layers, previous, strict=True):
        if len(plan.residency) != layer.experts or len(plan.replicas) != layer.experts:
            raise InputError(f"{layer.name}: the previous plan has {len(plan.replicas)} experts, not {layer.experts}")
        for expert, (level, copies) in enumerate(zip(plan.residency, plan.replicas, strict=True)):
            if (level > 0) != bool(copies):
                told = "resident but in no bank" if level else "in banks but not resident"
                raise InputError(f"{layer.name}: in the previous plan expert {expert} is {told}")
        if any(not c or min(c) < 0 or max(c) >= problem.rates.banks for copies in plan.replicas for c in copies):
            raise InputError(f"{layer.name}: the previous plan uses banks beyond the {problem.rates.banks} there are")
        total += parts(plan.replicas, layer.resident_bytes(plan.residency), problem.rates.banks)
    if total.max() > problem.rates.bank_capacity_bytes + len(problem.layers):
        raise InputError(
            f"the previous plan puts {total.max():,.0f} bytes into bank {int(total.argmax())}, which holds "
            f"{problem.rates.bank_capacity_bytes:,}; valid: a plan for this machine, batch and context"
        )


def _layer_problem(problem: Problem, layer: Layer, plan: Plan) -> LayerProblem:
    return LayerProblem(problem.rates, layer, plan.residency, problem.rates.bank_capacity_bytes, 0.0)


def _seconds(problem: Problem, layer: Layer, plan: Plan) -> float:
    return mean_seconds(_layer_problem(problem, layer, plan), plan.replicas)


def _placement(problem: Problem, layer: Layer, plan: Plan, old: Plan) -> Placement:
    """Report a layer; one that got slower, so that all together get faster, is its own baseline."""
    seconds, then = _seconds(problem, layer, plan), _seconds(problem, layer, old)
    bound = min(seconds, lower_bound(_layer_problem(problem, layer, plan)))
    reference = max(seconds, then)
    stages = (("previous", then), ("re-plan", seconds))
    return Placement(plan.residency, plan.replicas, seconds, bound, reference, ("previous", reference), stages, seconds)


def _exchange_residents(
    problem: Problem, previous: list[Plan], budget: float
) -> tuple[list[Plan], list[tuple[float, float]]]:
    """Let the experts that most steps miss come for resident ones of their size that fewer steps use.

    Use is a guide, not the gain: where the external channel is not what steps wait for, fewer exchanges are better. So
    the fastest prefix of them counts.
    """
    if not np.isfinite(problem.rates.external_bytes_per_second):
        return previous, []
    swaps = _swaps(problem, previous, budget)
    levels = [plan.residency.copy() for plan in previous]
    copies = [list(plan.replicas) for plan in previous]
    seconds = [_seconds(problem, layer, plan) for layer, plan in zip(problem.layers, previous, strict=True)]
    shown = set(np.linspace(0, len(swaps) - 1, CURVE_POINTS).round().astype(int).tolist())
    moved, curve, changed = 0.0, [], set[int]()
    fastest, best = sum(seconds), previous
    for number, ((row, comes), (out, goes), size) in enumerate(swaps):
        levels[row][comes], levels[out][goes] = levels[out][goes], 0
        copies[row][comes], copies[out][goes] = copies[out][goes], ()
        moved += size
        changed |= {row, out}
        if number in shown:
            for layer in changed:
                seconds[layer] = _seconds(problem, problem.layers[layer], Plan(levels[layer], tuple(copies[layer])))
            curve.append((moved, sum(seconds)))
            changed = set()
            if sum(seconds) < fastest:
                fastest = sum(seconds)
                best = [Plan(level.copy(), tuple(all_)) for level, all_ in zip(levels, copies, strict=True)]
    return best, curve


Spot = tuple[int, int]
"""Layer and expert."""


def _swaps(problem: Problem, previous: list[Plan], budget: float) -> list[tuple[Spot, Spot, int]]:
    """Pair who should come with who should go, most steps gained first, and the bytes that come."""
    used = [layer.used.sum(axis=0) for layer in problem.layers]
    spots = [(row, expert) for row, layer in enumerate(problem.layers) for expert in range(layer.experts)]
    outside = sorted((s for s in spots if not previous[s[0]].replicas[s[1]]), key=lambda s: (-used[s[0]][s[1]], s))
    inside = sorted((s for s in spots if len(previous[s[0]].replicas[s[1]]) == 1), key=lambda s: (used[s[0]][s[1]], s))
    swaps, moved = [], 0
    for comes, goes in zip(outside, inside, strict=False):
        layer, level = problem.layers[goes[0]], previous[goes[0]].residency[goes[1]]
        size = (0, layer.msb_bytes, layer.whole_bytes)[int(level)]
        same = problem.layers[comes[0]].whole_bytes == layer.whole_bytes
        if used[comes[0]][comes[1]] <= used[goes[0]][goes[1]] or not same or moved + size > budget:
            break
        moved += size
        swaps.append((comes, goes, size))
    return swaps


@dataclass(frozen=True)
class _Pieces:
    """The replicas of a layer as experts of their own, each serving the steps that the dispatcher gives it now.

    Attributes:
        owners: (expert, replica) of each piece.
        state: what they cost; a piece is an expert there.
        has_choice: whether some expert has several replicas, so that moves change what the dispatcher does.
    """

    owners: list[tuple[int, int]]
    state: State
    has_choice: bool


class _Movers:
    """Moves of single replicas, the most seconds per byte first; layers share the banks' capacity.

    Where a layer has experts with a choice, a move is priced as the steps are dispatched now, and kept only if the
    layer is faster when they are dispatched anew.
    """

    def __init__(self, problem: Problem, previous: list[Plan], plans: list[Plan]) -> None:
        self.problem, self.current, banks = problem, list(plans), problem.rates.banks
        self.old = [_held(layer, plan, banks) for layer, plan in zip(problem.layers, previous, strict=True)]
        self.layers = [self._pieces(layer, plan) for layer, plan in zip(problem.layers, plans, strict=True)]
        self.seconds = [_seconds(problem, layer, plan) for layer, plan in zip(problem.layers, plans, strict=True)]
        total = np.sum([pieces.state.held for pieces in self.layers], axis=0)
        for pieces in self.layers:
            pieces.state.held = total
        self.touched: list[set[int]] = [set() for _ in plans]

    def _pieces(self, layer: Layer, plan: Plan) -> _Pieces:
        floor = external_seconds(self.problem.rates, layer, plan.residency, layer.routing)
        owners = [(expert, number) for expert, copies in enumerate(plan.replicas) for number in range(len(copies))]
        sizes = layer.resident_bytes(plan.residency).astype(np.float64)
        by = served(plan.replicas, sizes, layer.routing, self.problem.rates.banks)
        # A layer needs an expert, also where none is resident; this one is never chosen.
        levels = np.array([plan.residency[expert] for expert, _ in owners] or [NONE], dtype=np.int64)
        alone = replace(layer, experts=len(levels), routing=by.routing, residency=levels)
        homes: Replicas = tuple((plan.replicas[expert][number],) for expert, number in owners) or ((),)
        state = State(_layer_problem(self.problem, alone, Plan(levels, homes)), by.routing, homes, floor)
        return _Pieces(owners, state, any(len(copies) > 1 for copies in plan.replicas))

    def run(self, budget: float, moved: float) -> list[tuple[float, float]]:
        """Move replicas until nothing gains or the budget is spent; returns (bytes, seconds) after each move."""
        heap = [entry for row in range(len(self.layers)) for entry in self._offers(row, budget - moved)]
        heapq.heapify(heap)
        curve = []
        while heap:
            _, row, piece = heapq.heappop(heap)
            best = self._best(row, piece, budget - moved)
            if best is None:
                continue
            rate, home, size = best
            if heap and -rate > heap[0][0] + 1e-300:
                heapq.heappush(heap, (-rate, row, piece))
                continue
            self.touched[row].add(piece)
            if self._move(row, piece, home):
                moved += size
                curve.append((moved, sum(self.seconds)))
        return curve

    def _move(self, row: int, piece: int, home: Banks) -> bool:
        """Move a replica; say whether the layer is faster, and undo it where it is not."""
        layer, pieces, plan = self.problem.layers[row], self.layers[row], self.current[row]
        expert, number = pieces.owners[piece]
        copies = list(plan.replicas[expert])
        copies[number] = home
        changed = replace(plan, replicas=(*plan.replicas[:expert], tuple(copies), *plan.replicas[expert + 1 :]))
        was = pieces.state.remove(piece)
        pieces.state.insert(piece, home)
        seconds = _seconds(self.problem, layer, changed) if pieces.has_choice else float(pieces.state.seconds.mean())
        if seconds >= self.seconds[row]:
            pieces.state.remove(piece)
            pieces.state.insert(piece, was)
            return False
        self.current[row], self.seconds[row] = changed, seconds
        return True

    def _offers(self, row: int, budget: float) -> list[tuple[float, int, int]]:
        entries = []
        for piece in range(len(self.layers[row].owners)):
            best = self._best(row, piece, budget)
            if best is not None:
                entries.append((-best[0], row, piece))
        return entries

    def _best(self, row: int, piece: int, budget: float) -> tuple[float, Banks, float] | None:
        """Return (seconds per byte, banks, bytes) of the best move that the budget allows."""
        state = self.layers[row].state
        steps = state.visits.steps[piece]
        if piece in self.touched[row] or not len(steps):
            return None
        before, offers = state.seconds[steps], state.offers(piece)
        gains = float(before.sum()) - offers.seconds.sum(axis=1)
        sizes = self._sizes(row, piece, offers.starts, offers.lengths)
        rates = np.where((gains > 0) & (sizes <= budget), gains / np.maximum(sizes, 1.0), 0.0)
        expert, number = self.layers[row].owners[piece]
        others = self.current[row].replicas[expert][:number] + self.current[row].replicas[expert][number + 1 :]
        promising = (n for n in np.argsort(-rates, kind="stable").tolist() if rates[n] > 0)
        best = next((n for n in promising if not shared_banks([offers.banks(n, state.banks), *others])), None)
        if best is None or not is_significant(before - offers.seconds[best]):
            return None
        return float(rates[best]), offers.banks(best, state.banks), float(sizes[best])

    def _sizes(self, row: int, piece: int, starts: IntArray, lengths: IntArray) -> FloatArray:
        """Bytes that move if the replica goes to each run."""
        expert, number = self.layers[row].owners[piece]
        size, old = self.layers[row].state.sizes[piece], self.old[row][expert]
        others = np.zeros_like(old)
        for copy in self.current[row].replicas[expert][:number] + self.current[row].replicas[expert][number + 1 :]:
            others[list(copy)] += size / len(copy)
        result = np.empty(len(starts))
        for length in np.unique(lengths):
            come = np.maximum(others + size / length - old, 0.0) - np.maximum(others - old, 0.0)
            chosen = lengths == length
            result[chosen] = runs_sum(come[None], int(length))[0, starts[chosen]]
        return result
