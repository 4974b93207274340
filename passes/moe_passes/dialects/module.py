"""Reading and writing our records in an MLIR module: the only place that knows where each one stands."""

from collections.abc import Iterator
from dataclasses import fields
from typing import TypeVar

from torch_mlir import ir

from moe_passes.dialects import moe
from moe_passes.dialects.records import from_operation, to_attribute, to_attributes
from moe_passes.dialects.replicas import Banks, unflatten
from moe_passes.errors import InputError
from moe_passes.machine import Engine, Link, Machine, Memory
from moe_passes.workload import (
    DensePart,
    DispatchPlan,
    DraftPlan,
    ExpertLayer,
    ModelShape,
    ProfileRecord,
    SolverRecord,
    Workload,
)

R = TypeVar("R")

RECORDS: dict[type, type] = {
    Workload: moe.WorkloadOp,
    ModelShape: moe.ModelOp,
    ProfileRecord: moe.ProfileOp,
    ExpertLayer: moe.ExpertStoreOp,
    DraftPlan: moe.DraftOp,
    DispatchPlan: moe.DispatchOp,
    SolverRecord: moe.SolverOp,
    Memory: moe.MemoryOp,
    Engine: moe.EngineOp,
    Link: moe.LinkOp,
}
"""The operation that carries each record, in the order in which they stand in a module."""


def top_level(module: ir.Module) -> Iterator[ir.OpView]:
    """Iterate over the operations of the module's body."""
    yield from module.body.operations


def find(module: ir.Module, record: type[R]) -> list[tuple[ir.OpView, R]]:
    """Find every top-level operation that carries such a record, with the record."""
    name = RECORDS[record].OPERATION_NAME  # type: ignore[attr-defined]
    return [(op, from_operation(record, op)) for op in top_level(module) if op.operation.name == name]


def expert_stores(module: ir.Module, needed_by: str) -> list[tuple[ir.OpView, ExpertLayer]]:
    """Return the expert stores with their operations, in the order of their layers.

    Raises:
        InputError: there is none, or their layers are not layers of the model in ascending order.
    """
    found = find(module, ExpertLayer)
    if not found:
        raise InputError(f"{needed_by}: module has no expert store; run raise-moe first")
    layers = [layer.layer for _, layer in found]
    count = only(module, ModelShape, needed_by).layers
    if layers != sorted(set(layers)) or layers[-1] >= count:
        raise InputError(f"{needed_by}: expert stores are of layers {layers}; valid: ascending, below {count}")
    return found


def refuse_second_run(done: bool, name: str, wrote: str) -> None:
    """Refuse to run a pass on what it has already made.

    Raises:
        InputError: `done` holds.
    """
    if done:
        raise InputError(f"{name} has already run on this module (it holds {wrote}); valid: an earlier snapshot")


def drop_solver_records(module: ir.Module, pass_name: str) -> None:
    """Forget what an earlier run of a pass reported, before it runs anew."""
    for op, record in find(module, SolverRecord):
        if record.pass_name == pass_name:
            op.operation.erase()


def has_function(module: ir.Module, name: str) -> bool:
    """Say whether the module has a function of that name."""
    return any(op.operation.name == "func.func" and op.attributes["sym_name"].value == name for op in top_level(module))


def only(module: ir.Module, record: type[R], needed_by: str = "") -> R:
    """Return the one record of its kind.

    Raises:
        InputError: there is none, or more than one.
    """
    found = find(module, record)
    if len(found) != 1:
        name = RECORDS[record].OPERATION_NAME  # type: ignore[attr-defined]
        why = f" (needed by {needed_by})" if needed_by else ""
        raise InputError(f"module has {len(found)} '{name}' operations{why}; valid: exactly one")
    return found[0][1]


def append(module: ir.Module, record: object) -> ir.OpView:
    """Append a record to the module: before the first function, after the records already there."""
    with module.context, ir.Location.unknown():
        anchor = next((op for op in top_level(module) if op.operation.name in ("func.func", "builtin.module")), None)
        place = ir.InsertionPoint(anchor) if anchor is not None else ir.InsertionPoint(module.body)
        return RECORDS[type(record)](**to_attributes(record), ip=place)


def replicas_of(op: ir.OpView, layer: ExpertLayer) -> tuple[tuple[Banks, ...], ...]:
    """Return the banks of every replica of every expert of a store; none where nothing is placed."""
    flat = list(op.attributes["replicas"]) if "replicas" in op.attributes else []
    return unflatten(flat, layer.experts)


