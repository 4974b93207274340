"""The `sched` dialect: one round as a resource-constrained project scheduling problem, and its solution.

The round is the body of `@round`: the routing that it is made from, resources, then tasks in program order, then what
is held across them. A task's operands are the tasks it waits for and the resources it may use; its modes are
alternatives; its location is the line of the model behind it. Decisions are declared: `slot` on tasks
(schedule-round), `address` on buffers (allocate-staging), `sched.steady` (steady-state).
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from moe_passes.ir.dialects.base import (
    I64,
    LARGEST,
    I64Array,
    Sched,
    SchedOperation,
    Symbol,
    WrongError,
    array,
    entries,
    integer,
    integers,
    symbol,
    value,
)
from moe_passes.ir.dialects.request import read_tensor, tensor_shape
from moe_passes.plan.request import DRAFT_LENGTH
from moe_passes.plan.round import LONGEST_NS, Traffic

RESOURCES = ("unit", "buffer")
"""Time-shared, or held as bytes."""
AMOUNTS = tuple(field.name for field in fields(Traffic))


class Open(Sched.Attribute, name="open"):
    """Not decided yet."""


class Token(Sched.Type, name="token"):
    """Completion of a task."""


class Handle(Sched.Type, name="handle"):
    """A resource, as an operand of the tasks that occupy it."""


class Dense(Sched.Attribute, name="dense"):
    """All dense work of a decoder layer."""

    layer: I64


class Head(Sched.Attribute, name="head"):
    """Final norm and the projection to the vocabulary."""


class DraftExperts(Sched.Attribute, name="draft_experts"):
    """The resident experts of a layer in a draft step: the distinct ones, and the replica that serves each."""

    store: Symbol
    experts: I64Array
    replicas: I64Array


class Load(Sched.Attribute, name="load"):
    """Bring what verify needs of an expert into staging."""

    store: Symbol
    expert: I64


class Expert(Sched.Attribute, name="expert"):
    """Compute an expert in verify."""

    store: Symbol
    expert: I64


class Write(Sched.Attribute, name="write"):
    """Write what the next hot set keeps of an expert over a resident."""

    store: Symbol
    expert: I64
    replaces: I64


class Gather(Sched.Attribute, name="gather"):
    """Gather the partial sums of a verify layer."""

    store: Symbol


class Mode(Sched.Attribute, name="mode"):
    """A way to run a task: nanoseconds, and units of each resource operand."""

    duration_ns: I64
    uses: I64Array


class Amounts(Sched.Attribute, name="traffic"):
    """Bytes and multiply-accumulates of a task (`plan.round.Traffic`); what is left out is 0."""

    amounts: ir.DictAttr


class Slot(Sched.Attribute, name="slot"):
    """When a task starts, and in which mode it runs."""

    start_ns: I64
    mode: I64


class Address(Sched.Attribute, name="address"):
    """Where a buffer lies in staging."""

    offset_bytes: I64


class Swap(Sched.Attribute, name="swap"):
    """An expert that the next hot set takes in, and the resident that gives way."""

    expert: I64
    replaces: I64


WORK = (Dense, Head, DraftExperts, Load, Expert, Write, Gather)


class RoutingOp(SchedOperation, name="routing"):
    """The routing of the round in a layer.

    `verify` is [token, k], the target model's choice for the batch·(γ + 1) verified tokens; `asked` is
    [step, batch, k], the draft router's; `drafted` the same after restriction, −1 where there are fewer residents.
    """

    store: Symbol
    verify: Any
    asked: Any
    drafted: Any
    promoted: ir.ArrayAttr

    def check(self) -> None:
        """Experts exist; promotions are swaps."""
        store = symbol(self, self.attributes["store"].value)
        if store is None or store.operation.name != "moe.expert_store":
            raise WrongError(f"refers to an expert store {self.attributes['store']} that does not exist")
        most = store.attributes["experts"].value - 1
        for name, least, rank in (("verify", 0, 2), ("asked", 0, 3), ("drafted", -1, 3)):
            read_tensor(self.attributes[name], f"attribute '{name}'", None, least, most)
            shape = tensor_shape(self.attributes[name])
            if len(shape) != rank or shape[-1] > store.attributes["top_k"].value:
                raise WrongError(
                    f"attribute '{name}' has shape {shape}; valid: {rank} dimensions, the last of up to top-k"
                )
        for swap in array(self.attributes["promoted"], "attribute 'promoted'"):
            if not isinstance(swap, Swap):
                raise WrongError(f"attribute 'promoted' holds {str(swap)[:60]}; valid: #sched.swap<expert, resident>")
            for number in (swap.expert, swap.replaces):
                integer(number, "attribute 'promoted'", 0, most)


class ResourceOp(SchedOperation, name="resource"):
    """A resource with `capacity` units; time-shared (`kind = "unit"`) or held as bytes (`kind = "buffer"`)."""

    name: ir.StringAttr
    kind: ir.StringAttr
    capacity: I64
    result: ext.Result[Handle]

    def check(self) -> None:
        """The kind is known."""
        if self.attributes["kind"].value not in RESOURCES:
            raise WrongError(f"attribute 'kind' is {self.attributes['kind']}; valid: {', '.join(RESOURCES)}")


class TaskOp(SchedOperation, name="task"):
    """A task with one or more modes; `step` is the draft step, or γ for verify."""

    after: Sequence[ext.Operand[Token]]
    resources: Sequence[ext.Operand[Handle]]
    work: Dense | Head | DraftExperts | Load | Expert | Write | Gather
    step: I64
    modes: ir.ArrayAttr
    traffic: Amounts
    slot: Open | Slot
    done: ext.Result[Token]

    RANGES = {"step": (0, DRAFT_LENGTH.high)}

    def check(self) -> None:
        """Modes agree with the resource operands; numbers are in range."""
        modes = read_modes(self)
        read_traffic(self)
        slot = self.attributes["slot"].maybe_downcast()
        if isinstance(slot, Slot):
            integer(slot.start_ns, "attribute 'slot': start_ns", 0, 1000 * LONGEST_NS)
            if integer(slot.mode, "attribute 'slot': mode", 0, LARGEST) >= len(modes):
                raise WrongError("attribute 'slot' names a mode that does not exist")
        _check_work(self, self.attributes["work"].maybe_downcast())


def _check_work(task: ir.OpView, work: ir.Attribute) -> None:
    """Stores and experts exist, and a draft's experts have a replica each."""
    if isinstance(work, Dense):
        integer(work.layer, "attribute 'work': layer", 0, LARGEST)
    if isinstance(work, Dense | Head):
        return
    name = value(work.store, "attribute 'work': store")
    store = symbol(task, name)
    if store is None or store.operation.name != "moe.expert_store":
        raise WrongError(f"attribute 'work' refers to @{name}; valid: a moe.expert_store")
    most = store.attributes["experts"].value - 1
    for field in ("expert", "replaces"):
        if hasattr(work, field):
            integer(getattr(work, field), f"attribute 'work': {field}", 0, most)
    if isinstance(work, DraftExperts):
        served = integers(work.experts, "attribute 'work': experts", 0, most)
        if len(integers(work.replicas, "attribute 'work': replicas", 0, LARGEST)) != len(served):
            raise WrongError("attribute 'work' names other than one replica for each expert")


