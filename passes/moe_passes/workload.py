"""What is compiled: the model's shape as the passes see it, the request, and the plan for the draft."""

from dataclasses import dataclass

ALIGNMENT_BYTES = 64
"""Staging slots begin at multiples of this."""
AUTO_LENGTH = -1
"""`Workload.draft_length` when select-draft chooses it."""


@dataclass(frozen=True)
class Workload:
    """The request.

    Attributes:
        batch: sequences decoded together.
        context: tokens already in the KV cache of each sequence.
        draft_length: γ, or `AUTO_LENGTH`.
        seed: of every solver.
        time_limit_seconds: solver budget in deterministic seconds.
    """

    batch: int
    context: int
    draft_length: int
    seed: int
    time_limit_seconds: float


@dataclass(frozen=True)
class ModelShape:
    """The model as a whole.

    Attributes:
        name: the name it was asked for by.
        architecture: model class, as in `config.json`.
        hidden: width of the residual stream.
        layers: decoder layers, MoE or not.
        vocabulary: rows of the head.
        total_parameters: all of them.
        embedding_parameters: of the input embedding.
        expert_bits: bits of a routed expert's weight in full precision, scales included.
        msb_bits: bits of its most significant slice, scales included.
    """

    name: str
    architecture: str
    hidden: int
    layers: int
    vocabulary: int
    total_parameters: int
    embedding_parameters: int
    expert_bits: float
    msb_bits: float


@dataclass(frozen=True)
class ExpertLayer:
    """The routed experts of one MoE layer, all of one shape.

    Attributes:
        name: symbol of the layer's expert store.
        layer: index of the decoder layer.
        experts: how many.
        top_k: experts a token is routed to.
        parameters: of one expert.
        msb_bytes: of one expert's most significant slice.
        residual_bytes: of the rest of it (0 where the weights cannot be sliced).
    """

    name: str
    layer: int
    experts: int
    top_k: int
    parameters: int
    msb_bytes: int
    residual_bytes: int

    @property
    def whole_bytes(self) -> int:
        """Bytes of one expert in full precision."""
        return self.msb_bytes + self.residual_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes of a staging slot: half an expert, or a residual slice; all of an expert that has no slices."""
        size = max(self.residual_bytes, -(-self.whole_bytes // 2)) if self.residual_bytes else self.whole_bytes
        return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    @property
    def staged_bytes(self) -> int:
        """Bytes that a whole expert takes in staging."""
        return (2 if self.residual_bytes else 1) * self.slot_bytes


@dataclass(frozen=True)
class DensePart:
    """Everything of one decoder layer (or the head) that every token runs through.

    Attributes:
        layer: index of the decoder layer; `ModelShape.layers` for the head.
        weight_bytes: quantised weights.
        macs_per_token: multiply-accumulates on those weights, per token.
        gathered_elements: output elements per token that are gathered over the aggregation link.
        kv_elements: cached elements per token of context.
        window: attention window in tokens, 0 for all of the context.
        attention_macs: multiply-accumulates per token and token of context.
    """

    layer: int
    weight_bytes: int
    macs_per_token: int
    gathered_elements: int
    kv_elements: int
    window: int
    attention_macs: int

    def kv_bytes(self, context: int) -> int:
        """Bytes of this part's FP16 KV cache of one sequence."""
        return 2 * self.kv_elements * (min(context, self.window) if self.window else context)


@dataclass(frozen=True)
class ProfileRecord:
    """Which routing trace was compiled against.

    Attributes:
        name: shipped name or file name.
        kind: `real` or `synthetic`.
        sha256: of the trace's arrays.
        draft_routing: `measured`, or `assumed` where the draft's routing was modelled.
    """

    name: str
    kind: str
    sha256: str
    draft_routing: str


@dataclass(frozen=True)
class DraftPlan:
    """What select-draft decided, besides the residency that each expert store carries.

    Attributes:
        length: γ; 0 is plain decoding.
        bits: bits of a weight that the draft computes with.
        expert_fraction: resident experts over all experts.
        acceptance_rate: expected α.
        break_even_acceptance: the α at which drafting is as fast as plain decoding; above 1, it cannot pay.
        acceptance_source: where α comes from.
        staging_bytes: bytes of HB for prefetched slices.
        expert_bytes: bytes of HB left for experts.
        dense_bytes: bytes of HB taken by dense weights.
        kv_bytes: bytes of HB taken by the KV cache.
    """

    length: int
    bits: int
    expert_fraction: float
    acceptance_rate: float
    break_even_acceptance: float
    acceptance_source: str
    staging_bytes: int
    expert_bytes: int
    dense_bytes: int
    kv_bytes: int


@dataclass(frozen=True)
class DispatchPlan:
    """How loads are started in a round that is not known in advance: chosen on training rounds by lower-to-tasks.

    Attributes:
        sure_permille: experts that verify needed in at least so many of 1,000 training rounds are loaded from the start
            of every round; above 1,000, none.
        least_permille: an expert that draft tokens asked for is prefetched if it is then needed with at least this
            likelihood; above 1,000, never.
        likelihood_permille: of experts in training rounds, by the classes of `lower_to_tasks.likelihood`.
        order: of loads that may start: `program` (by layer), `ready` (as they were asked for) or `likelihood`.
        engine: of an expert: the fastest that is `free`, or always the `first` (near memory, on the preferred replica).
    """

    sure_permille: int
    least_permille: int
    likelihood_permille: tuple[int, ...]
    order: str
    engine: str


@dataclass(frozen=True)
class SolverRecord:
    """One solver call, as every output reports it.

    Attributes:
        pass_name: the pass.
        instance: what was solved, for people.
        status: `optimal`, `feasible` or `not-needed`.
        objective: seconds (or bytes for allocate-staging).
        lower_bound: proved bound on the objective.
        greedy: the greedy baseline's objective.
        seed: seed of the call.
        unit: unit of the three figures.
    """

    pass_name: str
    instance: str
    status: str
    objective: float
    lower_bound: float
    greedy: float
    seed: int
    unit: str

    @property
    def gap(self) -> float:
        """(objective − bound) / objective, 0 where both are 0."""
        return gap(self.objective, self.lower_bound)


def gap(objective: float, lower_bound: float) -> float:
    """Return (objective − bound) / objective, 0 where the objective is 0."""
    return (objective - lower_bound) / objective if objective else 0.0
