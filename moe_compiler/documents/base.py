"""What all documents share: keys as written, no coercion, whole numbers where whole numbers are due."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

SMALLEST, LARGEST = 1e-18, 1e18
"""Of what is divided by: seconds, tokens."""
Positive = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
PositiveInt = Annotated[int, Field(gt=0, le=2**53)]


class Document(BaseModel):
    """A JSON document or a part of one; keys that a reader has no use for are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, populate_by_name=True, allow_inf_nan=False)

    def content(self) -> dict[str, Any]:
        """Return the document as plain values."""
        return self.model_dump(by_alias=True)


def to_json(content: Any, indent: int | None = 1) -> str:
    """Write a document as text; without `indent` on one line."""
    return json.dumps(content, indent=indent, allow_nan=False) + "\n"
