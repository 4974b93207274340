"""`@round` in a module: writing a task graph with the routing behind it, reading it back, and the decisions on it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from torch_mlir import ir
from torch_mlir.dialects import func

from moe_passes.ir.dialects import sched
from moe_passes.ir.dialects.request import read_tensor, tensor_shape
from moe_passes.ir.module import expert_stores, function, has_function, line_of, only, plain_body
from moe_passes.ir.records import array, symbol_ref, tensor, to_attribute
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer, ModelShape
from moe_passes.plan.round import Buffer, LayerRouting, Mode, Schedule, SteadyState, Task, Traffic, Work
from moe_passes.routing.rounds import RoundRouting
from moe_passes.solve.rcpsp.problem import Problem
from moe_passes.tasks.problem import TaskGraph

ROUND = "round"
STAGING = "staging"
NOBODY = -1


@dataclass(frozen=True)
class Round:
    """`@round` as values.

    Attributes:
        problem: the scheduling problem.
        work: of every task.
        routing: behind it, by expert store.
        task_ops: the operations, in the order of the problem's tasks.
        buffer_ops: the operations, in the order of the problem's buffers.
        steady: the steady state, where it is decided.
    """

    problem: Problem
    work: tuple[Work, ...]
    routing: dict[str, LayerRouting]
    task_ops: tuple[ir.OpView, ...]
    buffer_ops: tuple[ir.OpView, ...]
    steady: SteadyState | None

    def schedule(self, needed_by: str) -> Schedule:
        """Return the schedule that schedule-round wrote.

        Raises:
            InputError: a task has none.
        """
        slots = [op.attributes["slot"].maybe_downcast() for op in self.task_ops]
        if any(isinstance(slot, sched.Open) for slot in slots):
            raise InputError(f"{needed_by}: a task of @round has no slot; run schedule-round first")
        return _schedule(slots)

    def offsets(self, needed_by: str) -> list[int]:
        """Return the staging addresses that allocate-staging wrote.

        Raises:
            InputError: a buffer has none.
        """
        addresses = [op.attributes["address"].maybe_downcast() for op in self.buffer_ops]
        if any(isinstance(address, sched.Open) for address in addresses):
            raise InputError(f"{needed_by}: a buffer of @round has no address; run allocate-staging first")
        return [_number(address.offset_bytes) for address in addresses]


def _number(attribute: ir.Attribute) -> int:
    return int(attribute.maybe_downcast().value)


def _schedule(slots: Sequence[sched.Slot]) -> Schedule:
    return Schedule(tuple(_number(s.start_ns) for s in slots), tuple(_number(s.mode) for s in slots))


def round_operations(module: ir.Module) -> list[ir.OpView]:
    """Return the operations of `@round`; none where there is none."""
    if not has_function(module, ROUND):
        return []
    return list(function(module, ROUND, "").regions[0].blocks[0])


def read_round(module: ir.Module, needed_by: str) -> Round:
    """Read `@round`.

    Raises:
        InputError: there is none, or it is not a valid problem.
    """
    plain_body(function(module, ROUND, needed_by), 0, f"{needed_by}: @{ROUND}")
    reader = _Reader(module, needed_by)
    for op in round_operations(module):
        reader.add(op)
    return reader.round()


class _Reader:
    """Reads operation after operation."""

    def __init__(self, module: ir.Module, needed_by: str) -> None:
        self.needed_by = needed_by
        self.layers = {layer.name: layer for _, layer in expert_stores(module, needed_by)}
        self.head = only(module, ModelShape, needed_by).layers
        self.names: list[str] = []
        self.capacities: list[int] = []
        self.kinds: list[str] = []
        self.handles: dict[ir.Value, int] = {}
        self.done: dict[ir.Value, int] = {}
        self.tasks: list[Task] = []
        self.work: list[Work] = []
        self.routing: dict[str, LayerRouting] = {}
        self.task_ops: list[ir.OpView] = []
        self.buffers: list[Buffer] = []
        self.buffer_ops: list[ir.OpView] = []
        self.steady: SteadyState | None = None

    def add(self, op: ir.OpView) -> None:
        """Read one operation."""
        name = op.operation.name
        if name == "sched.routing":
            store = op.attributes["store"].value
            self._once(store not in self.routing, f"routing of @{store}")
            self.routing[store] = _layer_routing(op)
        elif name == "sched.resource":
            self.handles[op.operation.results[0]] = len(self.names)
            self.names.append(op.attributes["name"].value)
            self.capacities.append(op.attributes["capacity"].value)
            self.kinds.append(op.attributes["kind"].value)
        elif name == "sched.task":
            self.done[op.operation.results[0]] = len(self.tasks)
            self.tasks.append(self._task(op))
            self.work.append(self._work(op))
            self.task_ops.append(op)
        elif name == "sched.buffer":
            first, last, resource = op.operation.operands
            amount = op.attributes["amount"].value
            self.buffers.append(Buffer(self.handles[resource], amount, self.done[first], self.done[last]))
            self.buffer_ops.append(op)
        elif name == "sched.steady":
            self._once(self.steady is None, "steady state")
            self.steady = self._steady(op)
        elif name != "func.return":
            raise InputError(f"{self.needed_by}: @{ROUND} holds '{name}'; valid: operations of the sched dialect")

    def round(self) -> Round:
        """Return what was read.

        Raises:
            InputError: it is not a valid problem.
        """
        held = {buffer.resource for buffer in self.buffers}
        used = {resource for task in self.tasks for mode in task.modes for resource, _ in mode.uses}
        for number, kind in enumerate(self.kinds):
            if number in (used if kind == "buffer" else held):
                raise InputError(
                    f"{self.needed_by}: '{self.names[number]}' is of kind \"{kind}\" and is "
                    f"{'used by tasks' if kind == 'buffer' else 'held across tasks'}; valid: the other kind"
                )
        problem = Problem(tuple(self.capacities), tuple(self.names), tuple(self.tasks), tuple(self.buffers))
        return Round(problem, tuple(self.work), self.routing, tuple(self.task_ops), tuple(self.buffer_ops), self.steady)

    def _once(self, is_first: bool, what: str) -> None:
        if not is_first:
            raise InputError(f"{self.needed_by}: @{ROUND} has a second {what}; valid: one")

    def _task(self, op: ir.OpView) -> Task:
        operands = list(op.operation.operands)
        resources = [self.handles[v] for v in operands if v in self.handles]
        modes = tuple(
            Mode(duration, tuple((r, a) for r, a in zip(resources, amounts, strict=True) if a))
            for duration, amounts in sched.read_modes(op)
        )
        return Task(modes, tuple(self.done[v] for v in operands if v in self.done))

    def _work(self, op: ir.OpView) -> Work:
        what, step = op.attributes["work"].maybe_downcast(), op.attributes["step"].value
        traffic, where = sched.read_traffic(op), line_of(op)
        if isinstance(what, sched.Head):
            return Work("head", step, self.head, traffic=traffic, where=where)
        if isinstance(what, sched.Dense):
            return Work("attention", step, _number(what.layer), traffic=traffic, where=where)
        layer = self._layer(what.store.maybe_downcast().value)
        if isinstance(what, sched.DraftExperts):
            pairs = zip(what.experts.maybe_downcast(), what.replicas.maybe_downcast(), strict=False)
            return Work("draft-experts", step, layer, traffic=traffic, served=tuple(pairs), where=where)
        if isinstance(what, sched.Gather):
            return Work("gather", step, layer, traffic=traffic, where=where)
        expert = _number(what.expert)
        kind = {sched.Load: "load", sched.Expert: "expert", sched.Write: "write"}[type(what)]
        replaces = _number(what.replaces) if isinstance(what, sched.Write) else -1
        return Work(kind, step, layer, expert, traffic, replaces, where=where)

    def _layer(self, store: str) -> int:
        if store not in self.layers:
            raise InputError(f"{self.needed_by}: a task of @{ROUND} refers to @{store}; valid: an expert store")
        return self.layers[store].layer

    def _steady(self, op: ir.OpView) -> SteadyState:
        slots = [slot.maybe_downcast() for slot in op.attributes["slots"]]
        return SteadyState(
            op.attributes["period_ns"].value,
            op.attributes["lower_bound_ns"].value,
            tuple(self.done[value] for value in op.operation.operands),
            _schedule(slots) if slots else None,
        )


def _layer_routing(op: ir.OpView) -> LayerRouting:
    def values(name: str) -> np.ndarray:
        found = op.attributes[name]
        return np.reshape(read_tensor(found, name, None, NOBODY, 2**31), tensor_shape(found)).astype(np.int64)

    swaps = [swap.maybe_downcast() for swap in op.attributes["promoted"]]
    pairs = tuple((_number(swap.expert), _number(swap.replaces)) for swap in swaps)
    return LayerRouting(values("verify"), values("asked"), values("drafted"), pairs)


def write_round(module: ir.Module, graph: TaskGraph, routing: RoundRouting, stores: Sequence[ExpertLayer]) -> None:
    """Write a task graph, and the routing that it is made from, as function `@round`."""
    with module.context, ir.Location.unknown(), ir.InsertionPoint(module.body):
        body = func.FuncOp(ROUND, ir.FunctionType.get([], [])).add_entry_block()
        with ir.InsertionPoint(body):
            for row, store in enumerate(stores):
                _write_routing(store, row, routing)
            _write_tasks(graph, {store.layer: store.name for store in stores})
            func.ReturnOp([])


def _write_routing(store: ExpertLayer, row: int, routing: RoundRouting) -> None:
    swaps = [sched.Swap.get(to_attribute(new), to_attribute(old)) for new, old in routing.promoted[row]]
    op = sched.RoutingOp(
        store=symbol_ref(store.name),
        verify=tensor(_ids(routing.verify[row], store.top_k)),
        asked=ir.UnitAttr.get(),
        drafted=ir.UnitAttr.get(),
        promoted=array([ir.UnitAttr.get()]),
    )
    # The builder takes what is empty for a missing attribute, so it is set afterwards.
    op.attributes["asked"] = tensor(_ids(routing.asked[:, row], store.top_k))
    op.attributes["drafted"] = tensor(_ids(routing.drafted[:, row], store.top_k))
    op.attributes["promoted"] = array(swaps)


def _ids(mask: np.ndarray, top_k: int) -> np.ndarray:
    """Turn a mask [..., expert] into ascending expert ids [..., k], `NOBODY` where there are fewer."""
    ids = np.argsort(~mask, axis=-1, kind="stable")[..., :top_k]
    return np.where(np.take_along_axis(mask, ids, axis=-1), ids, NOBODY)


def _write_tasks(graph: TaskGraph, stores: dict[int, str]) -> None:
    problem, token, handle = graph.problem, sched.Token.get(), sched.Handle.get()
    held = {b.resource for b in problem.buffers} | {n for n, name in enumerate(problem.names) if name == STAGING}
    resources = [
        sched.ResourceOp(
            name=to_attribute(name),
            kind=to_attribute("buffer" if number in held else "unit"),
            capacity=to_attribute(problem.capacities[number]),
            result=handle,
        ).result
        for number, name in enumerate(problem.names)
    ]
    done: list[ir.Value] = []
    for task, work in zip(problem.tasks, graph.work, strict=True):
        used = sorted({resource for mode in task.modes for resource, _ in mode.uses})
        op = sched.TaskOp(
            [done[n] for n in task.after],
            [resources[r] for r in used],
            work=_work_attribute(work, stores),
            step=to_attribute(work.step),
            modes=array([_mode_attribute(mode, used) for mode in task.modes]),
            traffic=_traffic_attribute(work.traffic),
            slot=sched.Open.get(),
            done=token,
            loc=_location(work.where),
        )
        done.append(op.done)
    for buffer in problem.buffers:
        sched.BufferOp(
            done[buffer.first],
            done[buffer.last],
            resources[buffer.resource],
            amount=to_attribute(buffer.amount),
            address=sched.Open.get(),
        )


def _location(where: str) -> ir.Location:
    file, _, line = where.rpartition(":")
    return ir.Location.file(file, int(line), 0) if file else ir.Location.unknown()


def _mode_attribute(mode: Mode, used: list[int]) -> ir.Attribute:
    amounts = dict(mode.uses)
    return sched.Mode.get(to_attribute(mode.duration), to_attribute(tuple(amounts.get(r, 0) for r in used)))


def _traffic_attribute(traffic: Traffic) -> ir.Attribute:
    amounts = {f.name: to_attribute(getattr(traffic, f.name)) for f in fields(Traffic) if getattr(traffic, f.name)}
    return sched.Amounts.get(ir.DictAttr.get(amounts))


def _work_attribute(work: Work, stores: dict[int, str]) -> ir.Attribute:
    if work.kind == "head":
        return sched.Head.get()
    if work.kind == "attention":
        return sched.Dense.get(to_attribute(work.layer))
    store = symbol_ref(stores[work.layer])
    if work.kind == "draft-experts":
        experts, replicas = (tuple(pair[n] for pair in work.served) for n in (0, 1))
        return sched.DraftExperts.get(store, to_attribute(experts), to_attribute(replicas))
    if work.kind == "gather":
        return sched.Gather.get(store)
    if work.kind == "write":
        return sched.Write.get(store, to_attribute(work.expert), to_attribute(work.replaces))
    kind = sched.Load if work.kind == "load" else sched.Expert
    return kind.get(store, to_attribute(work.expert))


def write_schedule(round_: Round, schedule: Schedule) -> None:
    """Decide when every task runs, and in which mode."""
    for op, start, mode in zip(round_.task_ops, schedule.starts, schedule.modes, strict=True):
        with op.operation.context, ir.Location.unknown():
            op.attributes["slot"] = sched.Slot.get(to_attribute(start), to_attribute(mode))


def write_offsets(round_: Round, offsets: Sequence[int]) -> None:
    """Decide where everything lies in staging."""
    for op, offset in zip(round_.buffer_ops, offsets, strict=True):
        with op.operation.context, ir.Location.unknown():
            op.attributes["address"] = sched.Address.get(to_attribute(offset))


def reopen(module: ir.Module) -> None:
    """Make open again what rests on the schedule of `@round`: addresses and the steady state."""
    with module.context, ir.Location.unknown():
        for op in round_operations(module):
            if op.operation.name == "sched.buffer":
                op.attributes["address"] = sched.Open.get()
            elif op.operation.name == "sched.steady":
                op.operation.erase()


def write_steady(module: ir.Module, round_: Round, steady: SteadyState) -> None:
    """Decide the steady state, in place of an earlier one."""
    for op in round_operations(module):
        if op.operation.name == "sched.steady":
            op.operation.erase()
    end = round_operations(module)[-1]
    with module.context, ir.Location.unknown():
        made = sched.SteadyOp(
            [round_.task_ops[number].operation.results[0] for number in steady.carried],
            period_ns=to_attribute(steady.period),
            lower_bound_ns=to_attribute(steady.lower_bound),
            slots=array([ir.UnitAttr.get()]),
            ip=ir.InsertionPoint(end),
        )
        schedule = steady.schedule
        slots = [] if schedule is None else list(zip(schedule.starts, schedule.modes, strict=True))
        made.attributes["slots"] = array([sched.Slot.get(to_attribute(s), to_attribute(m)) for s, m in slots])
