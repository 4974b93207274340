"""partition-experts on IR: reads `residency`, writes `replicas` on every expert store."""

import numpy as np
from torch_mlir import ir

from moe_passes.cost import BYTES_PER_ACTIVATION
from moe_passes.dialects.module import append, expert_stores, only, read_machine, refuse_second_run, set_attribute
from moe_passes.errors import InputError
from moe_passes.instrumentation import solver_call
from moe_passes.machine import Machine
from moe_passes.partition_experts.check import violations
from moe_passes.partition_experts.problem import Problem, Solution
from moe_passes.partition_experts.solve import solve
from moe_passes.routing import RoutingTrace, by_popularity, cut_rounds, membership, popularity, restrict
from moe_passes.workload import DraftPlan, ExpertLayer, ModelShape, SolverRecord, Workload

NAME = "partition-experts"
TRAINING_STEPS = 64


def run(module: ir.Module, trace: RoutingTrace) -> None:
    """Place the resident experts of every layer.

    Raises:
        InputError: the machine has no HB, or select-draft has not run.
    """
    machine = read_machine(module)
    if machine.hb is None:
        raise InputError(f"{NAME}: target '{machine.name}' has no memory 'hb' to place experts in")
    workload, plan = only(module, Workload, NAME), only(module, DraftPlan, NAME)
    hidden = only(module, ModelShape, NAME).hidden
    stores = expert_stores(module, NAME)
    refuse_second_run(any("replicas" in op.attributes for op, _ in stores), NAME, "'replicas'")
    residencies = [residency(op, layer) for op, layer in stores]
    budgets = _budgets(machine, plan, [layer for _, layer in stores], residencies)
    order = by_popularity(popularity(trace))
    for row, (op, layer) in enumerate(stores):
        problem = Problem(
            banks=machine.hb.banks,
            bank_capacity_bytes=budgets[row],
            bank_bytes_per_second=machine.hb.bank_bytes_per_second * machine.hb.efficiency,
            link_bytes_per_second=machine.aggregation.bytes_per_second,
            partial_sum_bytes=hidden * BYTES_PER_ACTIVATION,
            expert_bytes=resident_bytes(layer, residencies[row]),
            steps=_steps(trace, workload, plan, layer, row, residencies[row], order[row]),
        )
        with solver_call(NAME, layer.name):
            solution = solve(problem, workload.seed)
        wrong = violations(problem, solution)
        if wrong:
            raise AssertionError(f"{NAME}: {layer.name}: " + "; ".join(wrong))
        flat = tuple(number for s in solution.shards for number in (s.expert, s.first, s.count))
        set_attribute(op, "replicas", flat)
        append(module, _record(layer, solution, workload))


def residency(op: ir.OpView, layer: ExpertLayer) -> np.ndarray:
    """Read select-draft's decision: [expert], 0 none, 1 msb, 2 all.

    Raises:
        InputError: select-draft has not run.
    """
    if "residency" not in op.attributes:
        raise InputError(f"{NAME}: store '{layer.name}' has no 'residency'; run select-draft first")
    return np.array(list(op.attributes["residency"]), dtype=np.int64)


def resident_bytes(layer: ExpertLayer, levels: np.ndarray) -> np.ndarray:
    """Return the bytes of each expert that HB keeps: [expert]."""
    return np.choose(levels, [0, layer.msb_bytes, layer.whole_bytes]).astype(np.int64)


def _budgets(machine: Machine, plan: DraftPlan, layers: list[ExpertLayer], levels: list[np.ndarray]) -> list[int]:
    """Share a bank's bytes out between layers, in proportion to what each keeps resident."""
    assert machine.hb is not None
    sizes = [int(resident_bytes(layer, level).sum()) for layer, level in zip(layers, levels, strict=True)]
    total = sum(sizes)
    if not total:
        return [0] * len(layers)
    return [plan.expert_bytes * size // total // machine.hb.banks for size in sizes]


def _steps(
    trace: RoutingTrace,
    workload: Workload,
    plan: DraftPlan,
    layer: ExpertLayer,
    row: int,
    levels: np.ndarray,
    order: np.ndarray,
) -> np.ndarray:
    """Cut training steps: draft steps with the restricted choice, or decoding steps where γ is 0."""
    tokens = cut_rounds(trace.tokens, workload.batch, 1, "train", TRAINING_STEPS).tokens[:, :, 0]
    source = trace.draft_experts if plan.length else trace.experts
    asked = membership(source[tokens, row], layer.experts)
    resident = levels > 0
    return restrict(asked, resident, order, layer.top_k) if plan.length else asked & resident


def _record(layer: ExpertLayer, solution: Solution, workload: Workload) -> SolverRecord:
    return SolverRecord(
        pass_name=NAME,
        instance=f"{layer.name}: mean seconds of a training step, closed form",
        status="optimal" if solution.lower_bound >= solution.objective * (1 - 1e-9) else "feasible",
        objective=solution.objective,
        lower_bound=solution.lower_bound,
        greedy=solution.greedy,
        seed=workload.seed,
        unit="s",
    )
