"""Reading and writing values in an MLIR module: the only place that knows where each one stands."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch_mlir import ir

from moe_passes.estimate.cost import CostModel
from moe_passes.estimate.registry import cost_model
from moe_passes.ir.dialects import VERSION, VERSION_ATTRIBUTE
from moe_passes.ir.dialects import machine as machine_ops
from moe_passes.ir.dialects import model as model_ops
from moe_passes.ir.dialects import request as request_ops
from moe_passes.ir.dialects.base import Open, WrongError
from moe_passes.ir.records import array, from_operation, symbol_ref, to_attribute, to_attributes
from moe_passes.plan.decisions import (
    ALL,
    FROZEN,
    MSB,
    Banks,
    DispatchPlan,
    DraftPlan,
    HotSetRule,
    Likelihoods,
    Replicas,
    SolverRecord,
)
from moe_passes.plan.errors import InputError
from moe_passes.plan.machine import Engine, FarEngine, Link, Machine, Memory
from moe_passes.plan.model import ExpertLayer, ModelShape, TracedLayers
from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.request import MeasuredAcceptance, ProfileRecord, Request

R = TypeVar("R")
Store = tuple[ir.OpView, ExpertLayer]

RECORDS: dict[type, type] = {
    Request: request_ops.RequestOp,
    ModelShape: model_ops.ModelOp,
    TracedLayers: model_ops.TracedLayersOp,
    ProfileRecord: request_ops.ProfileOp,
    ExpertLayer: model_ops.ExpertStoreOp,
    MeasuredAcceptance: request_ops.AcceptanceOp,
    DraftPlan: request_ops.DraftOp,
    HotSetRule: request_ops.HotSetOp,
    Memory: machine_ops.MemoryOp,
    Engine: machine_ops.EngineOp,
    FarEngine: machine_ops.FarEngineOp,
    Link: machine_ops.LinkOp,
}
"""The operation that carries each record, in the order in which they stand in a module."""


ALIASES = re.compile(r"^#loc.*", re.MULTILINE)
NOWHERE = "#loc = loc(unknown)"
INSTALLED = r'/[^"]*?/(?:site-packages/|(?=moe_compiler/))'
"""Where packages are installed: left out of locations, so that two machines write the same."""


def stamp(module: ir.Module) -> None:
    """Say the version of the dialects in a module."""
    with module.context, ir.Location.unknown():
        module.operation.attributes[VERSION_ATTRIBUTE] = to_attribute(VERSION)


def text_of(module: ir.Module) -> str:
    """Print a module with its locations, so that decisions can be traced to lines of the model."""
    text = str(module.operation.get_asm(enable_debug_info=True))
    if ALIASES.findall(text) == [NOWHERE]:
        # Stripped of locations (`strip-debuginfo`): then nothing is said of them, for tools that do not read them.
        return str(module)
    return re.sub(rf'loc\("{INSTALLED}', 'loc("', text)


def top_level(module: ir.Module) -> Iterator[ir.OpView]:
    """Iterate over the operations of the module's body."""
    yield from module.body.operations


def _operation_name(record: type) -> str:
    return str(RECORDS[record].OPERATION_NAME)  # type: ignore[attr-defined]


def find(module: ir.Module, record: type[R]) -> list[tuple[ir.OpView, R]]:
    """Find every top-level operation that carries such a record, with the record."""
    name = _operation_name(record)
    return [(op, from_operation(record, op)) for op in top_level(module) if op.operation.name == name]


def only(module: ir.Module, record: type[R], needed_by: str = "") -> R:
    """Return the one record of its kind.

    Raises:
        InputError: there is none, or more than one.
    """
    found = find(module, record)
    if len(found) != 1:
        why = f" (needed by {needed_by})" if needed_by else ""
        raise InputError(f"module has {len(found)} '{_operation_name(record)}' operations{why}; valid: exactly one")
    return found[0][1]


def append(module: ir.Module, record: object) -> ir.OpView:
    """Append a record to the module: before the first function, after the records already there."""
    operation = RECORDS[type(record)]
    with module.context, ir.Location.unknown():
        attributes = to_attributes(record, operation)
        if isinstance(record, ExpertLayer):
            attributes |= dict.fromkeys(("residency", "placement", "needed"), Open.get())
        # The builder takes an empty array for a missing attribute, so it is set afterwards.
        empty = [
            name for name, value in attributes.items() if isinstance(value, ir.DenseI64ArrayAttr) and not len(value)
        ]
        op = _place(module, operation, attributes | {name: ir.UnitAttr.get() for name in empty})
        for name in empty:
            op.attributes[name] = attributes[name]
        return op


