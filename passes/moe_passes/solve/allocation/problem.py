"""allocate-staging: addresses for everything that lies in staging.

Buffer i occupies `size` bytes during the half-open interval [lower, upper). Give each an offset that is a multiple
of its alignment, or the fixed one, so that no two overlap in time and address and all end below the capacity.
"""

from dataclasses import dataclass

from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ALIGNMENT_BYTES


@dataclass(frozen=True)
class Lifetime:
    """A buffer: alive in [lower, upper), `size` bytes.

    Attributes:
        lower: time from which it is alive.
        upper: time from which it is no longer.
        size: bytes.
        alignment: of its offset; None for the problem's.
        fixed: the offset that it must have; None where that is free.
    """

    lower: int
    upper: int
    size: int
    alignment: int | None = None
    fixed: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it is alive at no time: [6, 6) has no moment in it, so it overlaps nothing and counts in no peak."""
        return self.upper <= self.lower

    def overlaps(self, other: "Lifetime") -> bool:
        """Say whether both are alive at some moment."""
        return max(self.lower, other.lower) < min(self.upper, other.upper)


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
            if buffer.alignment is not None and buffer.alignment < 1:
                raise InputError(f"buffer {number}: alignment {buffer.alignment}; valid: at least 1")
            if buffer.fixed is not None and not self._is_offset(buffer, buffer.fixed):
                raise InputError(
                    f"buffer {number}: fixed offset {buffer.fixed}; valid: a multiple of {self.alignment(buffer)} from "
                    f"0 to {self.capacity_bytes - buffer.size:,}"
                )

    def alignment(self, buffer: Lifetime) -> int:
        """Return what a buffer's offset must be a multiple of."""
        return buffer.alignment or self.alignment_bytes

    def _is_offset(self, buffer: Lifetime, offset: int) -> bool:
        return 0 <= offset <= self.capacity_bytes - buffer.size and offset % self.alignment(buffer) == 0


@dataclass(frozen=True)
class Solution:
    """Offsets, and the height that they reach.

    Attributes:
        offsets: one for every buffer.
        peak_bytes: largest end address of what is alive at all.
        lower_bound_bytes: most bytes alive at once.
        greedy_bytes: peak of first fit in the order of start.
        status: `optimal` (no lower peak), `feasible`, `infeasible` (proved, and by another method again), or `unknown`
            (none found in the limit, or not proved twice); with the last two, offsets exceed the capacity.
        conflict: where infeasible, buffers that cannot be placed together; without any one of them they can be, or at
            least that could not be proved to be impossible.
    """

    offsets: tuple[int, ...]
    peak_bytes: int
    lower_bound_bytes: int
    greedy_bytes: int
    status: str
    conflict: tuple[int, ...] = ()
