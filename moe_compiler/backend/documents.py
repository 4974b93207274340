"""plan.json and cost.json, made from the final module alone."""

import math
from dataclasses import dataclass

import numpy as np
from moe_passes.estimate.cost import CostModel
from moe_passes.ir.accounts import read_account
from moe_passes.ir.module import (
    dispatch_plan,
    find,
    hot_set_rule,
    only,
    placed_layers,
    read_machine,
    solver_records,
)
from moe_passes.ir.round import Round, read_round
from moe_passes.plan.accounts import DraftAccount, Weighed
from moe_passes.plan.decisions import RESIDENCY, DispatchPlan, DraftPlan, SolverRecord, gap
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer, ModelShape
from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.request import ProfileRecord, Request
from moe_passes.plan.round import Traffic, add_up
from moe_passes.solve.steady_state.check import UNROLLED
from moe_passes.tasks.prefill import Prefill
from torch_mlir import ir

from moe_compiler.documents import cost as cost_json
from moe_compiler.documents import plan as plan_json
from moe_compiler.documents.placement import ExpertBytes
from moe_compiler.evaluate.held_out import HeldOut
from moe_compiler.evaluate.report import busy_fractions, critical_path, knobs, mean, roofline_seconds

NAME = "emit"


def plan_document(module: ir.Module) -> plan_json.PlanDocument:
    """Return plan.json."""
    request, draft = only(module, Request, NAME), only(module, DraftPlan, NAME)
    profile, machine, account = only(module, ProfileRecord, NAME), read_machine(module), _account(module)
    return plan_json.PlanDocument(
        model=only(module, ModelShape, NAME).name,
        target=machine.name,
        overrides=list(machine.overrides),
        batch=request.batch,
        context=request.context,
        seed=request.seed,
        profile=plan_json.Profile(**vars(profile)),
        draft=plan_json.Draft(
            length=draft.length,
            bits=draft.bits,
            dense_bits=draft.dense_bits,
            kv_banks=draft.kv_banks,
            expert_fraction=draft.expert_fraction,
            staging_bytes=draft.staging_bytes,
        ),
        hb=plan_json.Near(
            dense_bytes=draft.dense_bytes,
            kv_bytes=draft.kv_bytes,
            staging_bytes=draft.staging_bytes,
            expert_bytes=draft.expert_bytes,
        ),
        banks=machine.hb.banks,
        decoder_layers=only(module, ModelShape, NAME).layers,
        dispatch=_dispatch(_dispatched(module)),
        hot_set=plan_json.HotSet(**vars(hot_set_rule(module))),
        layers=[
            _layer(layer, counts) for layer, counts in zip(placed_layers(module, NAME), account.popularity, strict=True)
        ],
        solvers=[_solver(record) for record in solver_records(module)],
        weighed=[_weighed(setting) for setting in account.weighed],
        criterion=plan_json.Criterion(**vars(account.criterion)) if account.criterion else None,
        round=_round(read_round(module, NAME)),
    )


def _account(module: ir.Module) -> DraftAccount:
    layers = len(find(module, ExpertLayer))
    found = read_account(module, "select-draft", DraftAccount) or DraftAccount((), None, ((),) * layers)
    if len(found.popularity) != layers:
        raise InputError(f"{NAME}: select-draft gives account of {len(found.popularity)} layers; valid: {layers}")
    return found


def _weighed(setting: Weighed) -> plan_json.Weighed:
    return plan_json.Weighed(**{**vars(setting), "seconds": setting.seconds or None})


def _dispatched(module: ir.Module) -> DispatchPlan:
    plan = dispatch_plan(module)
    if plan is None:
        raise InputError(f"{NAME}: the dispatcher's plan is open; run choose-dispatch first")
    return plan


def _layer(layer: PlacedLayer, popularity: tuple[int, ...]) -> plan_json.DispatchedLayer:
    return plan_json.DispatchedLayer(
        layer=layer.shape.layer,
        expert_bytes=ExpertBytes(msb=layer.shape.msb_bytes, all=layer.shape.whole_bytes),
        residency=[RESIDENCY[level] for level in layer.residency.tolist()],  # type: ignore[misc]
        placement=[[list(banks) for banks in copies] for copies in layer.replicas],
        needed_permille=layer.needed_permille.tolist(),
        deep=[expert for expert in range(layer.shape.experts) if layer.is_deep(expert)],
        popularity=list(popularity),
    )


def _dispatch(plan: DispatchPlan) -> plan_json.Dispatch:
    table = plan.likelihoods
    return plan_json.Dispatch(
        sure_permille=plan.sure_permille,
        least_permille=plan.least_permille,
        order=plan.order,  # type: ignore[arg-type]
        engine=plan.engine,  # type: ignore[arg-type]
        most_far_tokens=plan.most_far_tokens,
        late=plan.late,  # type: ignore[arg-type]
        likelihood_permille=list(table.permille),
        likelihood_borders=[list(b) for b in (table.share_borders, table.recent_borders, table.ask_borders)],
    )


