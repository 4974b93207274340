"""What sections of hardware files have in common, whatever their schema: figures with their sources beside them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

GB = 1e9
PJ_PER_BIT = 8e-12
"""Joules per byte of one picojoule per bit."""

SMALLEST, LARGEST = 1e-6, 1e9
"""Range of a figure in its unit: wide enough for any machine, narrow enough that nothing overflows."""

Positive = Annotated[float, Field(ge=SMALLEST, le=LARGEST, strict=True, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST, strict=True, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.001, le=1, strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(ge=1, le=4096, strict=True)]
Title = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

NOTES = ("source", "assumed")


class Section(BaseModel):
    """A group of figures with their sources beside them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: dict[str, str] | str = Field(default_factory=dict)
    assumed: dict[str, str] | str = Field(default_factory=dict)

    def source_of(self, field: str) -> str:
        """Say where a figure comes from; a note on `tops` is one on `tops.w8a8`."""
        notes = (("", self.source), ("assumed: ", self.assumed))
        for name in (field, field.partition(".")[0]):
            for label, given in notes:
                if isinstance(given, dict) and name in given:
                    return label + given[name]
        for label, given in notes:
            if isinstance(given, str):
                return label + given
        return "not stated"


class Power(Section):
    """Power that does not depend on the work."""

    static_w: NotNegative