def read_modes(task: ir.OpView) -> list[tuple[int, tuple[int, ...]]]:
    """Return (nanoseconds, units of each resource operand) of every mode.

    Raises:
        WrongError: malformed.
    """
    used = sum(isinstance(operand.type, Handle) for operand in task.operation.operands)
    modes = []
    for mode in array(task.attributes["modes"], "attribute 'modes'"):
        if not isinstance(mode, Mode):
            raise WrongError(f"attribute 'modes' holds {str(mode)[:60]}; valid: #sched.mode<nanoseconds, units>")
        uses = mode.uses.maybe_downcast()
        amounts = tuple(uses) if isinstance(uses, ir.DenseI64ArrayAttr) else ()
        if len(amounts) != used or any(amount < 0 for amount in amounts):
            raise WrongError(f"attribute 'modes' needs {used} amounts of 0 or more in each mode")
        modes.append((integer(mode.duration_ns, "attribute 'modes': duration", 0, LONGEST_NS), amounts))
    if not modes:
        raise WrongError("attribute 'modes' is empty; valid: at least one")
    return modes


def read_traffic(task: ir.OpView) -> Traffic:
    """Return the bytes and multiply-accumulates of a task.

    Raises:
        WrongError: malformed.
    """
    given = task.attributes["traffic"].maybe_downcast().amounts
    amounts = entries(given, "attribute 'traffic'", dict.fromkeys(AMOUNTS))
    return Traffic(**{name: integer(a, f"attribute 'traffic': {name}", 0, LARGEST) for name, a in amounts.items()})


class BufferOp(SchedOperation, name="buffer"):
    """`amount` bytes of a buffer resource, held from the start of the first task to the end of the second."""

    first: ext.Operand[Token]
    last: ext.Operand[Token]
    resource: ext.Operand[Handle]
    amount: I64
    address: Open | Address

    RANGES = {"amount": (1, LARGEST)}

    def check(self) -> None:
        """An address is not negative."""
        address = self.attributes["address"].maybe_downcast()
        if isinstance(address, Address):
            integer(address.offset_bytes, "attribute 'address'", 0, LARGEST)


class SteadyOp(SchedOperation, name="steady"):
    """Rounds that repeat: the period, the loads that run in the period before their round, and when all tasks run.

    `slots` holds one `#sched.slot` a task, relative to the start of the round, those of `carried` of the next round; it
    is empty where nothing crosses and each round runs as scheduled.
    """

    carried: Sequence[ext.Operand[Token]]
    period_ns: I64
    lower_bound_ns: I64
    slots: ir.ArrayAttr

    def check(self) -> None:
        """Slots are slots."""
        for slot in array(self.attributes["slots"], "attribute 'slots'"):
            if not isinstance(slot, Slot):
                raise WrongError(f"attribute 'slots' holds {str(slot)[:60]}; valid: #sched.slot<start, mode>")
            integer(slot.start_ns, "attribute 'slots': start_ns", 0, 1000 * LONGEST_NS)
            integer(slot.mode, "attribute 'slots': mode", 0, LARGEST)
