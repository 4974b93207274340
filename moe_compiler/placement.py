"""`moec partition`: place a model's experts for a machine, from a routing trace alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from moe_passes.estimate.cost import CostModel
from moe_passes.estimate.feasibility import Footprint, check_fits, footprint, free_bytes, least_staging
from moe_passes.estimate.registry import cost_model
from moe_passes.plan.decisions import ALL, RESIDENCY, gap
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer
from moe_passes.plan.request import AUTO_LENGTH, BATCH, CONTEXT, JOBS, SEED, STEP_TOKENS, Request
from moe_passes.routing.traces import cut, split_of
from moe_passes.solve.placement import baselines
from moe_passes.solve.placement.bound import any_residency_bound
from moe_passes.solve.placement.check import violations
from moe_passes.solve.placement.prepare import rates as placement_rates
from moe_passes.solve.placement.problem import IntArray, Layer, Problem, Solution
from moe_passes.solve.placement.replan import Plan, Replanned, replan
from moe_passes.solve.placement.slots import solve_slots
from moe_passes.solve.placement.solver import WORK, compare, solve
from moe_passes.solve.placement.step_time import chosen_replicas, step_seconds
from moe_passes.solve.placement.trial import trial_of, unseen

from moe_compiler.documents.placement import LayerEntry
from moe_compiler.formats import placements
from moe_compiler.formats.eplb import Decoder
from moe_compiler.frontend.models import load_model
from moe_compiler.hardware.loader import load_target
from moe_compiler.traces import files as profiles

NAME = "partition"
VERIFY_BITS = 8
"""Of the weights that a step computes with: all of them."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PlacementRequest:
    """What `moec partition` was asked for; names are those of its options."""

    trace: str
    model: str
    target: str
    score: str | None = None
    overrides: tuple[str, ...] = ()
    batch: int = 1
    context: int = 1024
    step_tokens: int = 1
    baselines: tuple[str, ...] = ()
    previous: str | None = None
    max_migration_gb: float | None = None
    equal_slots: bool = False
    seed: int = 0
    jobs: int = 1
    format: str | None = None


@dataclass(frozen=True)
class _Shape:
    """The model on the machine."""

    cost: CostModel
    footprint: Footprint

    @property
    def layers(self) -> tuple[ExpertLayer, ...]:
        return self.footprint.layers


def place(request: PlacementRequest, progress: Progress = lambda message: None) -> dict[str, Any]:
    """Place the experts and return the document that `--json` prints.

    Raises:
        InputError: input that cannot be used; the message says what, where and what would be valid.
        InfeasibleError: the model does not fit the machine.
    """
    _check(request)
    progress("trace the model")
    shape = _shape(request)
    trace = profiles.load(request.trace, shape.layers)
    score = profiles.load(request.score, shape.layers) if request.score else None
    held_out = _steps(request, score, None, "--score") if score else _steps(request, trace, "held-out", "--trace")
    training = _steps(request, trace, None if score else "train", "--trace")
    problem = _problem(shape, training, *((None, None) if request.previous else _trial(request, trace, shape)))
    names = request.baselines or baselines.names(problem.rates.banks)
    for name in names:
        baselines.check_name(name, problem.rates.banks)
    previous = _previous(request.previous, shape, problem.rates.banks)
    progress("place experts as the baselines do")
    compared = compare(problem, names)
    progress("place experts")
    again: Replanned | None = None
    if request.equal_slots:
        solution = solve_slots(problem, request.seed, request.jobs, WORK)
    elif previous is None:
        solution = solve(problem, request.seed, request.jobs, WORK)
    else:
        budget = math.inf if request.max_migration_gb is None else request.max_migration_gb * 1e9
        again = replan(problem, previous, budget, request.seed, request.jobs, WORK)
        solution = again.solution
    wrong = violations(problem, solution, chosen_replicas)
    if wrong:
        raise AssertionError(f"{NAME}: " + "; ".join(wrong[:5]))
    progress("score")
    document = _document(request, shape, problem, solution)
    chosen_from = sum(layer.experts for layer in problem.layers)
    document["trace"] = {
        "name": trace.record.name,
        "kind": trace.record.kind,
        "experts": chosen_from,
        "unseen_experts": sum(unseen(layer.routing, layer.experts) for layer in problem.layers),
    }
    document["score"] = _score(problem, solution, compared, held_out)
    document["score"]["trace"] = {
        "name": score.record.name if score else f"{trace.record.name}, held-out split",
        "kind": score.record.kind if score else trace.record.kind,
    }
    if again is not None:
        document["migration"] = _migration(request, again)
    return document


