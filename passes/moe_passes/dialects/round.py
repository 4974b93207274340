"""Reading `@round` back: the scheduling problem, what each task does, and the decisions on it."""

from dataclasses import dataclass

from torch_mlir import ir

from moe_passes.dialects.module import function
from moe_passes.errors import InputError
from moe_passes.lower_to_tasks.problem import Work
from moe_passes.schedule_round.problem import Buffer, Mode, Problem, Schedule, Task


@dataclass(frozen=True)
class Round:
    """`@round` as values.

    Attributes:
        problem: the scheduling problem.
        work: of every task.
        task_ops: the operations, in the order of the problem's tasks.
        buffer_ops: the operations, in the order of the problem's buffers.
    """

    problem: Problem
    work: tuple[Work, ...]
    task_ops: tuple[ir.OpView, ...]
    buffer_ops: tuple[ir.OpView, ...]

    def schedule(self, needed_by: str) -> Schedule:
        """Return the schedule that schedule-round wrote.

        Raises:
            InputError: schedule-round has not run.
        """
        if any("start_ns" not in op.attributes or "mode" not in op.attributes for op in self.task_ops):
            raise InputError(f"{needed_by}: tasks have no 'start_ns'; run schedule-round first")
        return Schedule(
            tuple(op.attributes["start_ns"].value for op in self.task_ops),
            tuple(op.attributes["mode"].value for op in self.task_ops),
        )

    def offsets(self, needed_by: str) -> list[int]:
        """Return the staging addresses that allocate-staging wrote.

        Raises:
            InputError: allocate-staging has not run.
        """
        if any("offset_bytes" not in op.attributes for op in self.buffer_ops):
            raise InputError(f"{needed_by}: buffers have no 'offset_bytes'; run allocate-staging first")
        return [op.attributes["offset_bytes"].value for op in self.buffer_ops]


def read_round(module: ir.Module, needed_by: str) -> Round:
    """Read `@round`.

    Raises:
        InputError: there is none, or it is not a valid problem.
    """
    names: list[str] = []
    capacities: list[int] = []
    handles: dict[ir.Value, int] = {}
    done: dict[ir.Value, int] = {}
    tasks: list[Task] = []
    work: list[Work] = []
    task_ops, buffers, buffer_ops = [], [], []
    for op in function(module, "round", needed_by).regions[0].blocks[0]:
        name = op.operation.name
        if name == "sched.resource":
            handles[op.operation.results[0]] = len(names)
            names.append(op.attributes["name"].value)
            capacities.append(op.attributes["capacity"].value)
        elif name == "sched.task":
            done[op.operation.results[0]] = len(tasks)
            tasks.append(_task(op, handles, done))
            work.append(_work(op))
            task_ops.append(op)
        elif name == "sched.buffer":
            first, last, resource = op.operation.operands
            buffers.append(Buffer(handles[resource], op.attributes["amount"].value, done[first], done[last]))
            buffer_ops.append(op)
    problem = Problem(tuple(capacities), tuple(names), tuple(tasks), tuple(buffers))
    return Round(problem, tuple(work), tuple(task_ops), tuple(buffer_ops))


def _task(op: ir.OpView, handles: dict[ir.Value, int], done: dict[ir.Value, int]) -> Task:
    after, used = list(op.attributes["operandSegmentSizes"])
    operands = list(op.operation.operands)
    resources = [handles[v] for v in operands[after : after + used]]
    modes = tuple(
        Mode(duration, tuple((r, a) for r, a in zip(resources, amounts, strict=True) if a))
        for duration, amounts in zip(op.attributes["durations_ns"], op.attributes["uses"], strict=True)
    )
    return Task(modes, tuple(done[v] for v in operands[:after]))


def _work(op: ir.OpView) -> Work:
    attributes = op.attributes
    return Work(
        kind=attributes["kind"].value,
        replaces=attributes["replaces"].value if "replaces" in attributes else -1,
        **{
            name: attributes[name].value
            for name in (
                "step",
                "layer",
                "expert",
                "hb_read_bytes",
                "hb_write_bytes",
                "external_read_bytes",
                "link_bytes",
                "w4a8_macs",
                "w8a8_macs",
            )
        },
    )
