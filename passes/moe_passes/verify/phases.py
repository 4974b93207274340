"""That the two phases are those of the model: every layer once, the draft on residents, verify on all experts."""

from collections import Counter

from moe_passes.plan.phase import MSB_SLICE, Operation, Phase
from moe_passes.verify.plan import Plan


def violations(plan: Plan) -> list[str]:
    """Return everything that is wrong with the phases and with how decisions agree with the request."""
    wrong = _layers(plan, plan.verify_phase) + _experts(plan, plan.verify_phase)
    for op in running(plan.verify_phase):
        if op.kind == "experts" and op.slice == MSB_SLICE:
            wrong.append(f"@{plan.verify_phase.name}: experts of @{op.store} compute on slices; valid: whole experts")
        if op.kind == "experts" and _router(plan.verify_phase, op)[1]:
            wrong.append(
                f"@{plan.verify_phase.name}: experts of @{op.store} are restricted; valid: what the router chose"
            )
    if plan.draft.length:
        wrong += _layers(plan, plan.draft_phase) + _experts(plan, plan.draft_phase) + _restricted(plan)
        wrong += _same_mixers(plan)
    if plan.request.draft_length not in (-1, plan.draft.length):
        wrong.append(f"the draft is {plan.draft.length} long; {plan.request.draft_length} was asked for")
    return wrong


def running(phase: Phase) -> list[Operation]:
    """Return the operations that run."""
    return [phase.operations[number] for number in sorted(needed_by_result(phase))]


def needed_by_result(phase: Phase) -> set[int]:
    """Return the numbers of what runs: what the result needs, and what writes a KV cache or a state."""
    needed: set[int] = set()
    stack = [phase.result, *(n for n, op in enumerate(phase.operations) if op.kind in ("attention", "mixer"))]
    while stack:
        number = stack.pop()
        if number not in needed:
            needed.add(number)
            stack += phase.operations[number].operands
    return needed


def _layers(plan: Plan, phase: Phase) -> list[str]:
    found = [op.part.layer for op in running(phase) if op.part is not None and op.kind != "head"]
    layers, wrong = set(range(plan.model.layers)), []
    missing, beyond = sorted(layers - set(found)), sorted(set(found) - layers)
    if missing:
        wrong.append(f"@{phase.name} has nothing of layers {missing[:20]}; valid: each of {len(layers)}")
    if beyond:
        wrong.append(f"@{phase.name} has work of layers {beyond[:20]}; the model has {len(layers)}")
    twice = sorted(key for key, count in Counter(_mixers(phase)).items() if count > 1)
    return wrong + [f"@{phase.name} has the {kind} of layer {layer} twice" for kind, layer in twice]


def _same_mixers(plan: Plan) -> list[str]:
    """Both phases mix tokens by the same attentions and other mixers."""
    draft, verify = (sorted(set(_mixers(phase))) for phase in (plan.draft_phase, plan.verify_phase))
    lacking = sorted(set(draft) ^ set(verify))
    return [f"only one of the phases has the {kind} of layer {layer}" for kind, layer in lacking[:20]]


def _mixers(phase: Phase) -> list[tuple[str, int]]:
    return [
        (op.kind, op.part.layer) for op in running(phase) if op.kind in ("attention", "mixer") and op.part is not None
    ]


def _experts(plan: Plan, phase: Phase) -> list[str]:
    found = [op.store for op in running(phase) if op.kind == "experts"]
    return [f"@{phase.name} computes the experts of @{name} twice" for name in set(found) if found.count(name) > 1]


def _restricted(plan: Plan) -> list[str]:
    wrong = []
    for op in running(plan.draft_phase):
        if op.kind == "experts":
            stores = _router(plan.draft_phase, op)[1]
            if set(stores) != {op.store}:
                to = ", ".join(f"@{store}" for store in stores) or "nothing"
                wrong.append(
                    f"@{plan.draft_phase.name}: the routing of @{op.store} is restricted to residents of {to}; "
                    f"valid: of @{op.store}"
                )
    return wrong


def _router(phase: Phase, op: Operation) -> tuple[Operation, list[str]]:
    """Return the router that experts listen to, and the stores that its choice is restricted to."""
    stores = []
    source = phase.operations[op.operands[1]]
    while source.kind == "restrict":
        stores.append(source.store)
        source = phase.operations[source.operands[0]]
    return source, stores
