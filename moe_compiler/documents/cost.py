"""cost.json: what a compilation is estimated to cost."""

from typing import Annotated

from pydantic import Field

from moe_compiler.documents.base import Document
from moe_compiler.documents.plan import Solver


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
    expert_fraction: float
    acceptance_rate: float
    break_even_acceptance: float | None
    acceptance_source: str


class Round(Document):
    """The scheduled training round."""

    seconds: float
    lower_bound_seconds: float
    gap: float
    greedy_seconds: float
    tokens: float
    joules: float
    tasks: int


class SteadyState(Document):
    """Rounds that repeat."""

    period_seconds: float
    lower_bound_seconds: float
    gap: float
    token_seconds: float
    carried_loads: int
    carried_bytes: int
    checked_starts_seconds: list[float]


class Token(Document):
    """The round's seconds and joules over its tokens."""

    seconds: float
    joules: float


class Bytes(Document):
    """Bytes moved in the round."""

    hb_read: int
    hb_write: int
    external_read: int
    link: int


class Stretch(Document):
    """Seconds of the critical path in tasks of one kind."""

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
    dispatch_rule: str
    solvers: list[Solver]


class CostDocument(Document):
    """cost.json; seconds are of the modelled machine."""

    schema_: Annotated[int, Field(alias="schema")] = 1
    model: str
    target: str
    overrides: list[str]
    batch: int
    context: int
    seed: int
    cost_model: str
    profile: Profile
    parameters: Parameters
    draft: Draft
    mode: str
    round: Round
    steady_state: SteadyState
    token: Token
    joules_by_part: dict[str, float]
    bytes: Bytes
    busy_fraction: dict[str, float]
    critical_path: list[Stretch]
    roofline_seconds: dict[str, float]
    roofline_fraction: float
    limited_by: str
    limited_by_field: str
    held_out: HeldOut
