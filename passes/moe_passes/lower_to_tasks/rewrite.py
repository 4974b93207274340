"""lower-to-tasks on IR: adds `@round`, one training round as a scheduling problem in the sched dialect."""

import numpy as np
from torch_mlir import ir
from torch_mlir.dialects import func

from moe_passes.cost import AnalyticCost
from moe_passes.dialects import sched
from moe_passes.dialects.module import (
    append,
    dense_parts,
    expert_stores,
    find,
    has_function,
    only,
    read_machine,
    refuse_second_run,
    replicas_of,
    set_attribute,
)
from moe_passes.dialects.records import to_attribute
from moe_passes.errors import InputError
from moe_passes.lower_to_tasks.choose import NOTHING_AHEAD, choose_dispatch
from moe_passes.lower_to_tasks.problem import PlacedLayer, StaticPlan, TaskGraph
from moe_passes.lower_to_tasks.rounds import TRAINING_ROUNDS, representative, take_rounds
from moe_passes.lower_to_tasks.tasks import build
from moe_passes.routing import RoutingTrace
from moe_passes.workload import DispatchPlan, DraftPlan, ExpertLayer, ModelShape, Workload

NAME = "lower-to-tasks"


def run(module: ir.Module, trace: RoutingTrace) -> None:
    """Add `@round`.

    Raises:
        InputError: select-draft or, where experts are resident, partition-experts has not run.
    """
    refuse_second_run(has_function(module, "round"), NAME, "@round")
    for op, _ in find(module, DispatchPlan):
        op.operation.erase()
    undecided, cost = read_plan(module), AnalyticCost(read_machine(module))
    plan = choose_dispatch(undecided, trace, cost)
    rounds = take_rounds(trace, plan, "train", TRAINING_ROUNDS)
    append(module, plan.dispatch)
    for (op, _), layer in zip(expert_stores(module, NAME), plan.layers, strict=True):
        set_attribute(op, "needed_permille", tuple(layer.needed_permille.tolist()))
    write_round(module, build(plan, representative(rounds, plan), cost))


def read_plan(module: ir.Module) -> StaticPlan:
    """Read every static decision from the module.

    Raises:
        InputError: a pass that decides has not run.
    """
    workload, plan = only(module, Workload, NAME), only(module, DraftPlan, NAME)
    machine = read_machine(module)
    banks = machine.hb.banks if machine.hb else 0
    return StaticPlan(
        batch=workload.batch,
        context=workload.context,
        length=plan.length,
        bits=plan.bits,
        hidden=only(module, ModelShape, NAME).hidden,
        staging_bytes=plan.staging_bytes,
        parts=tuple(dense_parts(module, NAME)),
        layers=tuple(_placed(op, layer, banks) for op, layer in expert_stores(module, NAME)),
        dispatch=next((record for _, record in find(module, DispatchPlan)), NOTHING_AHEAD),
    )


def _placed(op: ir.OpView, layer: ExpertLayer, banks: int) -> PlacedLayer:
    if "residency" not in op.attributes:
        raise InputError(f"{NAME}: store '{layer.name}' has no 'residency'; run select-draft first")
    residency = np.array(list(op.attributes["residency"]), dtype=np.int64)
    replicas = replicas_of(op, layer)
    if any(copy[-1] >= banks for copies in replicas for copy in copies):
        raise InputError(f"{NAME}: store '{layer.name}' places experts beyond the last of {banks} banks")
    if any((level > 0) != (len(copies) > 0) for level, copies in zip(residency, replicas, strict=True)):
        raise InputError(f"{NAME}: store '{layer.name}' has residents without banks; run partition-experts first")
    needed = list(op.attributes["needed_permille"]) if "needed_permille" in op.attributes else [0] * layer.experts
    return PlacedLayer(layer, residency, replicas, np.array(needed, dtype=np.int64))


def write_round(module: ir.Module, graph: TaskGraph) -> None:
    """Write a task graph as function `@round`."""
    problem = graph.problem
    with module.context, ir.Location.unknown(), ir.InsertionPoint(module.body):
        body = func.FuncOp("round", ir.FunctionType.get([], [])).add_entry_block()
        token, handle = sched.Token.get(), sched.Handle.get()
        with ir.InsertionPoint(body):
            buffers = {b.resource for b in problem.buffers} | {
                n for n, name in enumerate(problem.names) if name == "staging"
            }
            resources = [
                sched.ResourceOp(
                    name=to_attribute(name),
                    kind=to_attribute("buffer" if number in buffers else "unit"),
                    capacity=to_attribute(problem.capacities[number]),
                    result=handle,
                ).result
                for number, name in enumerate(problem.names)
            ]
            done: list[ir.Value] = []
            for task, work in zip(problem.tasks, graph.work, strict=True):
                used = sorted({resource for mode in task.modes for resource, _ in mode.uses})
                uses = [tuple(dict(mode.uses).get(r, 0) for r in used) for mode in task.modes]
                op = sched.TaskOp(
                    [done[n] for n in task.after],
                    [resources[r] for r in used],
                    kind=to_attribute(work.kind),
                    step=to_attribute(work.step),
                    layer=to_attribute(work.layer),
                    expert=to_attribute(work.expert),
                    durations_ns=to_attribute(tuple(mode.duration for mode in task.modes)),
                    uses=ir.ArrayAttr.get([to_attribute(amounts) for amounts in uses]),
                    hb_read_bytes=to_attribute(work.hb_read_bytes),
                    hb_write_bytes=to_attribute(work.hb_write_bytes),
                    external_read_bytes=to_attribute(work.external_read_bytes),
                    link_bytes=to_attribute(work.link_bytes),
                    w4a8_macs=to_attribute(work.w4a8_macs),
                    w8a8_macs=to_attribute(work.w8a8_macs),
                    done=token,
                )
                if work.replaces >= 0:
                    set_attribute(op, "replaces", work.replaces)
                done.append(op.done)
            for buffer in problem.buffers:
                sched.BufferOp(
                    done[buffer.first],
                    done[buffer.last],
                    resources[buffer.resource],
                    amount=to_attribute(buffer.amount),
                )
            func.ReturnOp([])
