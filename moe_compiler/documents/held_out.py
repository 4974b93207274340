"""held_out.json: the held-out rounds as the dispatcher ran them."""

from typing import Annotated

from pydantic import Field, model_validator

from moe_compiler.documents.base import Document


class WastedLoad(Document):
    """A load that was started before verify's router had run, and that verify then had no use for."""

    layer: int
    expert: int
    bytes: int
    start_seconds: float
    seconds: float


class Tasks(Document):
    """Tasks by columns, in program order; `kind` is a place in `kinds`, `expert` −1 where a task is not about one."""

    kind: list[int]
    step: list[int]
    layer: list[int]
    expert: list[int]
    start_ns: list[int]
    duration_ns: list[int]

    @model_validator(mode="after")
    def _are_alike(self) -> "Tasks":
        lengths = {len(column) for _, column in self}
        if len(lengths) > 1:
            raise ValueError(f"columns of {sorted(lengths)} tasks; valid: as many in each")
        return self


class HeldOutRound(Document):
    """A round: as dispatched, and what is known of any schedule of it had it been known in advance."""

    seconds: float
    lower_bound_seconds: float
    clairvoyant_seconds: float
    greedy_seconds: float
    limit: str
    wasted: list[WastedLoad]
    tasks: Tasks


class HeldOutDocument(Document):
    """held_out.json."""

    schema_: Annotated[int, Field(alias="schema")] = 1
    model: str
    target: str
    profile: str
    draft_length: int
    kinds: list[str]
    rounds: list[HeldOutRound]