def _check(request: PlacementRequest) -> None:
    for name, value, valid in (
        ("--batch", request.batch, BATCH),
        ("--context", request.context, CONTEXT),
        ("--step-tokens", request.step_tokens, STEP_TOKENS),
        ("--seed", request.seed, SEED),
        ("--jobs", request.jobs, JOBS),
    ):
        valid.check(name, value)
    budget = request.max_migration_gb
    if budget is not None and not 0 <= budget < math.inf:
        raise InputError(f"--max-migration-gb {budget}; valid: a number of 0 or more")
    if budget is not None and request.previous is None:
        raise InputError("--max-migration-gb needs --previous: the plan that is migrated from")
    if request.equal_slots and request.previous is not None:
        raise InputError("--equal-slots with --previous; valid: one of them")
    if request.previous is not None and not Path(request.previous).is_file():
        what = "is a folder" if Path(request.previous).is_dir() else "no such file"
        raise InputError(f"--previous {request.previous}: {what}; valid: a plan.json, an expert location or an .npz")
    profiles.check_exists(request.trace)
    profiles.check_exists(request.score)


def _shape(request: PlacementRequest) -> _Shape:
    """Trace the model and raise it, for its shapes alone."""
    machine = load_target(request.target, request.overrides).machine()
    source = load_model(request.model, request.format)
    from moe_passes.ir.dialects import context
    from moe_passes.ir.module import append, expert_stores, only, write_machine
    from moe_passes.ir.phases import read_stages
    from moe_passes.ir.pipeline import parse_pipeline, run_pipeline
    from moe_passes.plan.model import ModelShape
    from moe_passes.tasks.stages import parts

    from moe_compiler.frontend.graph import trace

    asked = Request(request.batch, request.context, AUTO_LENGTH, request.seed, 0.0)
    module = trace(source, request.batch, context())
    append(module, asked)
    write_machine(module, machine)
    run_pipeline(module, parse_pipeline("raise-moe"))
    layers = [layer for _, layer in expert_stores(module, NAME)]
    of = footprint(only(module, ModelShape, NAME), asked, layers, parts(read_stages(module, NAME)[1]))
    cost = cost_model(asked.cost_model, machine)
    check_fits(cost, of)
    return _Shape(cost, of)


def _trial(request: PlacementRequest, trace: profiles.Profile, shape: _Shape) -> tuple[IntArray, IntArray]:
    """Return routing to make placements from and to choose between them on: [step, token, layer, k] each."""
    length = trace.trace.tokens if request.score else split_of(trace.trace.tokens, "train")[1]
    return trial_of(trace.trace.experts[:length], request.batch, request.step_tokens, shape.layers[0].experts)


def _steps(request: PlacementRequest, profile: profiles.Profile, split: str | None, option: str) -> IntArray:
    tokens = profile.trace.tokens
    first, length = split_of(tokens, split) if split else (0, tokens)
    steps = cut(first, length, request.batch, request.step_tokens)
    if not len(steps):
        which = f"the {split} split of {option}" if split else option
        needed = request.batch * request.step_tokens
        raise InputError(
            f"{which} has {length} of {tokens} tokens: too few for one step of batch {request.batch} and "
            f"{request.step_tokens} tokens each; valid: at least {needed} there, a smaller --batch or --step-tokens"
            + ("" if split is None else ", or a trace of its own as --score")
        )
    return profile.trace.experts[steps.reshape(len(steps), -1)]


def _problem(shape: _Shape, routing: IntArray, making: IntArray | None, trial: IntArray | None) -> Problem:
    room = free_bytes(shape.cost, shape.footprint) - least_staging(shape.cost, shape.footprint)
    return Problem(
        placement_rates(shape.cost, room, shape.footprint.model.hidden, VERIFY_BITS, loads=True),
        tuple(
            Layer(
                layer.name,
                layer.experts,
                layer.msb_bytes,
                layer.whole_bytes,
                routing[:, :, row],
                making=None if making is None else making[:, :, row],
                trial=None if trial is None else trial[:, :, row],
                macs_per_token=layer.parameters,
            )
            for row, layer in enumerate(shape.layers)
        ),
    )


