"""That HB and external memory hold what they are said to hold, and that every resident has a place in the banks."""

from moe_passes.plan.decisions import ALL, MSB, shared_banks
from moe_passes.plan.phase import MSB_SLICE
from moe_passes.verify.phases import running
from moe_passes.verify.plan import Plan

FULL_BITS = 8
DRAFT_BITS = (4, FULL_BITS)
"""Of a weight: its most significant nibble, or whole."""


def violations(plan: Plan) -> list[str]:
    """Return everything that is wrong with residency, placement and the sharing out of memory."""
    return _far(plan) + _shared_out(plan) + _slices(plan) + _banks(plan)


def _embedding(plan: Plan) -> int:
    return round(plan.model.embedding_parameters * plan.model.embedding_bits / 8)


def _far(plan: Plan) -> list[str]:
    if not plan.prices.space().far_bytes:
        partly = [layer.shape.name for layer in plan.layers if (layer.residency != ALL).any()]
        return [f"@{name} has experts that are not near, and there is no other memory" for name in partly]
    deep = [0 if layer.deep is None else int(layer.deep.sum()) for layer in plan.layers]
    everything = sum(layer.shape.experts * layer.shape.whole_bytes for layer in plan.layers) + _embedding(plan)
    needed = everything - sum(n * layer.shape.whole_bytes for n, layer in zip(deep, plan.layers, strict=True))
    if any(deep) and everything > plan.prices.space().deep_bytes:
        return [f"the deep memory is to hold {everything} bytes and has {plan.prices.space().deep_bytes}"]
    available = plan.prices.space().far_bytes
    return [f"external memory is to hold {needed} bytes and has {available}"] if needed > available else []


def _dense_and_cache(plan: Plan) -> tuple[int, int]:
    parts = [op.part for op in running(plan.verify_phase) if op.part is not None]
    context, batch, cache = plan.request.context, plan.request.batch, 0
    banks = plan.prices.space().banks
    for part in parts:
        seen = min(context, part.window) if part.window else context
        filled = (plan.draft.kv_banks or banks) * batch * part.kv_heads
        copies = max(1, banks // filled) if filled else 1
        cache += (2 * part.kv_elements * seen + part.state_bytes) * batch * copies
    return sum(part.weight_bytes for part in parts), cache


def _shared_out(plan: Plan) -> list[str]:
    draft, near = plan.draft, plan.prices.space().near_bytes
    dense, cache = _dense_and_cache(plan)
    wrong = []
    if (draft.dense_bytes, draft.kv_bytes) != (dense, cache):
        wrong.append(
            f"the draft plan sets {draft.dense_bytes} and {draft.kv_bytes} bytes aside for dense weights and KV cache; "
            f"@{plan.verify_phase.name} takes {dense} and {cache}"
        )
    others = 0 if plan.prices.space().far_bytes else _embedding(plan)
    if draft.dense_bytes + draft.kv_bytes + draft.staging_bytes + draft.expert_bytes + others > near:
        wrong.append(f"the draft plan shares out more than the {near} bytes of HB")
    fixed = plan.prices.space().staging_bytes
    if draft.length and 0 <= fixed != draft.staging_bytes:
        wrong.append(f"the draft plan stages {draft.staging_bytes} bytes; the machine sets {fixed} aside")
    if draft.length and draft.dense_bits < FULL_BITS and plan.model.dense_msb_bits >= plan.model.dense_bits:
        wrong.append(f"the draft computes with slices of dense weights, which {plan.model.format} does not have")
    if draft.length and draft.bits not in DRAFT_BITS:
        wrong.append(f"the draft computes with {draft.bits} bits; valid: {' or '.join(map(str, DRAFT_BITS))}")
    banks = plan.prices.space().banks
    if draft.kv_banks and banks % draft.kv_banks:
        wrong.append(
            f"the KV cache is striped over {draft.kv_banks} banks; valid: a number that {banks} banks divide by"
        )
    if draft.length and draft.dense_bits not in DRAFT_BITS:
        wrong.append(
            f"the draft's dense weights have {draft.dense_bits} bits; valid: {' or '.join(map(str, DRAFT_BITS))}"
        )
    residents = sum(int((layer.residency > 0).sum()) for layer in plan.layers)
    share = residents / sum(layer.shape.experts for layer in plan.layers)
    if abs(share - draft.expert_fraction) > 1e-9:
        wrong.append(f"the draft plan says that {draft.expert_fraction} of the experts are resident; {share} are")
    return wrong


def _slices(plan: Plan) -> list[str]:
    """The draft computes with what of residents HB has: slices, or whole experts."""
    wrong = []
    operations = {op.store: op for op in running(plan.draft_phase) if op.kind == "experts"}
    for layer in plan.layers:
        op = operations.get(layer.shape.name)
        if op is None:
            continue
        level = MSB if op.slice == MSB_SLICE else ALL
        # A resident that is kept whole has the slice too.
        if any(have not in (0, level, ALL) for have in layer.residency):
            wrong.append(f"@{layer.shape.name}: the draft computes with '{op.slice}', and residents are something else")
        if (plan.draft.bits == FULL_BITS) != (level == ALL) and layer.shape.residual_bytes and layer.residency.any():
            wrong.append(f"@{layer.shape.name}: a draft of {plan.draft.bits} bits does not compute with '{level}'")
    return wrong


def _banks(plan: Plan) -> list[str]:
    banks, wrong = plan.prices.space().banks, []
    held = [0.0] * banks
    for layer in plan.layers:
        name = layer.shape.name
        if len(layer.replicas) != layer.shape.experts or len(layer.residency) != layer.shape.experts:
            wrong.append(f"@{name}: {len(layer.replicas)} of {layer.shape.experts} experts are placed")
            continue
        for expert, copies in enumerate(layer.replicas):
            size = layer.shape.resident_bytes(int(layer.residency[expert]))
            if bool(size) != bool(copies):
                wrong.append(f"@{name}: expert {expert} has {size} resident bytes and {len(copies)} replicas")
            if shared_banks(copies):
                wrong.append(f"@{name}: expert {expert} has several replicas in banks {list(shared_banks(copies)[:8])}")
            for copy in copies:
                if not copy or list(copy) != sorted(set(copy)) or copy[0] < 0 or copy[-1] >= banks:
                    wrong.append(
                        f"@{name}: expert {expert} lies in banks {list(copy)}; valid: 0 to {banks - 1}, each once"
                    )
                    continue
                for bank in copy:
                    held[bank] += size / len(copy)
    capacity = plan.draft.expert_bytes / banks
    for bank, total in enumerate(held):
        # Parts are equal shares of whole bytes: each may round by less than one byte a layer.
        if total > capacity + len(plan.layers):
            wrong.append(f"bank {bank} is to hold {total:.0f} bytes of experts and has {capacity:.0f}")
    return wrong