def _solver(record: SolverRecord) -> plan_json.Solver:
    return plan_json.Solver(**vars(record), gap=record.gap)


def _round(round_: Round) -> plan_json.Round:
    schedule, problem = round_.schedule(NAME), round_.problem
    tasks = []
    for number, work in enumerate(round_.work):
        mode = problem.tasks[number].modes[schedule.modes[number]]
        tasks.append(
            plan_json.Task(
                id=number,
                kind=work.kind,
                step=work.step,
                layer=work.layer,
                expert=work.expert if work.expert >= 0 else None,
                start_seconds=schedule.starts[number] * 1e-9,
                seconds=mode.duration * 1e-9,
                uses=[problem.names[r] for r, amount in mode.uses if amount],
                after=list(problem.tasks[number].after),
            )
        )
    staged = [
        plan_json.Staged(first=b.first, last=b.last, bytes=b.amount, offset=offset)
        for b, offset in zip(problem.buffers, round_.offsets(NAME), strict=True)
    ]
    return plan_json.Round(kind="training round, clairvoyant", tasks=tasks, staged=staged)


@dataclass(frozen=True)
class Evaluated:
    """What was measured of a plan, beyond the module.

    Attributes:
        held_out: rounds that no pass has seen.
        other_seconds: means of held-out rounds of routing like other models'; none where the routing is known.
        prefill: of a prompt; None where none was asked for.
    """

    held_out: HeldOut
    other_seconds: tuple[float, ...] = ()
    prefill: Prefill | None = None


def cost_document(module: ir.Module, cost: CostModel, evaluated: Evaluated) -> cost_json.CostDocument:
    """Return cost.json."""
    request, draft = only(module, Request, NAME), only(module, DraftPlan, NAME)
    profile, machine, held_out = only(module, ProfileRecord, NAME), read_machine(module), evaluated.held_out
    tokens, round_ = request.batch * (1 + draft.acceptance_rate * draft.length), read_round(module, NAME)
    traffics = [add_up(executed.work) for executed in held_out.executed]
    energy = mean([cost.joules(t, s) for t, s in zip(traffics, held_out.seconds, strict=True)])
    roofline = mean([roofline_seconds(cost, traffic) for traffic in traffics])
    limited_by = max(roofline, key=lambda name: roofline[name])
    path = mean([critical_path(run.problem, run.work, run.schedule) for run in held_out.executed])
    return cost_json.CostDocument(
        model=only(module, ModelShape, NAME).name,
        format=only(module, ModelShape, NAME).format,
        target=machine.name,
        overrides=list(machine.overrides),
        batch=request.batch,
        context=request.context,
        seed=request.seed,
        cost_model=request.cost_model,
        profile=cost_json.Profile(name=profile.name, kind=profile.kind, draft_routing=profile.draft_routing),
        parameters=_parameters(module),
        draft=_expected(draft),
        hot_set=plan_json.HotSet(**vars(hot_set_rule(module))),
        mode="speculative decoding" if draft.length else "plain decoding",
        round=_held_out_round(held_out, tokens, total_joules(energy)),
        training_round=_training_round(module, round_, cost, tokens),
        steady_state=_steady_state(round_, tokens),
        token=_token(evaluated, tokens, total_joules(energy)),
        prefill=cost_json.Prefill(**vars(evaluated.prefill)) if evaluated.prefill else None,
        joules_by_part=energy or None,
        joules_by_layer=_by_layer(cost, held_out, draft.length) if energy else None,
        bytes=_bytes(traffics),
        busy_fraction=mean([busy_fractions(e.problem, e.schedule) for e in held_out.executed]),
        critical_path=[cost_json.Stretch(kind=k, seconds=s) for k, s in sorted(path.items(), key=lambda i: -i[1])],
        roofline_seconds=roofline,
        roofline_fraction=roofline[limited_by] / held_out.mean_seconds,
        limited_by=limited_by,
        limited_by_field=knobs(machine)[limited_by],
        held_out=_held_out(held_out, _dispatched(module)),
    )


def _by_layer(cost: CostModel, held_out: HeldOut, length: int) -> list[cost_json.LayerJoules]:
    """Add up what the work of each phase and layer takes; static power is nobody's."""
    traffic: dict[tuple[str, int], Traffic] = {}
    for run in held_out.executed:
        for work in run.work:
            key = "draft" if work.step < length else "verify", work.layer
            traffic[key] = traffic.get(key, Traffic()) + work.traffic
    rounds = len(held_out.executed)
    return [
        cost_json.LayerJoules(phase=phase, layer=layer, joules=sum(cost.joules(of, 0.0).values()) / rounds)
        for (phase, layer), of in sorted(traffic.items())
    ]


