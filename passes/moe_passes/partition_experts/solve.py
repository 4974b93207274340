"""partition-experts: the best baseline at once, then local search from several of them, then replicas.

Layers are solved on their own, each within `mean + slack` bytes a bank, where slack is what HB has to spare in a bank
over all layers. A placement costs the same however its banks are numbered; so where banks would overflow, the layers
are put together by numbering them anew, fullest bank of a layer to the emptiest one so far. If that is not enough, the
slack is halved and the search repeated; without slack every layer is spread evenly, which always fits.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np

from moe_passes.partition_experts import baselines, residency
from moe_passes.partition_experts.bound import lower_bound
from moe_passes.partition_experts.problem import (
    IntArray,
    Layer,
    LayerProblem,
    Placement,
    Problem,
    Replicas,
    Solution,
    parts,
)
from moe_passes.partition_experts.replicate import replicate
from moe_passes.partition_experts.search import SLACK_BYTES, State, search
from moe_passes.partition_experts.step_time import mean_seconds, missing_bytes

WORK = 64_000_000
"""Table cells that the search of a layer may price."""
STARTS = 3
"""Baselines that the search starts from."""
MOST_VISITS = 1 << 15
"""Choices (tokens times k) that the search looks at; longer traces are sampled evenly."""
PROVED = 1e-9
ATTEMPTS = 4
"""Slacks that are tried: all of it, a half, a quarter, none."""

Placer = Callable[[LayerProblem], Placement | None]


def solve(problem: Problem, seed: int = 0, jobs: int = 1, work: int = WORK) -> Solution:
    """Place the experts of every layer.

    Args:
        problem: machine and layers.
        seed: of the search; the same seed gives the same answer, whatever `jobs` is.
        jobs: processes that share the layers.
        work: table cells that the search of a layer may price; 0 for the best baseline.

    Returns:
        A placement whose training steps are, on the mean, never longer than those of the best baseline.
    """
    chosen = residency.choose(problem)
    for attempt in range(ATTEMPTS):
        share = 0.0 if attempt == ATTEMPTS - 1 else 0.5**attempt
        layers = layer_problems(problem, chosen, share)
        tasks = [(layer, seed + number, work) for number, layer in enumerate(layers)]
        found = _assemble(problem, list(_spread(tasks, jobs)), seed)
        if found is not None:
            break
    assert found is not None, "without slack every layer is spread evenly"
    # Layers are measured against baselines of their own residency and slack; a baseline may have had another one.
    popular = residency.most_popular(problem)
    if share < 1.0 or any((a != b).any() for a, b in zip(chosen, popular, strict=True)):
        placed = [place_baseline(problem, name) for name in baselines.names(problem.rates.banks)]
        others = [replace(other, seed=seed) for other in placed if other is not None]
        found = min([found, *others], key=lambda solution: solution.objective)
    return found


def solve_layer(problem: LayerProblem, seed: int = 0, work: int = WORK) -> Placement:
    """Place the experts of one layer."""
    bound = lower_bound(problem)
    placed = {name: baselines.place(name, problem) for name in baselines.names(problem.rates.banks)}
    fitting = {name: replicas for name, replicas in placed.items() if replicas is not None}
    scores = {name: mean_seconds(problem, replicas) for name, replicas in fitting.items()}
    order = sorted(scores, key=lambda name: (scores[name], _parts(fitting[name]), name))
    best, objective = fitting[order[0]], scores[order[0]]
    stages = [(order[0], objective)]
    if work and objective > bound * (1 + PROVED):
        starts = [name for name in order if all(len(copies) <= 1 for copies in fitting[name])][:STARTS]
        for stage, replicas in _searched(problem, [fitting[name] for name in starts], seed, work):
            score = mean_seconds(problem, replicas)
            if score < objective:
                best, objective = replicas, score
                stages.append((stage, objective))
    greedy = scores.get("lpt", scores[f"shard-{problem.rates.banks}"])
    baseline = (order[0], scores[order[0]])
    return Placement(problem.residency, best, objective, min(bound, objective), greedy, baseline, tuple(stages))


def place_baseline(problem: Problem, name: str) -> Solution | None:
    """Place every layer as a baseline does, on the most popular experts that fit; None where that does not fit.

    Raises:
        InputError: no such baseline.
    """
    baselines.check_name(name, problem.rates.banks)
    layers = layer_problems(problem, residency.most_popular(problem), 1.0)
    placements = [_as_placement(layer, baselines.place(name, layer), name) for layer in layers]
    complete = [placement for placement in placements if placement is not None]
    return _assemble(problem, complete, 0) if len(complete) == len(layers) else None


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
    slack, each = slack_share * spare / rates.banks, slack_share * spare / len(sizes)
    return [
        LayerProblem(rates, layer, chosen, size / rates.banks + slack, each)
        for layer, chosen, size in zip(problem.layers, residencies, sizes, strict=True)
    ]


def _spread(tasks: list[tuple[LayerProblem, int, int]], jobs: int) -> Iterable[Placement]:
    if jobs <= 1 or len(tasks) <= 1:
        return [solve_layer(*task) for task in tasks]
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=get_context("fork")) as pool:
        return list(pool.map(solve_layer, *zip(*tasks, strict=True)))


def _searched(problem: LayerProblem, starts: list[Replicas], seed: int, work: int) -> Iterable[tuple[str, Replicas]]:
    """Yield what each start becomes, and the best of them with replicas."""
    routing = _sample(problem.layer)
    missing = missing_bytes(problem.layer, problem.residency, routing)
    floor = missing / problem.rates.external_bytes_per_second
    states = []
    for number, start in enumerate(starts):
        state = State(problem, routing, start, floor)
        search(state, seed + number, work // len(starts))
        states.append(state)
        yield "local search", state.replicas()
    smallest = min((size for size in problem.sizes.tolist() if size), default=np.inf)
    if states and problem.spare_bytes >= smallest:
        best = min(states, key=lambda state: float(state.seconds.sum()))
        yield "replicas", replicate(problem, best, work // len(starts))


def _sample(layer: Layer) -> IntArray:
    """Return training steps, evenly spread, with at most `MOST_VISITS` choices."""
    steps, tokens, k = layer.routing.shape
    count = max(1, min(steps, MOST_VISITS // (tokens * k)))
    return layer.routing[np.linspace(0, steps - 1, count).round().astype(np.int64)]


def _parts(replicas: Replicas) -> int:
    return sum(len(copy) for copies in replicas for copy in copies)


def _as_placement(problem: LayerProblem, replicas: Replicas | None, name: str) -> Placement | None:
    if replicas is None:
        return None
    seconds = mean_seconds(problem, replicas)
    bound = min(seconds, lower_bound(problem))
    return Placement(problem.residency, replicas, seconds, bound, seconds, (name, seconds), ((name, seconds),))


def _assemble(problem: Problem, placements: list[Placement], seed: int) -> Solution | None:
    """Number the banks of layers so that all fit together; None where they do not."""
    banks, limit = problem.rates.banks, problem.rates.bank_capacity_bytes + SLACK_BYTES
    held = [
        parts(placement.replicas, layer.resident_bytes(placement.residency), banks)
        for placement, layer in zip(placements, problem.layers, strict=True)
    ]
    if np.sum(held, axis=0).max() <= limit:
        return Solution(tuple(placements), seed)
    total, result = np.zeros(banks), []
    for placement, layer_held in zip(placements, held, strict=True):
        number = np.empty(banks, dtype=np.int64)
        number[np.argsort(-layer_held, kind="stable")] = np.argsort(total, kind="stable")
        total[number] += layer_held
        result.append(replace(placement, replicas=_renumbered(placement.replicas, number)))
    return Solution(tuple(result), seed) if total.max() <= limit else None


def _renumbered(replicas: Replicas, number: IntArray) -> Replicas:
    return tuple(tuple(tuple(sorted(number[list(copy)].tolist())) for copy in copies) for copies in replicas)
