"""allocate-staging: addresses for everything that lies in staging.

Buffer i occupies `size` bytes during the half-open interval [lower, upper). Give each an offset that is a multiple
of the alignment, so that no two overlap in time and address and all end below the capacity.
"""

from dataclasses import dataclass

from moe_passes.errors import InputError

ALIGNMENT_BYTES = 64
"""Of every staging address."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer: alive in [lower, upper), `size` bytes."""

    lower: int
    upper: int
    size: int


@dataclass(frozen=True)
class Problem:
    """A whole problem.

    Attributes:
        capacity_bytes: size of staging.
        buffers: what must lie in it.
        alignment_bytes: of every offset.
    """

    capacity_bytes: int
    buffers: tuple[Lifetime, ...]
    alignment_bytes: int = ALIGNMENT_BYTES

    def __post_init__(self) -> None:
        if self.alignment_bytes < 1:
            raise InputError(f"alignment {self.alignment_bytes}; valid: at least 1")
        for number, buffer in enumerate(self.buffers):
            if buffer.upper < buffer.lower or buffer.lower < 0 or buffer.size < 1:
                raise InputError(f"buffer {number}: {buffer} is not a lifetime of at least one byte")
            if buffer.size > self.capacity_bytes:
                raise InputError(f"buffer {number} needs {buffer.size:,} of {self.capacity_bytes:,} bytes")


@dataclass(frozen=True)
class Solution:
    """Offsets, and the height that they reach.

    Attributes:
        offsets: one for every buffer.
        peak_bytes: largest end address.
        lower_bound_bytes: most bytes alive at once.
        greedy_bytes: peak of first fit in the order of start.
        status: `optimal`, `feasible`, or `infeasible` where the capacity is exceeded.
    """

    offsets: tuple[int, ...]
    peak_bytes: int
    lower_bound_bytes: int
    greedy_bytes: int
    status: str
