"""cost.json: what a compilation is estimated to cost."""

from typing import Annotated

from pydantic import Field

from moe_compiler.documents.base import Document, Positive
from moe_compiler.documents.plan import HotSet, Solver


class Profile(Document):
    """The routing trace."""

    name: str
    kind: str
    draft_routing: str


class Parameters(Document):
    """Parameters of the model: all, and active per token."""

    total: int
    active_with_embedding: int
    active_without_embedding: int


class Draft(Document):
    """The draft plan, and what is expected of it."""

    length: int
    bits: int
    dense_bits: int
    kv_banks: int
    expert_fraction: float
    acceptance_rate: float
    break_even_acceptance: float | None
    acceptance_source: str


class TrainingRound(Document):
    """The training round that was scheduled in advance."""

    seconds: Positive
    lower_bound_seconds: float
    gap: float
    greedy_seconds: float
    tokens: Positive
    joules: Annotated[float, Field(ge=0)] | None
    tasks: int


class Round(TrainingRound):
    """Means over held-out rounds that were dispatched: seconds, joules, tasks.

    Bound and greedy are those of the same rounds, had they been known in advance.
    """

    ci95_seconds: tuple[float, float]


class SteadyState(Document):
    """The training round, repeated."""

    period_seconds: float
    lower_bound_seconds: float
    gap: float
    token_seconds: float
    carried_loads: int
    carried_bytes: int
    checked_starts_seconds: list[float]


class Token(Document):
    """The round's seconds and joules over its tokens.

    Where nothing was measured of the model's routing, low and high are over routing like every model that was measured.
    """

    seconds: Positive
    joules: Annotated[float, Field(ge=0)] | None
    ci95_seconds: tuple[Positive, Positive]
    low_seconds: float | None
    high_seconds: float | None


class Prefill(Document):
    """A prompt: seconds to the first token of all sequences."""

    prompt_tokens: int
    passes: int
    seconds: float


class Bytes(Document):
    """Bytes moved in a held-out round, means."""

    hb_read: int
    hb_write: int
    external_read: int
    link: int


class LayerJoules(Document):
    """What work of a phase in one layer takes, mean over held-out rounds, static power left out.

    Layers are the model's; the head is the one after the last. Loads belong to the phase that needs them, verify.
    """

    phase: str
    layer: int
    joules: float


class Stretch(Document):
    """Seconds of the critical path in tasks of one kind, mean over held-out rounds."""

    kind: str
    seconds: float


class HeldOut(Document):
    """Rounds that no pass has seen, run by the dispatcher."""

    rounds: int
    mean_seconds: float
    p95_seconds: float
    regret: float
    p95_regret: float
    informed_regret: float
    wasted_loads: float
    swaps: float
    dispatch_rule: str
    solvers: list[Solver]


class CostDocument(Document):
    """cost.json; seconds are of the modelled machine."""

    schema_: Annotated[int, Field(alias="schema")] = 1
    model: str
    format: str
    target: str
    overrides: list[str]
    batch: int
    context: int
    seed: int
    cost_model: str
    profile: Profile
    parameters: Parameters
    draft: Draft
    hot_set: HotSet
    mode: str
    round: Round
    training_round: TrainingRound
    steady_state: SteadyState
    token: Token
    prefill: Prefill | None
    joules_by_part: dict[str, float] | None
    joules_by_layer: list[LayerJoules] | None = None
    bytes: Bytes
    busy_fraction: dict[str, float]
    critical_path: list[Stretch]
    roofline_seconds: Annotated[dict[str, float], Field(min_length=1)]
    roofline_fraction: float
    limited_by: str
    limited_by_field: str
    held_out: HeldOut
