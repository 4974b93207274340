"""measured.json: what a run took, under the names that cost.json has for what was predicted."""

from typing import Annotated

from pydantic import Field

from moe_compiler.documents.base import Document
from moe_compiler.documents.cost import CostDocument


class Draft(Document):
    """How it was drafted, and what came of it."""

    length: int
    bits: int
    dense_bits: int
    acceptance_rate: float | None


class Round(Document):
    """Means over the rounds in which all sequences took part."""

    rounds: int
    seconds: float
    ci95_seconds: tuple[float, float]
    draft_seconds: float
    verify_seconds: float
    tokens: float


class Token(Document):
    """A round's seconds over its tokens."""

    seconds: float
    ci95_seconds: tuple[float, float]


class Prefill(Document):
    """The prompts, one after the other."""

    prompt_tokens: int
    seconds: float


class Bytes(Document):
    """Bytes moved in a round, mean."""

    external_read: int


class Traced(Document):
    """What of it `measured.perfetto-trace` shows."""

    spans: int
    left_out: int


class Predicted(Document):
    """What cost.json says of the same."""

    target: str
    overrides: list[str]
    round_seconds: float
    round_tokens: float
    token_seconds: float
    external_read: int
    error: float


class MeasuredDocument(Document):
    """measured.json; seconds are of the machine that ran it.

    `predicted` is null where other than the compiled number of sequences ran; its `error` is predicted over measured
    seconds of a round, less 1. `busy_fraction` is over the rounds that the trace shows.
    """

    schema_: Annotated[int, Field(alias="schema")] = 1
    model: str
    batch: int
    is_emulated: bool
    far_bandwidth_gb_s: float | None
    activation_bits: int = 32
    kernel: str
    draft: Draft
    round: Round
    token: Token
    prefill: Prefill
    bytes: Bytes
    busy_fraction: dict[str, float]
    trace: Traced
    predicted: Predicted | None


def predicted(cost: CostDocument, seconds: float) -> Predicted:
    """Return what was predicted of rounds that took so many seconds."""
    return Predicted(
        target=cost.target,
        overrides=cost.overrides,
        round_seconds=cost.round.seconds,
        round_tokens=cost.round.tokens,
        token_seconds=cost.token.seconds,
        external_read=cost.bytes.external_read,
        error=cost.round.seconds / seconds - 1,
    )
