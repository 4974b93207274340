"""What of each expert is kept near: nothing, its most significant slice, or all of it.

A multiple-choice knapsack: each expert takes one of its choices, each of which has a size and a value; all sizes
together fit into the room. (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_passes.plan.errors import InputError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """Experts, each an item; all arrays are [expert].

    Attributes:
        slice_bytes: of the most significant slice; as many as of all of it where an expert has no slices.
        whole_bytes: of all of it.
        slice_value: of keeping the slice.
        whole_value: of keeping all of it, at least that of the slice.
        room_bytes: of the near memory.

    Raises:
        InputError: sizes or values that are none, or arrays of different lengths.
    """

    slice_bytes: IntArray
    whole_bytes: IntArray
    slice_value: FloatArray
    whole_value: FloatArray
    room_bytes: int

    def __post_init__(self) -> None:
        shapes = {a.shape for a in (self.slice_bytes, self.whole_bytes, self.slice_value, self.whole_value)}
        if len(shapes) != 1 or len(self.slice_bytes.shape) != 1:
            raise InputError(f"arrays have shapes {sorted(shapes)}; valid: one number of experts for all")
        if (self.slice_bytes < 1).any() or (self.slice_bytes > self.whole_bytes).any():
            raise InputError("an expert has a slice of no bytes, or of more than all of it; valid: 1 ≤ slice ≤ whole")
        if not ((self.slice_value >= 0) & (self.slice_value <= self.whole_value)).all():
            raise InputError("an expert has values that are below 0, or fall; valid: 0 ≤ slice ≤ whole")
        if not np.isfinite(self.whole_value).all():
            raise InputError("an expert has a value that is no number; valid: finite ones")


@dataclass(frozen=True)
class Solution:
    """What is kept.

    Attributes:
        levels: [expert], `NONE`, `MSB` or `ALL` of `plan.decisions`.
        value: of what is kept.
        upper_bound: proved bound on the value of every choice that fits.
        greedy: value of the greedy baseline: whole experts alone, the most valuable a byte first.
        price: value a byte of the first step that does not fit whole, 0 where all do: what is worth less is left out.
    """

    levels: IntArray
    value: float
    upper_bound: float
    greedy: float
    price: float
