"""select-draft on IR: reads the expert stores, writes `residency` on them and one `moe.draft`."""

import math

import numpy as np
from torch_mlir import ir

from moe_passes.cost import AnalyticCost
from moe_passes.dialects.module import (
    append,
    dense_parts,
    expert_stores,
    find,
    only,
    read_machine,
    refuse_second_run,
    set_attribute,
)
from moe_passes.durations import step_seconds
from moe_passes.errors import InfeasibleError, InputError, infeasible
from moe_passes.instrumentation import solver_call
from moe_passes.machine import AUTO, Machine
from moe_passes.routing import RoutingTrace, cut_rounds, membership, popularity
from moe_passes.select_draft import acceptance
from moe_passes.select_draft.check import violations
from moe_passes.select_draft.problem import Problem, Rates, Slice, Solution
from moe_passes.select_draft.solve import solve
from moe_passes.workload import (
    AUTO_LENGTH,
    DensePart,
    DraftPlan,
    ExpertLayer,
    ModelShape,
    SolverRecord,
    Workload,
)

NAME = "select-draft"
TRAINING_ROUNDS = 16
SAMPLE_STEPS = 8
LONGEST_AUTO = 8
"""γ is chosen from 0 to this when the request says `auto`."""
STAGED_EXPERTS = (2, 4, 8, 16, 32, 64, 128, 256)
"""Staging sizes to choose from, in whole experts."""
MOST_STAGING = 0.25
"""Largest share of the free HB that `auto` gives to staging."""


def run(module: ir.Module, trace: RoutingTrace) -> None:
    """Choose and write the draft plan.

    Raises:
        InfeasibleError: the model does not fit the machine.
        InputError: a draft on a machine without HB, or records are missing.
    """
    machine, workload = read_machine(module), only(module, Workload, NAME)
    refuse_second_run(bool(find(module, DraftPlan)), NAME, "moe.draft")
    stores, parts = expert_stores(module, NAME), dense_parts(module, NAME)
    layers = [layer for _, layer in stores]
    model = only(module, ModelShape, NAME)
    check_fits(machine, model, workload, layers, parts)
    if machine.hb is None:
        _plain_decoding(module, stores, workload)
        return
    problem = _problem(machine, model, workload, layers, parts, trace)
    with solver_call(NAME, "draft plan"):
        solution = solve(problem)
    wrong = violations(problem, solution)
    if wrong:
        raise AssertionError(f"{NAME}: " + "; ".join(wrong))
    _write(module, stores, solution, _plan(machine, model, workload, parts, solution))
    append(module, _record(solution, workload))


def check_fits(
    machine: Machine, model: ModelShape, workload: Workload, layers: list[ExpertLayer], parts: list[DensePart]
) -> None:
    """Refuse a model that cannot live on the machine, with every memory that is too small in one report."""
    routed = sum(layer.experts * layer.whole_bytes for layer in layers)
    dense, cache = _dense_bytes(parts), _kv_bytes(parts, workload)
    embedding = 2 * model.embedding_parameters
    problems = []
    in_external = routed + embedding + (0 if machine.hb else dense + cache)
    if in_external > machine.external.capacity_bytes:
        problems.append(
            infeasible(
                f"{model.name} (routed experts {routed / 1e9:.2f} GB, input embedding {embedding / 1e9:.2f} GB"
                + ("" if machine.hb else f", dense weights {dense / 1e9:.2f} GB, KV cache {cache / 1e9:.2f} GB")
                + ")",
                "external",
                in_external,
                machine.external.capacity_bytes,
                [
                    f"memories.external.capacity_gb of at least {_gb(in_external)} (`--set`, for a what-if)",
                    "a larger target (`moec targets`), or a smaller model (`moec models`)",
                ],
            )
        )
    if machine.hb is not None:
        staging = least_staging(machine, layers)
        needed = dense + cache + staging
        if needed > machine.hb.capacity_bytes:
            levers = [
                f"memories.hb.capacity_gb of at least {_gb(needed)} (`--set`, for a what-if)",
                "a larger target (`moec targets`), or a smaller model (`moec models`)",
            ]
            if dense + staging + cache // workload.batch <= machine.hb.capacity_bytes and workload.batch > 1:
                levers.append("a smaller --batch")
            if dense + staging < machine.hb.capacity_bytes and workload.context:
                fits = (machine.hb.capacity_bytes - dense - staging) * workload.context // cache
                levers.append(f"--context of at most about {fits:,} tokens")
            if machine.hb.staging_bytes != AUTO and dense + cache + _two_experts(layers) <= machine.hb.capacity_bytes:
                levers.append("memories.hb.staging_gb=auto")
            problems.append(
                infeasible(
                    f"{model.name} (dense weights {dense / 1e9:.2f} GB, KV cache {cache / 1e9:.2f} GB, "
                    f"staging {staging / 1e9:.2f} GB)",
                    "hb",
                    needed,
                    machine.hb.capacity_bytes,
                    levers,
                )
            )
    if problems:
        raise InfeasibleError("\n".join(str(problem) for problem in problems))


