"""verify-plan on IR: checks a complete plan, changes nothing."""

from torch_mlir import ir

from moe_passes.dialects.module import expert_stores, find, only, read_machine, replicas_of
from moe_passes.dialects.round import Round, read_round
from moe_passes.errors import InputError
from moe_passes.verify_plan.check import Facts, NeededBytes, PlannedBuffer, PlannedTask, violations
from moe_passes.workload import DraftPlan, ExpertLayer, ModelShape, Workload

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
        work = round_.work[number]
        tasks.append(
            PlannedTask(
                name=_name(round_, number),
                kind=work.kind,
                step=work.step,
                layer=work.layer,
                expert=work.expert,
                start=schedule.starts[number],
                duration=mode.duration,
                uses=tuple((round_.problem.names[r], amount) for r, amount in mode.uses),
                after=task.after,
                external_bytes=work.external_read_bytes,
                hb_bytes=work.hb_read_bytes + (work.hb_write_bytes if work.kind == "write" else 0),
                macs=work.w8a8_macs + work.w4a8_macs / 2,
                replaces=work.replaces,
            )
        )
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
    wrong = violations(tasks, buffers, _needs(module, round_), capacities, _facts(module))
    if wrong:
        more = [f"and {len(wrong) - MOST_SHOWN} more"] if len(wrong) > MOST_SHOWN else []
        raise InputError("\n  ".join([f"{NAME}: the plan is wrong:", *wrong[:MOST_SHOWN], *more]))


def _name(round_: Round, number: int) -> str:
    work = round_.work[number]
    expert = f" expert {work.expert}" if work.expert >= 0 else ""
    return f"task {number} ({work.kind}, step {work.step}, layer {work.layer}{expert})"


def _facts(module: ir.Module) -> Facts:
    machine, draft = read_machine(module), only(module, DraftPlan, NAME)
    tokens = only(module, Workload, NAME).batch * (draft.length + 1)
    banks = machine.hb.banks if machine.hb else 0
    held, resident, routed = [0.0] * banks, 0, {}
    residents: dict[int, frozenset[int]] = {}
    for op, layer in expert_stores(module, NAME):
        routed[layer.layer] = (layer.top_k, min(layer.experts, tokens * layer.top_k))
        levels = list(op.attributes["residency"]) if "residency" in op.attributes else []
        sizes = [(0, layer.msb_bytes, layer.whole_bytes)[level] for level in levels]
        resident += sum(sizes)
        residents[layer.layer] = frozenset(expert for expert, level in enumerate(levels) if level)
        for expert, copies in enumerate(replicas_of(op, layer)):
            for copy in copies:
                for bank in copy:
                    held[bank % banks] += sizes[expert] / len(copy)
    used = draft.dense_bytes + draft.kv_bytes + draft.staging_bytes + resident
    return Facts(
        layers=only(module, ModelShape, NAME).layers,
        routed=routed,
        draft_length=draft.length,
        external_bytes_per_second=machine.external.bytes_per_second,
        hb_bytes_per_second=machine.hb.bytes_per_second if machine.hb else 0.0,
        macs_per_second=machine.engine.w8a8_macs_per_second,
        staging_bytes=draft.staging_bytes,
        hb_bytes=machine.hb.capacity_bytes if machine.hb else 0,
        hb_used_bytes=used if machine.hb else 0,
        bank_bytes=tuple(held),
        bank_capacity_bytes=draft.expert_bytes / banks if banks else 0.0,
        residents=residents,
    )


def _needs(module: ir.Module, round_: Round) -> list[NeededBytes]:
    """List what every expert computation and write needs, from the expert stores and the machine alone."""
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
        elif work.kind == "write":
            needs.append(NeededBytes(number, resident.get((work.layer, work.replaces), 0), 0, 0))
    return needs
