"""The JSON of `moec diff`."""

from typing import Any

from moe_compiler.documents.base import Document


class Difference(Document):
    """A figure or choice that is not the same; null where one side does not have it."""

    name: str
    a: Any
    b: Any


class Move(Document):
    """Experts that are kept otherwise."""

    a: str
    b: str
    experts: int


class Contribution(Document):
    """Seconds a token that tasks of one kind on the critical path take more in B."""

    kind: str
    seconds: float


class DiffDocument(Document):
    """What differs from A to B; `contributions` add up to `difference_seconds`, the largest first."""

    a: str
    b: str
    model: str
    request: list[Difference]
    decisions: list[Difference]
    residency: list[Move]
    placed_otherwise: int
    tasks: list[Difference]
    token_seconds: tuple[float, float]
    difference_seconds: float
    contributions: list[Contribution]
