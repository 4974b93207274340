"""partition-experts on IR: reads `residency`, writes `replicas` on every expert store."""

import math

import numpy as np
from torch_mlir import ir

from moe_passes.cost import BYTES_PER_ACTIVATION
from moe_passes.dialects.module import append, expert_stores, only, read_machine, refuse_second_run, set_attribute
from moe_passes.dialects.replicas import flatten
from moe_passes.errors import InputError
from moe_passes.instrumentation import solver_call
from moe_passes.machine import Machine
from moe_passes.partition_experts.check import violations
from moe_passes.partition_experts.problem import NOBODY, IntArray, Layer, Placement, Problem, Rates, Solution
from moe_passes.partition_experts.solve import place_baseline, solve
from moe_passes.routing import (
    BoolArray,
    RoutingTrace,
    by_popularity,
    cut_rounds,
    membership,
    popularity,
    restrict,
)
from moe_passes.workload import DraftPlan, ExpertLayer, ModelShape, SolverRecord, Workload

NAME = "partition-experts"
TRAINING_STEPS = 256
WORK = 16_000_000
"""Table cells that the search of a layer may price: a fraction of a second, `moec partition` takes more."""
SEARCH = "search"


def run(module: ir.Module, trace: RoutingTrace, placer: str = SEARCH) -> None:
    """Place the resident experts of every layer.

    Args:
        module: with select-draft's decisions.
        trace: routing that is compiled against.
        placer: `search`, or the name of a baseline.

    Raises:
        InputError: the machine has no HB, select-draft has not run, or the baseline does not fit the banks.
    """
    machine = read_machine(module)
    if machine.hb is None:
        raise InputError(f"{NAME}: target '{machine.name}' has no memory 'hb' to place experts in")
    workload, plan = only(module, Workload, NAME), only(module, DraftPlan, NAME)
    stores = expert_stores(module, NAME)
    refuse_second_run(any("replicas" in op.attributes for op, _ in stores), NAME, "'replicas'")
    order = by_popularity(popularity(trace))
    problem = Problem(
        rates=rates(machine, plan.expert_bytes, only(module, ModelShape, NAME).hidden),
        layers=tuple(
            _layer(trace, workload, plan, layer, row, residency(op, layer), order[row])
            for row, (op, layer) in enumerate(stores)
        ),
    )
    with solver_call(NAME, "all layers"):
        solution = _solve(problem, workload.seed, placer)
    wrong = violations(problem, solution)
    if wrong:
        raise AssertionError(f"{NAME}: " + "; ".join(wrong))
    for (op, layer), placement in zip(stores, solution.layers, strict=True):
        set_attribute(op, "replicas", flatten(placement.replicas))
        append(module, _record(layer, placement, workload))


def residency(op: ir.OpView, layer: ExpertLayer) -> IntArray:
    """Read select-draft's decision: [expert], 0 none, 1 msb, 2 all.

    Raises:
        InputError: select-draft has not run.
    """
    if "residency" not in op.attributes:
        raise InputError(f"{NAME}: store '{layer.name}' has no 'residency'; run select-draft first")
    return np.array(list(op.attributes["residency"]), dtype=np.int64)


def rates(machine: Machine, expert_bytes: int, hidden: int) -> Rates:
    """Return what placements are judged by. A draft step loads nothing, so its external channel is never waited for."""
    assert machine.hb is not None
    return Rates(
        banks=machine.hb.banks,
        bank_capacity_bytes=expert_bytes // machine.hb.banks,
        bank_bytes_per_second=machine.hb.bank_bytes_per_second * machine.hb.efficiency,
        link_bytes_per_second=machine.aggregation.bytes_per_second,
        external_bytes_per_second=math.inf,
        partial_sum_bytes=hidden * BYTES_PER_ACTIVATION,
    )


def _solve(problem: Problem, seed: int, placer: str) -> Solution:
    if placer == SEARCH:
        return solve(problem, seed, work=WORK)
    solution = place_baseline(problem, placer)
    if solution is None:
        raise InputError(f"{NAME}: placer '{placer}' does not fit the resident experts into the banks; valid: search")
    return solution


def _layer(
    trace: RoutingTrace,
    workload: Workload,
    plan: DraftPlan,
    layer: ExpertLayer,
    row: int,
    levels: IntArray,
    order: IntArray,
) -> Layer:
    """Cut training steps: draft steps with the restricted choice, or decoding steps where γ is 0."""
    tokens = cut_rounds(trace.tokens, workload.batch, 1, "train", TRAINING_STEPS).tokens[:, :, 0]
    source = trace.draft_experts if plan.length else trace.experts
    asked = membership(source[tokens, row], layer.experts)
    resident = levels > 0
    used = restrict(asked, resident, order, layer.top_k) if plan.length else asked & resident
    return Layer(layer.name, layer.experts, layer.msb_bytes, layer.whole_bytes, _ids(used, layer.top_k), levels)


def _ids(used: BoolArray, top_k: int) -> IntArray:
    """Turn a mask [step, token, expert] into expert ids [step, token, k], `NOBODY` where there are fewer."""
    ids = np.argsort(~used, axis=2, kind="stable")[:, :, :top_k]
    return np.where(np.take_along_axis(used, ids, axis=2), ids, NOBODY)


def _record(layer: ExpertLayer, placement: Placement, workload: Workload) -> SolverRecord:
    return SolverRecord(
        pass_name=NAME,
        instance=f"{layer.name}: mean seconds of a training step, closed form",
        status="optimal" if placement.lower_bound >= placement.objective * (1 - 1e-9) else "feasible",
        objective=placement.objective,
        lower_bound=placement.lower_bound,
        greedy=placement.greedy,
        seed=workload.seed,
        unit="s",
    )
