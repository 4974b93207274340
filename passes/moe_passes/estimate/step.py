"""What a step of a model costs on a chain of memories: a closed form, without a schedule.

A step reads its dense weights and its KV cache near, and of every MoE layer the distinct experts that its tokens chose:
near ones where they lie, others are loaded over the links, or computed by the engine of the memory that they lie in.
Each part takes the larger of bytes over bandwidth and work over rate; parts follow each other, as they do without a
schedule that overlaps them. Fixed times of the engines are added (DESIGN section 7).
"""

from dataclasses import dataclass

from moe_passes.estimate.dense import ATTENTION_BITS
from moe_passes.plan.formats import Format
from moe_passes.plan.round import BYTES_PER_ACTIVATION
from moe_passes.plan.tiers import Processor, Tiers


@dataclass(frozen=True)
class Size:
    """Of a model, in a format.

    Attributes:
        hidden: width of the residual stream.
        layers: decoder layers.
        dense_weights: of all layers and the head, read by every step.
        dense_bytes: of those.
        embedding_bytes: of the table that is looked up, a row a token.
        kv_bytes: of one sequence's cache.
        attention_macs: per token, at the context.
        expert_weights: of one expert.
        expert_bytes: of one expert.
        sliced_expert_bytes: of its most significant slice; 0 where there is none.
        experts: of all layers.
    """

    hidden: int
    layers: int
    dense_weights: int
    dense_bytes: float
    embedding_bytes: float
    kv_bytes: float
    attention_macs: int
    expert_weights: int
    expert_bytes: float
    sliced_expert_bytes: float
    experts: int


@dataclass(frozen=True)
class Choices:
    """Of a step, on the mean over rounds of a trace and summed over layers.

    Attributes:
        near: distinct experts that lie near.
        far: distinct experts that lie in the next memory.
        deep: distinct experts that lie in the one after.
        uses: of experts by tokens, however many are the same.
        missing_layers: layers with an expert that is not near.
    """

    near: float
    far: float
    deep: float
    uses: float
    missing_layers: float

    @property
    def distinct(self) -> float:
        """Distinct experts in all."""
        return self.near + self.far + self.deep


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by what they are spent on.

    Attributes:
        fixed: of engines, whatever the step does.
        near: reading or computing near.
        far: reading or computing where an expert lies far, and bringing activations there and back.
        load: bringing experts near.
        limited_by: what most of the time goes to.
    """

    fixed: float
    near: float
    far: float
    load: float
    limited_by: str

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.fixed + self.near + self.far + self.load


def step_time(
    machine: Tiers, size: Size, of: Format, tokens: int, batch: int, chosen: Choices, loads: bool
) -> StepTime:
    """Time a step.

    Args:
        machine: the memories.
        size: of the model.
        of: its format.
        tokens: of all sequences.
        batch: sequences.
        chosen: which experts the tokens chose, by where those lie.
        loads: whether experts that are not near are loaded; else the engine of the far memory computes them.
    """
    near = machine.near.engine
    assert near is not None
    missing = chosen.far + chosen.deep
    share = chosen.uses / chosen.distinct if chosen.distinct else 0.0
    here = chosen.distinct if loads else chosen.near
    read = size.dense_bytes + batch * size.kv_bytes + here * size.expert_bytes
    projected = tokens * size.dense_weights / near.rate(of.dense, tokens)
    attended = tokens * size.attention_macs / near.rate(ATTENTION_BITS, tokens)
    routed = here * share * size.expert_weights / near.rate(of.experts, share)
    reading, computing = read / near.bytes_per_second, projected + attended + routed
    fixed = near.step_seconds + tokens * near.width_seconds
    fixed += size.layers * near.layer_seconds + here * near.expert_seconds
    far = load = 0.0
    if missing and loads:
        load = sum(n * machine.load_seconds(t, size.expert_bytes) for t, n in ((1, chosen.far), (2, chosen.deep)) if n)
    elif missing:
        engine = machine.tiers[1].engine
        assert engine is not None
        far = _far_seconds(machine, engine, size, of, tokens, share, chosen)
        fixed += chosen.missing_layers * engine.layer_seconds + missing * engine.expert_seconds
    parts = {
        "fixed times": fixed,
        f"reading {machine.near.name}" if reading >= computing else f"computing on {near.name}": max(
            reading, computing
        ),
    }
    if load:
        parts[f"loading over {machine.ways[0].name}"] = load
    if far:
        parts[f"computing where experts lie, {machine.tiers[1].name}"] = far
    return StepTime(fixed, max(reading, computing), far, load, max(parts, key=lambda name: parts[name]))


def _far_seconds(
    machine: Tiers,
    engine: Processor,
    size: Size,
    of: Format,
    tokens: int,
    share: float,
    chosen: Choices,
) -> float:
    computed = share * size.expert_weights / engine.rate(of.experts, share)
    each = max(size.expert_bytes / engine.bytes_per_second, computed)
    seconds = chosen.far * each
    if chosen.deep:
        # What lies deeper comes out of there as it is computed.
        tier, way = machine.tiers[2], machine.ways[1]
        rate = min(tier.bytes_per_second, way.bytes_per_second)
        seconds += chosen.deep * max(each, tier.latency_seconds + way.latency_seconds + size.expert_bytes / rate)
    # The residual stream goes there and comes back, once a layer.
    moved = 2 * tokens * size.hidden * BYTES_PER_ACTIVATION / machine.ways[0].bytes_per_second
    return seconds + chosen.missing_layers * (moved + 2 * machine.ways[0].latency_seconds)