def _place(module: ir.Module, operation: type, attributes: dict[str, ir.Attribute]) -> ir.OpView:
    """Make an operation before the first function, where sets of banks stand before what names them."""
    with module.context, ir.Location.unknown():
        anchor = next((op for op in top_level(module) if op.operation.name in ("func.func", "builtin.module")), None)
        place = ir.InsertionPoint(anchor) if anchor is not None else ir.InsertionPoint(module.body)
        return operation(**attributes, ip=place)


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


def plain_body(op: ir.OpView, arguments: int, where: str) -> None:
    """Refuse a function of several blocks, or with other arguments than it should have.

    Raises:
        InputError: it is one.
    """
    blocks = list(op.regions[0].blocks)
    if len(blocks) != 1 or len(blocks[0].arguments) != arguments:
        raise InputError(
            f"{where} has {len(blocks)} blocks and {len(blocks[0].arguments)} arguments; valid: 1 and {arguments}"
        )


def has_function(module: ir.Module, name: str) -> bool:
    """Say whether the module has a function of that name."""
    return any(op.operation.name == "func.func" and op.attributes["sym_name"].value == name for op in top_level(module))


def line_of(op: ir.OpView) -> str:
    """Return the line behind an operation as `file:line`; empty where it has none.

    Of nested locations, the innermost line of the model's own code counts, else the innermost; less where its package
    is installed.
    """
    lines = re.findall(r'"([^"]+)":(\d+):\d+', str(op.location))
    lines = [(file, line) for file, line in lines if file != "-"]
    own = [pair for pair in lines if "/models/" in pair[0]]
    return re.sub(f"^{INSTALLED}", "", ":".join((own or lines)[0])) if lines else ""


# Expert stores and what is decided about them.


def expert_stores(module: ir.Module, needed_by: str) -> list[Store]:
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


def residency_of(store: Store, needed_by: str) -> npt.NDArray[np.int64]:
    """Return what HB keeps of each expert: [expert].

    Raises:
        InputError: that is open.
    """
    op, layer = store
    kept = model_ops.read_residency(op)
    if kept is None:
        raise InputError(f"{needed_by}: residency of @{layer.name} is open; run select-draft first")
    levels = np.zeros(layer.experts, dtype=np.int64)
    levels[list(kept[0])], levels[list(kept[1])] = MSB, ALL
    return levels


def deep_of(store: Store) -> npt.NDArray[np.bool_]:
    """Return which experts lie in the deep memory alone, or beside what HB keeps of them: [expert]."""
    kept = model_ops.read_residency(store[0])
    deep = np.zeros(store[1].experts, dtype=np.bool_)
    deep[list(kept[2] if kept else ())] = True
    return deep


def write_residency(store: Store, levels: npt.NDArray[np.int64], deep: npt.NDArray[np.bool_] | None = None) -> None:
    """Decide residency, and which experts the far memory does not hold: as before where that is not said."""
    deep = deep_of(store) if deep is None else deep
    kept = {name: tuple(np.flatnonzero(levels == level).tolist()) for name, level in (("msb", MSB), ("whole", ALL))}
    if deep.any():
        kept["deep"] = tuple(np.flatnonzero(deep).tolist())
    with store[0].operation.context, ir.Location.unknown():
        values = ir.DictAttr.get({name: to_attribute(experts) for name, experts in kept.items()})
        store[0].attributes["residency"] = model_ops.Residency.get(values)


def is_placed(store: Store) -> bool:
    """Say whether the placement of a store is decided."""
    return not isinstance(store[0].attributes["placement"].maybe_downcast(), Open)


def replicas_of(module: ir.Module, store: Store) -> Replicas:
    """Return the banks of every replica of every expert of a store; none where nothing is placed."""
    op, layer = store
    sets = bank_sets(module)
    copies: list[list[Banks]] = [[] for _ in range(layer.experts)]
    for expert, name in model_ops.read_placement(op):
        copies[expert].append(sets[name])
    return tuple(tuple(replicas) for replicas in copies)


def bank_sets(module: ir.Module) -> dict[str, Banks]:
    """Return the sets of banks that placements name."""
    found = (op for op in top_level(module) if op.operation.name == "moe.bank_set")
    return {op.attributes["sym_name"].value: tuple(op.attributes["banks"]) for op in found}


