"""plan.json and cost.json, made from the final module alone."""

import math
from typing import Any

from moe_passes.dialects.module import find, only, read_machine, replicas_of
from moe_passes.dialects.round import Round, read_round
from moe_passes.schedule_round.steady import UNROLLED
from moe_passes.workload import (
    DispatchPlan,
    DraftPlan,
    ExpertLayer,
    ModelShape,
    ProfileRecord,
    SolverRecord,
    Workload,
    gap,
)
from torch_mlir import ir

from moe_compiler.cost.held_out import HeldOut
from moe_compiler.cost.report import KNOBS, add_up, busy_fractions, critical_path, joules, roofline_seconds
from moe_compiler.cost.steady import Steady, steady
from moe_compiler.plan_file import RESIDENCY

NAME = "emit"


def parameters(module: ir.Module) -> dict[str, int]:
    """Count parameters: total, and active per token with and without the input embedding."""
    model = only(module, ModelShape, NAME)
    layers = [layer for _, layer in find(module, ExpertLayer)]
    unused = sum((layer.experts - layer.top_k) * layer.parameters for layer in layers)
    active = model.total_parameters - unused
    return {
        "total": model.total_parameters,
        "active_with_embedding": active,
        "active_without_embedding": active - model.embedding_parameters,
    }


def plan_document(module: ir.Module) -> dict[str, Any]:
    """Return the content of plan.json; all times are seconds of the modelled machine."""
    model, workload = only(module, ModelShape, NAME), only(module, Workload, NAME)
    profile, draft = only(module, ProfileRecord, NAME), only(module, DraftPlan, NAME)
    machine, round_ = read_machine(module), read_round(module, NAME)
    return {
        "schema": 1,
        "model": model.name,
        "target": machine.name,
        "overrides": list(machine.overrides),
        "batch": workload.batch,
        "context": workload.context,
        "seed": workload.seed,
        "profile": _profile(profile),
        "draft": {
            "length": draft.length,
            "bits": draft.bits,
            "expert_fraction": draft.expert_fraction,
            "staging_bytes": draft.staging_bytes,
        },
        "hb": {
            "dense_bytes": draft.dense_bytes,
            "kv_bytes": draft.kv_bytes,
            "staging_bytes": draft.staging_bytes,
            "expert_bytes": draft.expert_bytes,
        },
        **({"banks": machine.hb.banks} if machine.hb else {}),
        "dispatch": _dispatch(only(module, DispatchPlan, NAME)),
        "layers": [_layer(op, layer) for op, layer in find(module, ExpertLayer)],
        "solvers": [_solver(record) for _, record in find(module, SolverRecord)],
        "round": _round(round_),
    }


def _profile(record: ProfileRecord) -> dict[str, str]:
    return {
        "name": record.name,
        "kind": record.kind,
        "sha256": record.sha256,
        "draft_routing": record.draft_routing,
    }


def _layer(op: ir.OpView, layer: ExpertLayer) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "expert_bytes": {"msb": layer.msb_bytes, "all": layer.whole_bytes},
        "residency": [RESIDENCY[level] for level in op.attributes["residency"]],
        "placement": [[list(banks) for banks in copies] for copies in replicas_of(op, layer)],
        "needed_permille": list(op.attributes["needed_permille"]),
    }


def _dispatch(plan: DispatchPlan) -> dict[str, Any]:
    return {
        "sure_permille": plan.sure_permille,
        "least_permille": plan.least_permille,
        "order": plan.order,
        "engine": plan.engine,
        "likelihood_permille": list(plan.likelihood_permille),
    }


def _solver(record: SolverRecord) -> dict[str, Any]:
    return {
        "pass": record.pass_name,
        "instance": record.instance,
        "status": record.status,
        "objective": record.objective,
        "lower_bound": record.lower_bound,
        "gap": record.gap,
        "greedy": record.greedy,
        "seed": record.seed,
        "unit": record.unit,
    }


