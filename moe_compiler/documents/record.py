"""compile.json: how a compilation ran on this computer."""

from typing import Annotated, Any

from pydantic import Field

from moe_compiler.documents.base import Document


class Step(Document):
    """One step of a compilation."""

    step: str
    seconds: float
    peak_mib: float


class SolverCall(Document):
    """One solver call."""

    pass_name: Annotated[str, Field(alias="pass")]
    instance: str
    seconds: float
    peak_mib: float


class Arguments(Document):
    """What `moe_compiler.compile` was called with; files by their whole paths, null for a model without a file."""

    model: str | None
    target: str
    format: str | None
    place: str | None
    profile: str | None
    batch: int
    context: int
    draft_length: int | str
    pipeline: str | None
    overrides: list[str]
    alpha: float | None
    accepted_lengths: str | None
    prompt_tokens: int | None
    seed: int
    time_limit: float
    cost_model: str


class CompileDocument(Document):
    """compile.json; `inputs` are SHA-256 of the files that were read, by whole path."""

    schema_: Annotated[int, Field(alias="schema")] = 1
    command: list[str]
    model: str
    notes: list[str]
    format: str
    target: str
    overrides: list[str]
    profile: str | None
    request: dict[str, Any]
    arguments: Arguments | None = None
    inputs: dict[str, str] | None = None
    pipeline: str
    assumed: list[str] | None = None
    versions: dict[str, str]
    compiler: str
    steps: list[Step]
    solver_calls: list[SolverCall]
    total_seconds: float
    peak_mib: float