def write_placement(module: ir.Module, stores: Sequence[Store], placements: Sequence[Replicas]) -> None:
    """Decide placements; each set of banks is named once."""
    names = {banks: name for name, banks in bank_sets(module).items()}
    first = stores[0][0]
    for (op, _), replicas in zip(stores, placements, strict=True):
        pairs = [(expert, banks) for expert, copies in enumerate(replicas) for banks in copies]
        for _, banks in pairs:
            if banks not in names:
                names[banks] = f"banks{len(names)}"
                with module.context, ir.Location.unknown():
                    attributes = {"sym_name": to_attribute(names[banks]), "banks": to_attribute(banks)}
                    machine_ops.BankSetOp(**attributes, ip=ir.InsertionPoint(first))
        with module.context, ir.Location.unknown():
            written = [model_ops.Replica.get(to_attribute(expert), symbol_ref(names[banks])) for expert, banks in pairs]
            op.attributes["placement"] = model_ops.Placement.get(array(written))


def write_needed(store: Store, shares: npt.NDArray[np.int64]) -> None:
    """Note in how many of 1,000 training rounds verify needed each expert."""
    with store[0].operation.context, ir.Location.unknown():
        store[0].attributes["needed"] = model_ops.Permille.get(to_attribute(tuple(shares.tolist())))


def placed_layers(module: ir.Module, needed_by: str) -> tuple[PlacedLayer, ...]:
    """Return every MoE layer with what is decided about it.

    Raises:
        InputError: a decision is open, places are beyond the machine's banks, or a resident has no place.
    """
    banks = read_machine(module).hb.banks
    return tuple(_placed(module, store, banks, needed_by) for store in expert_stores(module, needed_by))


def _placed(module: ir.Module, store: Store, banks: int, needed_by: str) -> PlacedLayer:
    op, layer = store
    residency, replicas = residency_of(store, needed_by), replicas_of(module, store)
    if any(copy[-1] >= banks for copies in replicas for copy in copies):
        raise InputError(f"{needed_by}: @{layer.name} places experts beyond the last of {banks} banks")
    if any((level > 0) != (len(copies) > 0) for level, copies in zip(residency, replicas, strict=True)):
        raise InputError(
            f"{needed_by}: @{layer.name} has residents without banks, or banks without residents; valid: run "
            "partition-experts first"
        )
    needed = model_ops.read_needed(op) or (0,) * layer.experts
    return PlacedLayer(layer, residency, replicas, np.array(needed, dtype=np.int64), deep_of(store))


# The dispatcher's plan.


def dispatch_plan(module: ir.Module) -> DispatchPlan | None:
    """Return the dispatcher's plan, None where it is open.

    Raises:
        InputError: there are several.
    """
    found = [op for op in top_level(module) if op.operation.name == "moe.dispatch"]
    if len(found) > 1:
        raise InputError(f"module has {len(found)} 'moe.dispatch' operations; valid: at most one")
    if not found:
        return None
    at = found[0].attributes
    share, recent, asks = (tuple(at[name]) for name in ("share_borders", "recent_borders", "ask_borders"))
    values = request_ops.read_likelihoods(at["likelihoods"], [len(share) + 1, len(recent) + 1, len(asks) + 1])
    return DispatchPlan(
        at["sure_permille"].value,
        at["least_permille"].value,
        Likelihoods(share, recent, asks, values),
        at["order"].value,
        at["engine"].value,
        at["most_far_tokens"].value,
        at["late"].value,
    )


def hot_set_rule(module: ir.Module) -> HotSetRule:
    """Return how residents follow the routing; where nothing says so, they stay as they are.

    Raises:
        InputError: there are several rules.
    """
    rules = [rule for _, rule in find(module, HotSetRule)]
    if len(rules) > 1:
        raise InputError(f"module has {len(rules)} 'moe.hot_set' operations; valid: at most one")
    return rules[0] if rules else FROZEN


def _nested(table: npt.NDArray[np.int64]) -> ir.Attribute:
    """Write a table [share, recent, asks] as arrays of arrays: a large tensor would be printed as bytes."""
    return array([array([to_attribute(tuple(cell)) for cell in row]) for row in table.tolist()])


