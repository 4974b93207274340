"""What `moec estimate --json` prints."""

from moe_compiler.documents.base import Document


class BytesEntry(Document):
    """Bytes: that each memory holds, of one expert, of dense weights and cache, and that are read for a token."""

    near: int
    far: int
    deep: int
    expert: int
    dense: int
    kv: int
    per_token: int


class DraftEntry(Document):
    """Speculation: verify steps of 1, 2, … tokens, and α at which it is as fast as plain decoding (null: never)."""

    length: int
    acceptance_rate: float
    acceptance_source: str
    verify_seconds: list[float]
    break_even_acceptance: float | None


class ProfileEntry(Document):
    """The routing trace: `synthetic` or what its file says."""

    name: str
    kind: str


class EstimateDocument(Document):
    """An estimate of a step."""

    model: str
    target: str
    format: str
    place: str
    batch: int
    context: int
    bytes: BytesEntry
    step_seconds: float
    fixed_seconds: float
    tokens_per_second: float
    hit_rate: float
    distinct_experts: float
    limited_by: str
    draft: DraftEntry | None
    profile: ProfileEntry
    notes: list[str]
