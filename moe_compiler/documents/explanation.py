"""The JSON of `moec explain`."""

from typing import Any

from moe_compiler.documents.base import Document


class Explanation(Document):
    """An answer: in sentences, and the figures that they are made of."""

    question: str
    sentences: list[str]
    figures: dict[str, Any]


class ExplanationDocument(Document):
    """Answers about a compile."""

    model: str
    target: str
    answers: list[Explanation]
