"""The `sched` dialect: one round as a resource-constrained project scheduling problem, and its solution.

The round is the body of `@round`: resources first, then tasks in program order. A task's operands are the tasks it
waits for and the resources it may use; its modes are alternatives. Decisions are attributes: `start_ns` and
`mode` on tasks (schedule-round), `offset_bytes` on buffers (allocate-staging).
"""

from collections.abc import Sequence

from torch_mlir import ir
from torch_mlir.dialects import ext

from moe_passes.dialects.moe import DenseArray

LONGEST_NS = 10**13
"""Longest duration: some hours; sums over a round stay within 64 bits."""
KINDS = ("attention", "draft-experts", "load", "expert", "write", "gather", "head")
I64 = ir.IntegerAttr


class Sched(ext.Dialect, name="sched"):
    """Scheduling problems."""


class Token(Sched.Type, name="token"):
    """Completion of a task."""


class Handle(Sched.Type, name="handle"):
    """A resource, as an operand of the tasks that occupy it."""


def _fail(op: ir.OpView, message: str) -> bool:
    op.location.emit_error(f"'{op.operation.name}' op {message}")
    return False


class ResourceOp(Sched.Operation, name="resource"):
    """A resource with `capacity` units; time-shared (`kind = "unit"`) or held as bytes (`kind = "buffer"`)."""

    name: ir.StringAttr
    kind: ir.StringAttr
    capacity: I64
    result: ext.Result[Handle]

    def verify_invariants(self) -> bool:
        """A capacity is not negative."""
        if self.attributes["capacity"].value < 0:
            return _fail(self, "attribute 'capacity' is negative")
        return True


class TaskOp(Sched.Operation, name="task"):
    """A task with one or more modes.

    Mode m lasts `durations_ns[m]` and takes `uses[m][r]` units of the r-th resource operand. `kind` is `attention`,
    `draft-experts`, `load`, `expert`, `write`, `gather` or `head`; `step` is the draft step, or γ for verify; `expert`
    is −1 where the task is not about one. A `write` has the attribute `replaces`, the resident that gives way. Work is
    counted for energy and for the roofline.
    """

    after: Sequence[ext.Operand[Token]]
    resources: Sequence[ext.Operand[Handle]]
    kind: ir.StringAttr
    step: I64
    layer: I64
    expert: I64
    durations_ns: DenseArray
    uses: ir.ArrayAttr
    hb_read_bytes: I64
    hb_write_bytes: I64
    external_read_bytes: I64
    link_bytes: I64
    w4a8_macs: I64
    w8a8_macs: I64
    done: ext.Result[Token]

    def verify_invariants(self) -> bool:
        """Modes agree with the resource operands; durations are not negative."""
        sizes = list(self.attributes["operandSegmentSizes"])
        durations = list(self.attributes["durations_ns"])
        uses = [list(mode) for mode in self.attributes["uses"]]
        if not durations or any(not 0 <= d <= LONGEST_NS for d in durations):
            return _fail(self, f"attribute 'durations_ns' needs one duration from 0 to {LONGEST_NS} for each mode")
        if self.attributes["kind"].value not in KINDS:
            return _fail(self, f"attribute 'kind' must be one of {', '.join(KINDS)}")
        if len(uses) != len(durations) or any(len(mode) != sizes[1] for mode in uses):
            return _fail(self, f"attribute 'uses' needs {len(durations)} modes of {sizes[1]} amounts")
        if (self.attributes["kind"].value == "write") != ("replaces" in self.attributes):
            return _fail(self, "attribute 'replaces' belongs to a task of kind 'write'")
        if "mode" in self.attributes and not 0 <= self.attributes["mode"].value < len(durations):
            return _fail(self, "attribute 'mode' names a mode that does not exist")
        if "start_ns" in self.attributes and self.attributes["start_ns"].value < 0:
            return _fail(self, "attribute 'start_ns' is negative")
        return True


class BufferOp(Sched.Operation, name="buffer"):
    """`amount` bytes of a buffer resource, held from the start of the first task to the end of the second."""

    first: ext.Operand[Token]
    last: ext.Operand[Token]
    resource: ext.Operand[Handle]
    amount: I64

    def verify_invariants(self) -> bool:
        """A buffer holds at least one byte."""
        if self.attributes["amount"].value < 1:
            return _fail(self, "attribute 'amount' must be at least 1")
        return True
