"""Whole experts in equally many slots a bank, as expert-parallel servers load them: no shards, nothing left out.

Replicate first and pack then (`eplb-steps`), and let replicas change places, or take the place of another expert's
copy, while that gains: both keep the number in every bank.
"""

from dataclasses import replace

import numpy as np

from moe_passes.plan.decisions import ALL, Replicas
from moe_passes.plan.errors import InputError, infeasible
from moe_passes.solve.placement import baselines
from moe_passes.solve.placement.bound import lower_bound
from moe_passes.solve.placement.problem import LayerProblem, Placement, Problem, Solution, parts
from moe_passes.solve.placement.replicate import Copies, swap
from moe_passes.solve.placement.search import State
from moe_passes.solve.placement.solver import PACKED, WORK, layer_problems, sample, spread
from moe_passes.solve.placement.step_time import mean_seconds, trial_seconds

NAMES = baselines.REPLICATED
"""They fill every layer's part of the spare capacity, so that all layers have as many slots."""


def solve_slots(problem: Problem, seed: int = 0, jobs: int = 1, work: int = WORK) -> Solution:
    """Place whole experts, equally many replicas in every bank and layer.

    Args:
        problem: machine and layers.
        seed: of the search.
        jobs: processes that share the layers.
        work: table cells that the search of a layer may price.

    Raises:
        InputError: the experts do not divide among the banks, and there is no room for replicas that fill them up.
        InfeasibleError: the banks do not hold all experts.
    """
    everything = [np.full(layer.experts, ALL, dtype=np.int64) for layer in problem.layers]
    needed = sum(layer.experts * layer.whole_bytes for layer in problem.layers)
    available = problem.rates.banks * problem.rates.bank_capacity_bytes
    if needed > available:
        raise infeasible("all experts, whole", "hb", needed, available, ["a larger near memory", "fewer sequences"])
    # Slots of all layers must fit a bank together, so no layer may take the slack of another.
    layers = layer_problems(problem, everything, 1 / len(problem.layers))
    tasks = [(layer, seed + number, work) for number, layer in enumerate(layers)]
    return Solution(tuple(spread(_solve_layer, tasks, jobs)), seed)


def _solve_layer(problem: LayerProblem, seed: int, work: int) -> Placement:
    made = replace(problem, layer=problem.layer.made)
    placed = {name: baselines.place(name, made) for name in NAMES}
    fitting = {name: replicas for name, replicas in placed.items() if replicas and _is_even(problem, replicas)}
    if not fitting:
        banks, experts = problem.rates.banks, problem.layer.experts
        raise InputError(
            f"{problem.layer.name}: {experts} whole experts do not fill {banks} banks evenly, and there is no room for "
            f"replicas that would; valid: a number of banks that divides {experts}, or a larger near memory"
        )
    scores = {name: trial_seconds(problem, replicas) for name, replicas in fitting.items()}
    first = min(scores, key=lambda name: (scores[name], name))
    best, trial, baseline = fitting[first], scores[first], mean_seconds(problem, fitting[first])
    improved = _improved(made, fitting.get(PACKED, best), seed, work)
    objective, score = baseline, trial_seconds(problem, improved)
    if score < trial and (seconds := mean_seconds(problem, improved)) <= baseline:
        best, trial, objective = improved, score, seconds
    stages = ((first, baseline), ("exchanges", objective))
    alone = baselines.place("eplb", made)
    greedy = mean_seconds(problem, alone) if alone is not None else baseline
    bound = min(lower_bound(problem), objective)
    return Placement(problem.residency, best, objective, bound, greedy, (first, baseline), stages, trial)


def _is_even(problem: LayerProblem, replicas: Replicas) -> bool:
    held = parts(replicas, problem.sizes, problem.rates.banks)
    return bool(held.max() - held.min() < problem.sizes.max() / 2)


def _improved(problem: LayerProblem, replicas: Replicas, seed: int, work: int) -> Replicas:
    routing = sample(problem.layer)
    copies = Copies(problem, State(problem, routing, replicas, np.zeros(len(routing))), replicas)
    copies.settle()
    swap(copies, np.random.default_rng([seed, 17]), copies.state.cells + work)
    return copies.replicas()
