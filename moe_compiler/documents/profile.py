"""A profile as a document: what the arrays of an `.npz` must be."""

from typing import Literal

from pydantic import Field

from moe_compiler.documents.base import Document


class ProfileDocument(Document):
    """The arrays of a profile (.npz)."""

    experts: list[list[list[int]]] = Field(description="integers [token, MoE layer, k], in decoding order")
    draft_experts: list[list[list[int]]] | None = Field(
        None, description="the same shape: what the draft asked for, before restriction"
    )
    kind: Literal["real", "synthetic"] = "real"