def total_joules(by_part: dict[str, float]) -> float | None:
    """Add energies up; None where the hardware file states none."""
    return sum(by_part.values()) if by_part else None


def _held_out_round(held_out: HeldOut, tokens: float, joules: float | None) -> cost_json.Round:
    bound = float(np.mean([record.lower_bound for record in held_out.solvers]))
    return cost_json.Round(
        seconds=held_out.mean_seconds,
        ci95_seconds=held_out.confidence(),
        lower_bound_seconds=bound,
        gap=gap(held_out.mean_seconds, bound),
        greedy_seconds=float(np.mean([record.greedy for record in held_out.solvers])),
        tokens=tokens,
        joules=joules,
        tasks=round(np.mean([len(executed.work) for executed in held_out.executed])),
    )


def _token(evaluated: Evaluated, tokens: float, joules: float | None) -> cost_json.Token:
    held_out = evaluated.held_out
    low, high = held_out.confidence()
    others = [held_out.mean_seconds, *evaluated.other_seconds] if evaluated.other_seconds else []
    return cost_json.Token(
        seconds=held_out.mean_seconds / tokens,
        joules=None if joules is None else joules / tokens,
        ci95_seconds=(low / tokens, high / tokens),
        low_seconds=min(others) / tokens if others else None,
        high_seconds=max(others) / tokens if others else None,
    )


def _bytes(traffics: list[Traffic]) -> cost_json.Bytes:
    moved = mean([vars(traffic) for traffic in traffics])
    return cost_json.Bytes(
        hb_read=round(moved["hb_read_bytes"]),
        hb_write=round(moved["hb_write_bytes"]),
        external_read=round(moved["external_read_bytes"] + moved["far_read_bytes"]),
        link=round(moved["link_bytes"]),
    )


def _parameters(module: ir.Module) -> cost_json.Parameters:
    """Count parameters: total, and active per token with and without the input embedding."""
    model = only(module, ModelShape, NAME)
    layers = [layer for _, layer in find(module, ExpertLayer)]
    active = model.total_parameters - sum((la.experts - la.top_k) * la.parameters for la in layers)
    return cost_json.Parameters(
        total=model.total_parameters,
        active_with_embedding=active,
        active_without_embedding=active - model.embedding_parameters,
    )


def _expected(draft: DraftPlan) -> cost_json.Draft:
    return cost_json.Draft(
        length=draft.length,
        bits=draft.bits,
        dense_bits=draft.dense_bits,
        kv_banks=draft.kv_banks,
        expert_fraction=draft.expert_fraction,
        acceptance_rate=draft.acceptance_rate,
        break_even_acceptance=_finite(draft.break_even_acceptance),
        acceptance_source=draft.acceptance_source,
    )


def _training_round(module: ir.Module, round_: Round, cost: CostModel, tokens: float) -> cost_json.TrainingRound:
    solver = next(r for r in solver_records(module) if r.pass_name == "schedule-round")
    seconds = round_.schedule(NAME).makespan(round_.problem) * 1e-9
    return cost_json.TrainingRound(
        seconds=seconds,
        lower_bound_seconds=solver.lower_bound,
        gap=gap(seconds, solver.lower_bound),
        greedy_seconds=solver.greedy,
        tokens=tokens,
        joules=total_joules(cost.joules(add_up(round_.work), seconds)),
        tasks=len(round_.work),
    )


def _held_out(held_out: HeldOut, plan: DispatchPlan) -> cost_json.HeldOut:
    return cost_json.HeldOut(
        rounds=len(held_out.seconds),
        mean_seconds=held_out.mean_seconds,
        p95_seconds=float(np.percentile(held_out.seconds, 95)),
        regret=held_out.regret,
        p95_regret=held_out.p95_regret,
        informed_regret=held_out.informed_regret,
        wasted_loads=held_out.wasted,
        swaps=held_out.swaps,
        dispatch_rule=plan.order,
        solvers=[_solver(record) for record in held_out.solvers],
    )


def _steady_state(round_: Round, tokens: float) -> cost_json.SteadyState:
    state = round_.steady
    if state is None:
        raise InputError(f"{NAME}: the steady state is open; run steady-state first")
    return cost_json.SteadyState(
        period_seconds=state.period * 1e-9,
        lower_bound_seconds=state.lower_bound * 1e-9,
        gap=gap(state.period, state.lower_bound),
        token_seconds=state.period * 1e-9 / tokens,
        carried_loads=len(state.carried),
        carried_bytes=sum(round_.work[n].traffic.external_read_bytes for n in state.carried),
        checked_starts_seconds=[k * state.period * 1e-9 for k in range(UNROLLED)],
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
