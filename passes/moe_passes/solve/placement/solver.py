"""partition-experts: the best baseline at once, then local search from several of them, CP-SAT, then replicas.

Every candidate is made from the earlier training tokens and chosen on the latest (`Layer.trial`), baselines too; what a
search finds must be faster than the baseline on all training steps as well.

Layers are solved on their own, each within `mean + slack` bytes a bank, where slack is what HB has to spare in a bank
over all layers. A placement costs the same however its banks are numbered; so where banks would overflow, the layers
are put together by numbering them anew (`assemble.py`). If that is not enough, the slack is halved and the search
repeated; in the end each layer keeps to its own part of the slack, with which all fit for certain.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
from threadpoolctl import ThreadpoolController

from moe_passes.plan.decisions import Replicas, SolverRecord
from moe_passes.routing.traces import evenly
from moe_passes.solve.placement import baselines, residency
from moe_passes.solve.placement.assemble import numbering
from moe_passes.solve.placement.bound import lower_bound
from moe_passes.solve.placement.cluster import tighten
from moe_passes.solve.placement.concentrate import chosen, narrowed, spans
from moe_passes.solve.placement.exact import improve
from moe_passes.solve.placement.groups import refine
from moe_passes.solve.placement.problem import (
    SLACK_BYTES,
    IntArray,
    Layer,
    LayerProblem,
    Placement,
    Problem,
    Solution,
    parts,
)
from moe_passes.solve.placement.replicate import replicate
from moe_passes.solve.placement.search import State, search
from moe_passes.solve.placement.starts import starts
from moe_passes.solve.placement.step_time import external_seconds, least_seconds, mean_seconds, trial_seconds

WORK = 80_000_000
"""Table cells that the search of a layer may price."""
STARTS, FINISHERS = 6, 2
"""Starts in groups of banks that are searched, and how many of them then over runs of any width."""
MOST_VISITS = 1 << 16
"""Choices (tokens times k) that the search looks at; longer traces are sampled evenly."""
PACKED, REPLICAS = "eplb-steps", "replicas"
"""The baseline whose replicas a search starts from, and the stage that it and others end in."""
PROVED = 1e-9
WORTH_SEARCHING = 1e-3
"""Above its bound, as a share of it: a layer that a baseline places better than this is not searched."""
SLACK_SHARES = (1.0, 0.5, 0.25)
"""Of the slack of all layers, what each layer may use; then only its own part, with which all fit for certain."""
FILLINGS = (1.0, 0.98, 0.95, 0.9, 0.8, 0.65, 0.5)
"""Shares of HB that a baseline tries to fill."""


def solve(problem: Problem, seed: int = 0, jobs: int = 1, work: int = WORK) -> Solution:
    """Place the experts of every layer.

    Args:
        problem: machine and layers.
        seed: of the search; the same seed gives the same answer, whatever `jobs` is.
        jobs: processes that share the layers.
        work: table cells that the search of a layer may price; 0 for the best baseline.

    Returns:
        A placement whose steps are, on the mean over the trial, never longer than those of a baseline that was made
        from the same steps, and on the mean over training steps never longer than those of the best of these.
    """
    found, share = _solve_with(problem, residency.most_popular(problem), seed, jobs, work)
    is_decided = all(layer.residency is not None for layer in problem.layers)
    if is_decided and found.objective <= found.lower_bound * (1 + PROVED):
        return found
    # A layer is measured against baselines of its own residency and slack; a baseline on its own may have another one.
    others = _rivals(problem, FILLINGS if share < 1 else FILLINGS[1:])
    best = min((replace(other, seed=seed) for other in others), key=lambda other: other.trial, default=found)
    if best.trial >= found.trial * (1 - PROVED):
        return found
    again, _ = _solve_with(problem, [layer.residency for layer in best.layers], seed, jobs, work)
    return min(best, again, key=lambda solution: solution.trial)


def compare(problem: Problem, names: Sequence[str] | None = None) -> dict[str, Solution | None]:
    """Place every layer as each baseline does (all of them, if none is named).

    Raises:
        InputError: no such baseline.
    """
    return {name: place_baseline(problem, name) for name in names or baselines.names(problem.rates.banks)}


def _rivals(problem: Problem, fillings: Sequence[float]) -> Iterable[Solution]:
    """Place layers as baselines do from the steps that candidates are made from.

    Args:
        problem: machine and layers.
        fillings: shares of HB; what fits only with a larger one is left out, as layers on their own were told of it.
    """
    for name in baselines.names(problem.rates.banks):
        solution = _place_as(problem, name, fillings, True)
        if solution is not None:
            yield solution


def solve_layer(problem: LayerProblem, seed: int = 0, work: int = WORK) -> Placement:
    """Place the experts of one layer."""
    return _in_one_thread(_solve_layer, problem, seed, work)


def _solve_layer(problem: LayerProblem, seed: int, work: int) -> Placement:
    bound, made = lower_bound(problem), replace(problem, layer=problem.layer.made)
    placed = {name: baselines.place(name, made) for name in baselines.names(problem.rates.banks)}
    fitting = {name: replicas for name, replicas in placed.items() if replicas is not None}
    scores = {name: trial_seconds(problem, r) for name, r in fitting.items() if all(len(copies) <= 1 for copies in r)}
    for name, replicas in fitting.items():
        # Dispatching every step takes long; what cannot be the best need not be told how bad it is.
        if name not in scores and least_seconds(problem, replicas) < min(scores.values()):
            scores[name] = trial_seconds(problem, replicas)
    order = sorted(scores, key=lambda name: (scores[name], _parts(fitting[name]), name))
    # The trial has chosen the rule; what it is applied to is all that is known.
    again = baselines.place(order[0], problem)
    best, score = fitting[order[0]] if again is None else again, scores[order[0]]
    baseline = objective = mean_seconds(problem, best)
    stages, packed = [(order[0], objective)], fitting.get(PACKED)
    if work and objective > bound * (1 + WORTH_SEARCHING):
        stage, replicas = order[0], best
        for stage, replicas in _searched(made, packed, seed, work):
            trial = trial_seconds(problem, replicas)
            if trial < score and (seconds := mean_seconds(problem, replicas)) <= baseline:
                best, score, objective = replicas, trial, seconds
            if stages[-1][0] == stage:
                stages.pop()
            stages.append((stage, objective))
        if replicas is best and stage == REPLICAS and packed is not None and problem.layer.making is not None:
            refitted = _refitted(problem, seed, work)
            if refitted is not None and (seconds := mean_seconds(problem, refitted)) <= objective:
                best, objective = refitted, seconds
                stages.append(("replicas of all steps", objective))
    greedy = mean_seconds(problem, fitting.get("lpt", fitting[f"shard-{problem.rates.banks}"]))
    return Placement(
        problem.residency,
        best,
        objective,
        min(bound, objective),
        greedy,
        (order[0], baseline),
        tuple(stages),
        objective if problem.layer.trial is None else trial_seconds(problem, best),
    )


def _refitted(problem: LayerProblem, seed: int, work: int) -> Replicas | None:
    """Replicate first, pack and improve as the search did, from all training steps."""
    packed = baselines.place(PACKED, problem)
    if packed is None:
        return None
    routing = sample(problem.layer)
    floor = external_seconds(problem.rates, problem.layer, problem.residency, routing)
    return replicate(problem, State(problem, routing, packed, floor), packed, seed, work // 8)


def place_baseline(problem: Problem, name: str) -> Solution | None:
    """Place every layer as a baseline does, on the most popular experts that fit; None where that does not fit.

    A baseline that wastes room, because its parts do not divide among the banks, keeps fewer experts.

    Raises:
        InputError: no such baseline.
    """
    baselines.check_name(name, problem.rates.banks)
    return _place_as(problem, name, FILLINGS, False)


def _place_as(problem: Problem, name: str, fillings: Sequence[float], from_making: bool) -> Solution | None:
    """Place every layer as a baseline does, unless it fits only with another share of HB than these."""
    is_decided = all(layer.residency is not None for layer in problem.layers)
    for share in FILLINGS[:1] if is_decided else FILLINGS:
        layers = layer_problems(problem, residency.most_popular(problem, share), 1.0)
        sources = [replace(layer, layer=layer.layer.made) if from_making else layer for layer in layers]
        placed = [replicas for source in sources if (replicas := baselines.place(name, source)) is not None]
        if len(placed) < len(layers):
            continue
        placements = [_scored(layer, replicas, name) for layer, replicas in zip(layers, placed, strict=True)]
        solution = _assemble(problem, placements, 0)
        if solution is not None:
            return solution if share in fillings else None
    return None


def _scored(layer: LayerProblem, replicas: Replicas, name: str) -> Placement:
    seconds = mean_seconds(layer, replicas)
    trial = seconds if layer.layer.trial is None else trial_seconds(layer, replicas)
    bound, stages = min(seconds, lower_bound(layer)), ((name, seconds),)
    return Placement(layer.residency, replicas, seconds, bound, seconds, (name, seconds), stages, trial)


def layer_problems(problem: Problem, residencies: list[IntArray], slack_share: float) -> list[LayerProblem]:
    """Give every layer its share of the banks.

    Args:
        problem: machine and layers.
        residencies: [expert], by layer.
        slack_share: the share of what HB has to spare that a bank may go beyond an even spread.
    """
    rates = problem.rates
    sizes = [int(la.resident_bytes(r).sum()) for la, r in zip(problem.layers, residencies, strict=True)]
    spare = max(0, rates.banks * rates.bank_capacity_bytes - sum(sizes))
    slack, each = slack_share * spare / rates.banks, spare / len(sizes)
    return [
        LayerProblem(rates, layer, chosen, size / rates.banks + slack, each, spare)
        for layer, chosen, size in zip(problem.layers, residencies, sizes, strict=True)
    ]


def _solve_with(
    problem: Problem, residencies: list[IntArray], seed: int, jobs: int, work: int
) -> tuple[Solution, float]:
    """Place layers of these residencies; returns also the share of the slack that a layer had."""
    rates, certain = problem.rates, 1 / len(problem.layers)
    sizes = [la.resident_bytes(levels) for la, levels in zip(problem.layers, residencies, strict=True)]
    spare = rates.banks * rates.bank_capacity_bytes - sum(int(size.sum()) for size in sizes)
    smallest = min((int(size[size > 0].min()) for size in sizes if size.any()), default=0)
    # Where HB is full, layers that each bend their banks by the little that is left cannot all have their way.
    for share in (*SLACK_SHARES, certain) if spare >= smallest else (certain,):
        layers = layer_problems(problem, residencies, share)
        wide = spread(_solve_layer, [(layer, seed + number, work) for number, layer in enumerate(layers)], jobs)
        best = _concentrated(layers, wide, seed, jobs, work) if work else wide
        solution = _assemble(problem, best, seed) or _assemble(problem, wide, seed)
        if solution is not None:
            return solution, share
    raise AssertionError("layers that keep to their own part of every bank fit together")


def _concentrated(
    layers: list[LayerProblem], wide: list[Placement], seed: int, jobs: int, work: int
) -> list[Placement]:
    """Let layers share the banks unevenly, where that gains."""
    where = spans(layers)
    rows = [row for row, span in enumerate(where) if span is not None]
    tasks = [
        (narrowed(layers[row], span.width), seed + row, work) for row, span in enumerate(where) if span is not None
    ]
    narrow: list[Placement | None] = [None] * len(layers)
    for row, placed in zip(rows, spread(_solve_layer, tasks, jobs), strict=True):
        narrow[row] = placed
    return chosen(wide, narrow, where)


def spread(
    place: Callable[[LayerProblem, int, int], Placement], tasks: list[tuple[LayerProblem, int, int]], jobs: int
) -> list[Placement]:
    """Place layers (problem, seed and work of each), so many at once; the answer does not depend on how many."""
    alone = partial(_in_one_thread, place)
    if jobs <= 1 or len(tasks) <= 1:
        return [alone(*task) for task in tasks]
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=get_context("fork")) as pool:
        return list(pool.map(alone, *zip(*tasks, strict=True)))


def _in_one_thread(
    place: Callable[[LayerProblem, int, int], Placement], problem: LayerProblem, seed: int, work: int
) -> Placement:
    # With several threads, BLAS may add in another order, and layers that are solved at once contend for the cores.
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        return place(problem, seed, work)


def _searched(
    problem: LayerProblem, replicated: Replicas | None, seed: int, work: int
) -> Iterable[tuple[str, Replicas]]:
    """Yield what each stage of the search makes of the most promising starts."""
    routing = sample(problem.layer)
    floor = external_seconds(problem.rates, problem.layer, problem.residency, routing)
    smallest = min((size for size in problem.sizes.tolist() if size), default=np.inf)
    has_spare = problem.spare_bytes >= smallest
    found = []
    for number, start in enumerate(starts(problem, routing, floor)[:STARTS]):
        replicas = tighten(problem, routing, start.replicas, start.widths) if start.clustered else start.replicas
        state = State(problem, routing, replicas, floor, start.widths)
        search(state, seed + number, work // (4 * STARTS))
        found.append((float(state.seconds.sum()), number, start.widths, state))
    if not found:
        return
    found.sort(key=lambda entry: entry[:2])
    groups = [(number, refine(state.replicas(), widths)) for _, number, widths, state in found[:FINISHERS]]
    yield "groups", groups[0][1]
    fine = []
    for number, replicas in groups:
        fine.append(State(problem, routing, replicas, floor))
        search(fine[-1], seed + number, work // (4 * FINISHERS))
    best = min(fine, key=lambda state: float(state.seconds.sum()))
    yield "local search", best.replicas()
    improve(best, seed)
    yield "CP-SAT", best.replicas()
    if has_spare:
        banks = (1,) * problem.rates.banks
        entries = [(state, state.replicas(), widths) for _, _, widths, state in found[:FINISHERS]]
        entries.append((best, best.replicas(), banks))
        if replicated is not None:
            entries.append((State(problem, routing, replicated, floor), replicated, banks))
        for state, replicas, widths in entries:
            copied = replicate(problem, state, replicas, seed, work // (2 * len(entries)))
            yield REPLICAS, copied if widths == banks else refine(copied, widths)


def sample(layer: Layer) -> IntArray:
    """Return steps to make placements from, evenly spread, with at most `MOST_VISITS` choices."""
    steps, tokens, k = layer.routing.shape
    return layer.routing[evenly(steps, MOST_VISITS // (tokens * k))]


def _parts(replicas: Replicas) -> int:
    return sum(len(copy) for copies in replicas for copy in copies)


def _assemble(problem: Problem, placements: list[Placement], seed: int) -> Solution | None:
    """Number the banks of layers so that all fit together; None where they do not."""
    held = np.array([
        parts(placement.replicas, layer.resident_bytes(placement.residency), problem.rates.banks)
        for placement, layer in zip(placements, problem.layers, strict=True)
    ])  # fmt: skip
    numbers = numbering(held, problem.rates.bank_capacity_bytes + SLACK_BYTES * len(placements))
    if numbers is None:
        return None
    pairs = zip(placements, numbers, strict=True)
    return Solution(tuple(replace(p, replicas=_renumbered(p.replicas, number)) for p, number in pairs), seed)


def _renumbered(replicas: Replicas, number: IntArray) -> Replicas:
    return tuple(tuple(tuple(sorted(number[list(copy)].tolist())) for copy in copies) for copies in replicas)


def record(name: str, placement: Placement, seed: int) -> SolverRecord:
    """Say what is known of a layer's placement."""
    return SolverRecord(
        pass_name="partition-experts",
        instance=f"{name}: mean seconds of a training step, closed form",
        status="optimal" if placement.lower_bound >= placement.objective * (1 - 1e-9) else "feasible",
        objective=placement.objective,
        lower_bound=placement.lower_bound,
        greedy=placement.greedy,
        seed=seed,
        unit="s",
    )