def set_attribute(op: ir.OpView, name: str, value: object) -> None:
    """Set a decision on an operation."""
    with op.operation.context:
        op.attributes[name] = to_attribute(value)


def function(module: ir.Module, name: str, needed_by: str) -> ir.OpView:
    """Return the function of that name.

    Raises:
        InputError: the module has no such function.
    """
    for op in top_level(module):
        if op.operation.name == "func.func" and op.attributes["sym_name"].value == name:
            if not op.regions[0].blocks:
                raise InputError(f"{needed_by}: @{name} has no body")
            return op
    raise InputError(f"{needed_by}: module has no function @{name}; run the passes that make it first")


def write_machine(module: ir.Module, machine: Machine) -> None:
    """Append the `@target` module that describes the machine."""
    with module.context, ir.Location.unknown(), ir.InsertionPoint(module.body):
        target = ir.Operation.create("builtin.module", regions=1, attributes={"sym_name": ir.StringAttr.get("target")})
        body = target.regions[0].blocks.append()
        with ir.InsertionPoint(body):
            head = moe.MachineOp(
                name=to_attribute(machine.name),
                static_watts=to_attribute(machine.static_watts),
                overrides=ir.ArrayAttr.get([ir.UnitAttr.get()]),
            )
            # The builder takes an empty array for a missing attribute, so it is set afterwards.
            head.attributes["overrides"] = ir.ArrayAttr.get([ir.StringAttr.get(t) for t in machine.overrides])
            for part in (
                machine.hb,
                machine.external,
                machine.engine,
                machine.aggregation,
                machine.streamline,
            ):
                if part is not None:
                    RECORDS[type(part)](**to_attributes(part))


def read_machine(module: ir.Module) -> Machine:
    """Read the machine back from the `@target` module.

    Raises:
        InputError: there is no such module, or a part is missing.
    """
    for op in top_level(module):
        named = op.operation.name == "builtin.module" and "sym_name" in op.attributes
        if named and op.attributes["sym_name"].value == "target":
            break
    else:
        raise InputError("module has no '@target' module that describes the machine")
    parts: dict[str, list[ir.OpView]] = {}
    for part in op.regions[0].blocks[0]:
        parts.setdefault(part.operation.name, []).append(part)
    memories = {m.name: m for m in (from_operation(Memory, p) for p in parts.get("moe.memory", []))}
    links = {m.name: m for m in (from_operation(Link, p) for p in parts.get("moe.link", []))}
    engines = [from_operation(Engine, p) for p in parts.get("moe.engine", [])]
    heads = parts.get("moe.machine", [])
    if "external" not in memories or {"aggregation", "streamline"} - set(links) or len(engines) != 1 or not heads:
        raise InputError("'@target' needs a machine, memory 'external', one engine, two links")
    return Machine(
        name=heads[0].attributes["name"].value,
        external=memories["external"],
        hb=memories.get("hb"),
        engine=engines[0],
        aggregation=links["aggregation"],
        streamline=links["streamline"],
        static_watts=heads[0].attributes["static_watts"].value,
        overrides=tuple(a.value for a in heads[0].attributes["overrides"]),
    )


def dense_parts(module: ir.Module, needed_by: str) -> list[DensePart]:
    """Sum the dense work of the draft step per layer; the head is the last entry.

    The verify step has the same parts: it is the same model.
    """
    model = only(module, ModelShape, needed_by)
    summed = {layer: dict.fromkeys((f.name for f in fields(DensePart)), 0) for layer in range(model.layers + 1)}
    for op in function(module, "draft_step", needed_by).regions[0].blocks[0]:
        name = op.operation.name
        if name not in ("moe.attention", "moe.router", "moe.mlp", "moe.head"):
            continue
        layer = op.attributes["layer"].value if "layer" in op.attributes else model.layers
        if layer not in summed:
            raise InputError(f"{needed_by}: a {name} is of layer {layer}; the model has {model.layers} layers")
        entry = summed[layer]
        for attribute in op.attributes:
            key = attribute if isinstance(attribute, str) else attribute.name
            if key in entry and key != "layer":
                entry[key] += op.attributes[key].value
        entry["layer"] = layer
    for layer, entry in summed.items():
        entry["layer"] = layer
    return [DensePart(**summed[layer]) for layer in range(model.layers + 1)]