def _round(round_: Round) -> dict[str, Any]:
    schedule, problem = round_.schedule(NAME), round_.problem
    offsets = round_.offsets(NAME) if round_.buffer_ops else []
    tasks = []
    for number, work in enumerate(round_.work):
        mode = problem.tasks[number].modes[schedule.modes[number]]
        tasks.append(
            {
                "id": number,
                "kind": work.kind,
                "step": work.step,
                "layer": work.layer,
                "expert": work.expert if work.expert >= 0 else None,
                "start_seconds": schedule.starts[number] * 1e-9,
                "seconds": mode.duration * 1e-9,
                "uses": [problem.names[r] for r, amount in mode.uses if amount],
                "after": list(problem.tasks[number].after),
            }
        )
    buffers = [
        {"first": b.first, "last": b.last, "bytes": b.amount, "offset": offset}
        for b, offset in zip(problem.buffers, offsets, strict=True)
    ]
    return {"kind": "training round, clairvoyant", "tasks": tasks, "staged": buffers}


def cost_document(module: ir.Module, held_out: HeldOut) -> dict[str, Any]:
    """Return the content of cost.json."""
    model, workload = only(module, ModelShape, NAME), only(module, Workload, NAME)
    profile, draft = only(module, ProfileRecord, NAME), only(module, DraftPlan, NAME)
    machine, round_ = read_machine(module), read_round(module, NAME)
    schedule = round_.schedule(NAME)
    solver = next(r for _, r in find(module, SolverRecord) if r.pass_name == "schedule-round")
    seconds = schedule.makespan(round_.problem) * 1e-9
    totals = add_up(round_.work)
    energy, roofline = joules(machine, totals, seconds), roofline_seconds(machine, totals)
    tokens = workload.batch * (1 + draft.acceptance_rate * draft.length)
    limited_by = max(roofline, key=lambda name: roofline[name])
    return {
        "schema": 1,
        "model": model.name,
        "target": machine.name,
        "overrides": list(machine.overrides),
        "batch": workload.batch,
        "context": workload.context,
        "seed": workload.seed,
        "profile": {"name": profile.name, "kind": profile.kind, "draft_routing": profile.draft_routing},
        "parameters": parameters(module),
        "draft": {
            "length": draft.length,
            "bits": draft.bits,
            "expert_fraction": draft.expert_fraction,
            "acceptance_rate": draft.acceptance_rate,
            "break_even_acceptance": _finite(draft.break_even_acceptance),
            "acceptance_source": draft.acceptance_source,
        },
        "mode": "speculative decoding" if draft.length else "plain decoding",
        "round": {
            "seconds": seconds,
            "lower_bound_seconds": solver.lower_bound,
            "gap": gap(seconds, solver.lower_bound),
            "greedy_seconds": solver.greedy,
            "tokens": tokens,
            "joules": sum(energy.values()),
            "tasks": len(round_.work),
        },
        "steady_state": _steady_state(steady(round_, schedule, int(solver.lower_bound * 1e9)), tokens),
        "token": {"seconds": seconds / tokens, "joules": sum(energy.values()) / tokens},
        "joules_by_part": energy,
        "bytes": {
            "hb_read": totals.hb_read_bytes,
            "hb_write": totals.hb_write_bytes,
            "external_read": totals.external_read_bytes,
            "link": totals.link_bytes,
        },
        "busy_fraction": busy_fractions(round_.problem, schedule),
        "critical_path": critical_path(round_.problem, round_.work, schedule),
        "roofline_seconds": roofline,
        "roofline_fraction": roofline[limited_by] / seconds,
        "limited_by": limited_by,
        "limited_by_field": KNOBS[limited_by],
        "held_out": {
            "rounds": held_out.rounds,
            "mean_seconds": held_out.mean_seconds,
            "p95_seconds": held_out.p95_seconds,
            "regret": held_out.regret,
            "p95_regret": held_out.p95_regret,
            "informed_regret": held_out.informed_regret,
            "wasted_loads": held_out.wasted,
            "dispatch_rule": only(module, DispatchPlan, NAME).order,
            "solvers": [_solver(record) for record in held_out.solvers],
        },
    }


def _steady_state(steady: Steady, tokens: float) -> dict[str, Any]:
    state = steady.state
    return {
        "period_seconds": state.period * 1e-9,
        "lower_bound_seconds": state.lower_bound * 1e-9,
        "gap": gap(state.period, state.lower_bound),
        "token_seconds": state.period * 1e-9 / tokens,
        "carried_loads": len(state.carried),
        "carried_bytes": steady.carried_bytes,
        "checked_starts_seconds": [k * state.period * 1e-9 for k in range(UNROLLED)],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
