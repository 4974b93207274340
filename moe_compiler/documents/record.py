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


class CompileDocument(Document):
    """compile.json."""

    schema_: Annotated[int, Field(alias="schema")] = 1
    command: list[str]
    model: str
    notes: list[str]
    format: str
    target: str
    overrides: list[str]
    profile: str | None
    request: dict[str, Any]
    pipeline: str
    versions: dict[str, str]
    compiler: str
    steps: list[Step]
    solver_calls: list[SolverCall]
    total_seconds: float
    peak_mib: float
