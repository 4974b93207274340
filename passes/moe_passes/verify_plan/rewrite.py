"""verify-plan on IR: checks a complete plan, changes nothing."""

from torch_mlir import ir

from moe_passes.dialects.module import find, read_machine
from moe_passes.dialects.round import Round, read_round
from moe_passes.errors import InputError
from moe_passes.verify_plan.check import NeededBytes, PlannedBuffer, PlannedTask, violations
from moe_passes.workload import ExpertLayer

NAME = "verify-plan"
MOST_SHOWN = 10


def run(module: ir.Module) -> None:
    """Check the plan.

    Raises:
        InputError: the plan is wrong, or a pass that makes it has not run.
    """
    round_ = read_round(module, NAME)
    schedule = round_.schedule(NAME)
    tasks = []
    for number, task in enumerate(round_.problem.tasks):
        mode = task.modes[schedule.modes[number]]
        uses = tuple((round_.problem.names[r], amount) for r, amount in mode.uses)
        tasks.append(PlannedTask(_name(round_, number), schedule.starts[number], mode.duration, uses, task.after))
    buffers = [
        PlannedBuffer(
            b.first,
            b.last,
            b.amount,
            op.attributes["offset_bytes"].value if "offset_bytes" in op.attributes else None,
        )
        for b, op in zip(round_.problem.buffers, round_.buffer_ops, strict=True)
    ]
    capacities = dict(zip(round_.problem.names, round_.problem.capacities, strict=True))
    wrong = violations(tasks, buffers, _needs(module, round_), capacities, "staging")
    if wrong:
        more = [f"and {len(wrong) - MOST_SHOWN} more"] if len(wrong) > MOST_SHOWN else []
        raise InputError("\n  ".join([f"{NAME}: the plan is wrong:", *wrong[:MOST_SHOWN], *more]))


def _name(round_: Round, number: int) -> str:
    work = round_.work[number]
    expert = f" expert {work.expert}" if work.expert >= 0 else ""
    return f"task {number} ({work.kind}, step {work.step}, layer {work.layer}{expert})"


def _needs(module: ir.Module, round_: Round) -> list[NeededBytes]:
    """List what every expert computation needs, from the expert stores and the machine alone."""
    streams = read_machine(module).hb is None
    resident: dict[tuple[int, int], int] = {}
    whole: dict[int, int] = {}
    for op, layer in find(module, ExpertLayer):
        whole[layer.layer] = layer.whole_bytes
        if "residency" in op.attributes:
            for expert, level in enumerate(op.attributes["residency"]):
                resident[layer.layer, expert] = (0, layer.msb_bytes, layer.whole_bytes)[level]
    needs = []
    for number, work in enumerate(round_.work):
        if work.kind == "expert":
            streamed = work.external_read_bytes if streams else 0
            there = resident.get((work.layer, work.expert), 0)
            needs.append(NeededBytes(number, whole[work.layer], there, streamed))
    return needs