def _gb(size: int) -> str:
    return f"{math.ceil(size / 1e7) / 100:.2f}"


def _dense_bytes(parts: list[DensePart]) -> int:
    return sum(part.weight_bytes for part in parts)


def _kv_bytes(parts: list[DensePart], workload: Workload) -> int:
    return workload.batch * sum(part.kv_bytes(workload.context) for part in parts)


def _two_experts(layers: list[ExpertLayer]) -> int:
    return 2 * max(layer.staged_bytes for layer in layers)


def free_bytes(machine: Machine, workload: Workload, parts: list[DensePart]) -> int:
    """Return the bytes of HB that dense weights and the KV cache leave for staging and experts."""
    assert machine.hb is not None
    return machine.hb.capacity_bytes - _dense_bytes(parts) - _kv_bytes(parts, workload)


def least_staging(machine: Machine, layers: list[ExpertLayer]) -> int:
    """Return the size of staging that is asked for, or the least that works where it is left open.

    Raises:
        InfeasibleError: less than two experts is asked for.
    """
    assert machine.hb is not None
    fixed = machine.hb.staging_bytes
    if fixed == AUTO:
        return _two_experts(layers)
    largest = max(layers, key=lambda layer: layer.staged_bytes)
    if fixed < _two_experts(layers):
        raise infeasible(
            f"a staged expert of layer {largest.layer} ({largest.staged_bytes:,} bytes) and the next one on its way",
            "hb (staging)",
            _two_experts(layers),
            fixed,
            [
                f"memories.hb.staging_gb of at least {_two_experts(layers) / 1e9:.4f}",
                "memories.hb.staging_gb=auto",
            ],
        )
    return fixed


def _plain_decoding(module: ir.Module, stores: list[tuple[ir.OpView, ExpertLayer]], workload: Workload) -> None:
    """Without HB there is nothing to draft from: γ = 0, no residents."""
    if workload.draft_length > 0:
        raise InputError(
            f"--draft-length {workload.draft_length}: the target has no memory 'hb' for a draft to read; "
            "valid: 0 or auto (plain decoding)"
        )
    for op, layer in stores:
        set_attribute(op, "residency", (0,) * layer.experts)
    append(
        module,
        DraftPlan(0, 8, 0.0, 0.0, math.inf, "no memory 'hb': plain decoding", 0, 0, 0, 0),
    )