def write_dispatch_plan(module: ir.Module, plan: DispatchPlan) -> None:
    """Decide the dispatcher's plan."""
    table = plan.likelihoods
    with module.context, ir.Location.unknown():
        attributes = {
            "sure_permille": to_attribute(plan.sure_permille),
            "least_permille": to_attribute(plan.least_permille),
            "order": to_attribute(plan.order),
            "engine": to_attribute(plan.engine),
            "most_far_tokens": to_attribute(plan.most_far_tokens),
            "late": to_attribute(plan.late),
            "share_borders": to_attribute(table.share_borders),
            "recent_borders": to_attribute(table.recent_borders),
            "ask_borders": to_attribute(table.ask_borders),
            "likelihoods": _nested(np.reshape(table.permille, table.shape)),
        }
    _place(module, request_ops.DispatchOp, attributes)


# What a run reported: module attributes, one a pass.


def write_records(module: ir.Module, pass_name: str, records: Sequence[SolverRecord]) -> None:
    """Say what the solver calls of a pass reported, in place of what an earlier run of it said."""
    with module.context, ir.Location.unknown():
        calls = [
            ir.DictAttr.get({name: to_attribute(getattr(record, name)) for name in request_ops.RUN_FIELDS})
            for record in records
        ]
        module.operation.attributes[f"moe.run.{pass_name}"] = request_ops.Run.get(array(calls))


def solver_records(module: ir.Module) -> list[SolverRecord]:
    """Return what all passes reported, passes by name.

    Raises:
        InputError: a record is malformed.
    """
    records = []
    for name in module.operation.attributes:
        prefix, _, pass_name = name.partition("moe.run.")
        if not prefix and pass_name:
            try:
                calls = request_ops.read_run(module.operation.attributes[name], f"attribute '{name}'")
            except WrongError as error:
                raise InputError(str(error)) from None
            records += [SolverRecord(pass_name=pass_name, **call) for call in calls]
    return records


# The machine.


def write_machine(module: ir.Module, machine: Machine) -> None:
    """Append the `@target` module that describes the machine."""
    with module.context, ir.Location.unknown(), ir.InsertionPoint(module.body):
        target = ir.Operation.create("builtin.module", regions=1, attributes={"sym_name": ir.StringAttr.get("target")})
        body = target.regions[0].blocks.append()
        with ir.InsertionPoint(body):
            head = machine_ops.MachineOp(
                name=to_attribute(machine.name),
                static_watts=to_attribute(machine.static_watts),
                overrides=array([ir.UnitAttr.get()]),
            )
            # The builder takes an empty array for a missing attribute, so it is set afterwards.
            head.attributes["overrides"] = array([ir.StringAttr.get(t) for t in machine.overrides])
            engines = (machine.engine, machine.far_engine)
            links = (machine.aggregation, machine.streamline, machine.deep_link)
            memories = (machine.hb, None if machine.is_unified else machine.external, machine.deep)
            for part in (*memories, *engines, *links):
                if part is not None:
                    operation = RECORDS[type(part)]
                    # Its own builder takes an empty array for a missing attribute.
                    name: str = operation.OPERATION_NAME  # type: ignore[attr-defined]
                    ir.Operation.create(name, attributes=to_attributes(part, operation))


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
    far = [from_operation(FarEngine, p) for p in parts.get("moe.far_engine", [])]
    heads = parts.get("moe.machine", [])
    if "hb" not in memories or {"aggregation", "streamline"} - set(links) or len(engines) != 1 or len(heads) != 1:
        raise InputError("'@target' needs one machine, memory 'hb', one engine, links 'aggregation' and 'streamline'")
    if len(far) > 1:
        raise InputError(f"'@target' has {len(far)} 'moe.far_engine' operations; valid: at most one")
    return Machine(
        name=heads[0].attributes["name"].value,
        external=memories.get("external") or memories["hb"],
        hb=memories["hb"],
        engine=engines[0],
        aggregation=links["aggregation"],
        streamline=links["streamline"],
        static_watts=heads[0].attributes["static_watts"].value,
        overrides=tuple(a.maybe_downcast().value for a in heads[0].attributes["overrides"]),
        far_engine=far[0] if far else None,
        deep=memories.get("deep"),
        deep_link=links.get("deep_link"),
    )


def read_cost(module: ir.Module, needed_by: str = "") -> CostModel:
    """Make the cost model that the request names, for the machine of the module.

    Raises:
        InputError: the request or the machine is missing.
    """
    return cost_model(only(module, Request, needed_by).cost_model, read_machine(module))


def attributes_of(values: dict[str, Any]) -> dict[str, ir.Attribute]:
    """Turn plain values into attributes; needs a current MLIR context."""
    return {name: to_attribute(value) for name, value in values.items()}
