"""The JSON of `moec run`."""

from moe_compiler.documents.base import Document


class SequenceEntry(Document):
    """What followed a prompt."""

    prompt: str
    text: str
    token_ids: list[int]


class RunDocument(Document):
    """A run; seconds are of this machine."""

    sequences: list[SequenceEntry]
    tokens_per_second: float
    prompt_seconds: float
    acceptance_rate: float | None
    draft_length: int
    rounds: int
    bytes_loaded: int
    load_seconds: float
    hidden_load_seconds: float
    peak_bytes: int
    near_bytes: int
    staging_bytes: int
    far: str
    far_bandwidth_gb_s: float | None
    is_emulated: bool
    activation_bits: int
    kernel: str
    check: str | None
    measured: str | None