def _document(request: PlacementRequest, shape: _Shape, problem: Problem, solution: Solution) -> dict[str, Any]:
    rates = problem.rates
    return {
        "schema": 1,
        "model": shape.footprint.model.name,
        "decoder_layers": shape.footprint.model.layers,
        "target": shape.cost.space().machine,
        "overrides": list(request.overrides),
        "batch": request.batch,
        "context": request.context,
        "step_tokens": request.step_tokens,
        "seed": request.seed,
        "banks": rates.banks,
        "bank_capacity_bytes": rates.bank_capacity_bytes,
        "bank_bytes_per_second": rates.bank_bytes_per_second,
        "link_bytes_per_second": rates.link_bytes_per_second,
        "external_bytes_per_second": rates.external_bytes_per_second,
        "bank_macs_per_second": rates.bank_macs_per_second,
        "hidden": shape.footprint.model.hidden,
        "objective": solution.objective,
        "trial_objective": solution.trial,
        "lower_bound": solution.lower_bound,
        "gap": gap(solution.objective, solution.lower_bound),
        "lower_bound_any_residency": min(any_residency_bound(problem), solution.objective),
        "layers": [
            {
                "layer": shape.layers[row].layer,
                "expert_bytes": {"msb": layer.msb_bytes, "all": layer.whole_bytes},
                "macs_per_token": layer.macs_per_token,
                "residency": [RESIDENCY[level] for level in placement.residency],
                "placement": [[list(copy) for copy in copies] for copies in placement.replicas],
                "objective": placement.objective,
                "lower_bound": placement.lower_bound,
                "gap": gap(placement.objective, placement.lower_bound),
                "greedy": placement.greedy,
                "baseline": {"name": placement.baseline[0], "objective": placement.baseline[1]},
                "stages": [{"stage": name, "objective": seconds} for name, seconds in placement.stages],
            }
            for row, (layer, placement) in enumerate(zip(problem.layers, solution.layers, strict=True))
        ],
    }


def _score(
    problem: Problem, solution: Solution, compared: dict[str, Solution | None], routing: IntArray
) -> dict[str, Any]:
    ours = _seconds(problem, solution, routing)
    fitting = {name: _mean_and_tail(_seconds(problem, placed, routing)) for name, placed in compared.items() if placed}
    return {
        "steps": len(ours),
        **_mean_and_tail(ours),
        "baselines": fitting,
        "do_not_fit": [name for name, placed in compared.items() if placed is None],
    }


def _seconds(problem: Problem, solution: Solution, routing: IntArray) -> np.ndarray:
    """Return seconds of each step, summed over layers."""
    total = np.zeros(len(routing))
    for row, (layer, placement) in enumerate(zip(problem.layers, solution.layers, strict=True)):
        residency, replicas = placement.residency, placement.replicas
        total += step_seconds(problem.rates, layer, residency, replicas, routing[:, :, row])
    return total


def _mean_and_tail(seconds: np.ndarray) -> dict[str, float]:
    return {"mean_seconds": float(seconds.mean()), "p99_seconds": float(np.percentile(seconds, 99))}


def _migration(request: PlacementRequest, again: Replanned) -> dict[str, Any]:
    return {
        "previous": Path(str(request.previous)).name,
        "budget_gb": request.max_migration_gb,
        "moved_bytes": again.moved_bytes,
        "curve": [{"bytes": moved, "objective": seconds} for moved, seconds in again.curve],
    }


def _previous(path: str | None, shape: _Shape, banks: int) -> list[Plan] | None:
    """Read an older plan: ours, an expert-location JSON, or an EPLB triple as .npz.

    Raises:
        InputError: not such a file, or of another model or number of banks.
    """
    if path is None:
        return None
    where = f"--previous {path}"
    decoder = Decoder(shape.footprint.model.layers, tuple(layer.layer for layer in shape.layers))
    found = placements.read(path, where, banks, shape.layers[0].experts, decoder)
    if isinstance(found, placements.Slots):
        return [Plan(np.full(len(replicas), ALL, dtype=np.int64), replicas) for replicas in found.layers]
    if found.model not in (None, shape.footprint.model.name):
        raise InputError(f"{where}: is a plan of '{found.model}'; valid: one of '{shape.footprint.model.name}'")
    if found.banks != banks:
        raise InputError(f"{where}: is a plan for {found.banks} banks; valid: {banks}")
    if len(found.layers) != len(shape.layers):
        raise InputError(f"{where}: has {len(found.layers)} layers; valid: {len(shape.layers)}")
    return [_older(entry, layer, where) for entry, layer in zip(found.layers, shape.layers, strict=True)]


def _older(entry: LayerEntry, layer: ExpertLayer, where: str) -> Plan:
    if entry.layer != layer.layer:
        raise InputError(f"{where}: layer {entry.layer} stands where layer {layer.layer} is due")
    if len(entry.residency) != layer.experts:
        raise InputError(f"{where}: layer {layer.layer} has {len(entry.residency)} experts; valid: {layer.experts}")
    told = entry.expert_bytes
    if told is not None and (told.msb, told.all) != (layer.msb_bytes, layer.whole_bytes):
        raise InputError(f"{where}: layer {layer.layer}: expert_bytes {told.msb}, {told.all} are of another model")
    return Plan(entry.levels(), entry.replicas())
