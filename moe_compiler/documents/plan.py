"""plan.json: every decision of a compilation."""

from typing import Annotated, Literal

from moe_passes.plan.request import BATCH, CONTEXT, DRAFT_LENGTH
from pydantic import Field

from moe_compiler.documents.base import Document, Positive, PositiveInt
from moe_compiler.documents.placement import MOST_BANKS, MOST_LAYERS, LayerEntry


class Profile(Document):
    """The routing trace that was compiled against."""

    name: str
    kind: Literal["real", "synthetic"]
    sha256: str
    draft_routing: Literal["measured", "assumed"]


class Draft(Document):
    """The draft plan."""

    length: Annotated[int, Field(ge=DRAFT_LENGTH.low, le=DRAFT_LENGTH.high)]
    bits: int
    dense_bits: int
    kv_banks: int
    expert_fraction: float
    staging_bytes: int


class Near(Document):
    """How HB is shared out."""

    dense_bytes: int
    kv_bytes: int
    staging_bytes: int
    expert_bytes: int


class Dispatch(Document):
    """The dispatcher's plan; likelihoods by [share, recent, asks], flattened, with the borders of their classes."""

    sure_permille: int
    least_permille: int
    order: Literal["program", "ready", "likelihood"]
    engine: Literal["free", "first"]
    most_far_tokens: int
    late: Literal["load", "stream"]
    likelihood_permille: list[int]
    likelihood_borders: list[list[int]]


class DispatchedLayer(LayerEntry):
    """A layer of a whole plan: `popularity` counts the training tokens that chose each expert."""

    needed_permille: list[Annotated[int, Field(ge=0, le=1000)]]
    deep: list[int]
    popularity: Annotated[list[Annotated[int, Field(ge=0, le=2**53)]], Field(default_factory=list)]


class Solver(Document):
    """What a solver said of its answer."""

    pass_name: Annotated[str, Field(alias="pass")]
    instance: str
    status: str
    objective: float
    lower_bound: float
    gap: float
    greedy: float
    seed: int
    unit: str
    limit: str = ""


class Weighed(Document):
    """A setting that select-draft weighed (`moe_passes.plan.accounts.Weighed`); seconds a token, null if not tried."""

    role: Literal["chosen", "greedy", "dispatched", "estimated"]
    length: int
    bits: int
    dense_bits: int
    staging_bytes: int
    kv_banks: int
    window_tokens: int
    most_swaps: int
    coverage_weight: float
    most_far_tokens: int
    expert_fraction: float
    coverage: float
    acceptance_rate: float
    round_tokens: float
    estimate_seconds: Positive
    seconds: Positive | None


class Criterion(Document):
    """By what HB's experts were chosen (`moe_passes.plan.accounts.Criterion`)."""

    top_k: PositiveInt
    tokens: PositiveInt
    slice_bytes: PositiveInt
    whole_bytes: PositiveInt
    coverage_weight: float
    load_seconds_per_byte: float
    load_latency_seconds: float
    computes_far: bool
    room_bytes: int
    price_seconds_per_byte: float


class Task(Document):
    """A task of the scheduled round."""

    id: int
    kind: str
    step: int
    layer: int
    expert: int | None
    start_seconds: float
    seconds: float
    uses: list[str]
    after: list[int]


class Staged(Document):
    """A staged slice: from the start of task `first` to the end of task `last`."""

    first: int
    last: int
    bytes: int
    offset: int


class Round(Document):
    """The scheduled round."""

    kind: str
    tasks: list[Task]
    staged: list[Staged]


class HotSet(Document):
    """How residents follow the routing; a window of 0 tokens: they stay as they are."""

    window_tokens: int
    most: int
    every_rounds: int

    def followed(self) -> str:
        """Say what residents follow, and how many change."""
        rounds = "every round" if self.every_rounds == 1 else f"every {self.every_rounds} rounds"
        return f"the last {self.window_tokens} tokens, up to {self.most} experts a layer {rounds}"


class PlanDocument(Document):
    """plan.json; all times are seconds of the modelled machine."""

    schema_: Annotated[int, Field(alias="schema")] = 1
    model: str
    target: str
    overrides: list[str]
    batch: Annotated[int, Field(ge=BATCH.low, le=BATCH.high)]
    context: Annotated[int, Field(ge=CONTEXT.low, le=CONTEXT.high)]
    seed: int
    profile: Profile
    draft: Draft
    hb: Near
    banks: Annotated[int, Field(ge=1, le=MOST_BANKS)]
    decoder_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)] | None = None
    dispatch: Dispatch
    hot_set: HotSet
    layers: Annotated[list[DispatchedLayer], Field(min_length=1)]
    solvers: list[Solver]
    weighed: Annotated[list[Weighed], Field(default_factory=list)]
    criterion: Criterion | None = None
    round: Round