def _problem(
    machine: Machine,
    model: ModelShape,
    workload: Workload,
    layers: list[ExpertLayer],
    parts: list[DensePart],
    trace: RoutingTrace,
) -> Problem:
    assert machine.hb is not None
    longest = LONGEST_AUTO if workload.draft_length == AUTO_LENGTH else workload.draft_length
    lengths = tuple(range(longest + 1)) if workload.draft_length == AUTO_LENGTH else tuple({0: 0, longest: 0})
    first = layers[0]
    free = free_bytes(machine, workload, parts)
    rounds = cut_rounds(trace.tokens, workload.batch, longest + 1, "train", TRAINING_ROUNDS)
    count = trace.experts_per_layer
    asked_tokens = membership(trace.draft_experts[rounds.tokens], count)
    shares, at_reference = acceptance.curve(model.name)
    slices = [Slice(4, first.msb_bytes, first.residual_bytes)]
    if first.residual_bytes:
        slices.append(Slice(8, first.whole_bytes, 0))
    return Problem(
        batch=workload.batch,
        top_k=first.top_k,
        capacity_bytes=free,
        slices=tuple(slices),
        staging_choices=_staging_choices(machine, layers, free),
        lengths=lengths,
        allowed=lengths if workload.draft_length == AUTO_LENGTH else (longest,),
        whole_bytes=first.whole_bytes,
        popularity=popularity(trace),
        used=np.asarray(membership(trace.experts[rounds.tokens], count).any(axis=1)),
        asked=np.asarray(asked_tokens.any(axis=1)),
        token_asked=asked_tokens[:SAMPLE_STEPS, :, 0],
        acceptance=tuple((shares, tuple(acceptance.at_length(a, n) for a in at_reference)) for n in lengths),
        rates=_rates(machine, model, workload, parts, lengths),
    )


def _staging_choices(machine: Machine, layers: list[ExpertLayer], free: int) -> tuple[int, ...]:
    least = least_staging(machine, layers)
    assert machine.hb is not None
    if machine.hb.staging_bytes != AUTO:
        return (least,)
    staged = max(layer.staged_bytes for layer in layers)
    return tuple(n * staged for n in STAGED_EXPERTS if n * staged <= max(least, int(MOST_STAGING * free)))


def _rates(
    machine: Machine, model: ModelShape, workload: Workload, parts: list[DensePart], lengths: tuple[int, ...]
) -> Rates:
    cost = AnalyticCost(machine)
    banks = cost.banks()
    some_bytes = 1e9
    partial_sums = banks * model.hidden * 2
    dense = [step_seconds(cost, parts, workload.batch, n + 1, workload.context) for n in lengths]
    return Rates(
        draft_dense_seconds=step_seconds(cost, parts, workload.batch, 1, workload.context),
        verify_dense_seconds=tuple(dense),
        hb_seconds_per_byte=cost.local_read_seconds(some_bytes / banks) / some_bytes,
        external_seconds_per_byte=cost.external_read_seconds(some_bytes) / some_bytes,
        load_latency_seconds=machine.external.latency_seconds,
        gather_seconds_per_token=partial_sums / machine.aggregation.bytes_per_second,
    )


def _plan(
    machine: Machine, model: ModelShape, workload: Workload, parts: list[DensePart], solution: Solution
) -> DraftPlan:
    assert machine.hb is not None
    choice = solution.choice
    dense, cache = _dense_bytes(parts), _kv_bytes(parts, workload)
    return DraftPlan(
        length=choice.length,
        bits=choice.slice.bits,
        expert_fraction=choice.share,
        acceptance_rate=solution.acceptance_rate,
        break_even_acceptance=solution.break_even_acceptance,
        acceptance_source=acceptance.source(model.name),
        staging_bytes=choice.staging_bytes,
        expert_bytes=machine.hb.capacity_bytes - dense - cache - choice.staging_bytes,
        dense_bytes=dense,
        kv_bytes=cache,
    )


def _write(module: ir.Module, stores: list[tuple[ir.OpView, ExpertLayer]], solution: Solution, plan: DraftPlan) -> None:
    level = 1 if solution.choice.slice.residual_bytes else 2
    for row, (op, _) in enumerate(stores):
        set_attribute(op, "residency", tuple(np.where(solution.choice.resident[row], level, 0).tolist()))
    append(module, plan)


def _record(solution: Solution, workload: Workload) -> SolverRecord:
    optimal = solution.lower_bound >= solution.seconds_per_token
    return SolverRecord(
        pass_name=NAME,
        instance="seconds per token of a training round, closed-form model",
        status="optimal" if optimal else "feasible",
        objective=solution.seconds_per_token,
        lower_bound=solution.lower_bound,
        greedy=solution.greedy,
        seed=workload.seed,
        unit="s",
    )
