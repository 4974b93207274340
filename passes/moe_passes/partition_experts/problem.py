"""partition-experts, one layer: over how many banks each resident expert is sharded, and over which.

A step takes the longer of two times: the busiest bank (resident bytes of the step's distinct experts in it, over the
bank's bandwidth) and the aggregation link (for every token, the number of distinct banks that hold a part of its
experts, times the bytes of a partial sum, over the link's bandwidth). Minimise the mean over training steps, under the
bytes a bank has for this layer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_passes.errors import InputError


@dataclass(frozen=True)
class Problem:
    """One layer.

    Attributes:
        banks: number of banks.
        bank_capacity_bytes: bytes of this layer that one bank can hold.
        bank_bytes_per_second: bandwidth of a bank.
        link_bytes_per_second: bandwidth of the aggregation link.
        partial_sum_bytes: of one token from one bank.
        expert_bytes: resident bytes per expert, 0 where it is not resident: [expert].
        steps: [step, token, expert], resident experts that each token of each training step uses.
    """

    banks: int
    bank_capacity_bytes: int
    bank_bytes_per_second: float
    link_bytes_per_second: float
    partial_sum_bytes: int
    expert_bytes: npt.NDArray[np.int64]
    steps: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.banks < 1:
            raise InputError(f"{self.banks} banks; valid: at least 1")
        for name in ("bank_bytes_per_second", "link_bytes_per_second"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}; valid: a finite number above 0")
        if (self.expert_bytes < 0).any():
            raise InputError("expert_bytes holds a negative number")
        if self.steps.ndim != 3 or self.steps.shape[2] != len(self.expert_bytes):
            raise InputError(f"steps have shape {self.steps.shape}; valid: [step, token, {len(self.expert_bytes)}]")
        if self.expert_bytes.sum() > self.banks * self.bank_capacity_bytes:
            raise InputError(
                f"{int(self.expert_bytes.sum()):,} resident bytes do not fit into {self.banks} banks of "
                f"{self.bank_capacity_bytes:,} bytes"
            )


@dataclass(frozen=True)
class Shard:
    """An expert in `count` neighbouring banks from `first`, in equal parts."""

    expert: int
    first: int
    count: int


@dataclass(frozen=True)
class Solution:
    """A placement of all resident experts.

    Attributes:
        shards: one for every resident expert, by expert.
        objective: mean seconds of a training step.
        lower_bound: proved bound on it.
        greedy: objective of the greedy baseline: whole experts, longest processing time first.
    """

    shards: tuple[Shard, ...]
    objective: float
    lower_bound: float
    greedy: float
