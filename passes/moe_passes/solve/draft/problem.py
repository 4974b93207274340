"""select-draft: which experts HB keeps, in how many bits, how much of it is staging, and γ.

Choose a slice format, a staging size, a set of resident experts and a draft length γ so that the mean seconds of a
training round per expected token are least, under the bytes that HB has left for experts and staging.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_passes.plan.errors import InputError


@dataclass(frozen=True)
class Slice:
    """A format in which HB can keep an expert.

    Attributes:
        bits: of a weight that the draft computes with.
        resident_bytes: of an expert in HB.
        residual_bytes: of the rest, which verify needs from external memory.
    """

    bits: int
    resident_bytes: int
    residual_bytes: int


@dataclass(frozen=True)
class Rates:
    """Seconds of work on the machine.

    Attributes:
        draft_dense_seconds: dense parts of one draft step.
        verify_dense_seconds: dense parts of one verify step, by γ.
        hb_seconds_per_byte: expert bytes read from all banks together.
        external_seconds_per_byte: expert bytes from external memory.
        load_latency_seconds: of one load.
        gather_seconds_per_token: aggregation of one token's expert outputs in one layer.
    """

    draft_dense_seconds: float
    verify_dense_seconds: tuple[float, ...]
    hb_seconds_per_byte: float
    external_seconds_per_byte: float
    load_latency_seconds: float
    gather_seconds_per_token: float


@dataclass(frozen=True)
class Problem:
    """A whole problem.

    Attributes:
        batch: sequences decoded together.
        top_k: experts a token is routed to.
        capacity_bytes: bytes of HB for experts and staging.
        slices: formats to choose from.
        staging_choices: sizes of staging to choose from, bytes.
        lengths: draft lengths that rates and acceptance are given for; holds 0, against which drafting is weighed.
        allowed: draft lengths to choose from.
        whole_bytes: of an expert in full precision.
        popularity: [layer, expert], training counts.
        used: [round, position, layer, expert], experts the target model uses at each position of training rounds.
        asked: the same for the draft's own routing.
        token_asked: [step, batch, layer, expert], draft routing token by token, of sample steps.
        acceptance: per γ of `lengths`, (shares, α at that γ).
        rates: of the machine.
    """

    batch: int
    top_k: int
    capacity_bytes: int
    slices: tuple[Slice, ...]
    staging_choices: tuple[int, ...]
    lengths: tuple[int, ...]
    allowed: tuple[int, ...]
    whole_bytes: int
    popularity: npt.NDArray[np.int64]
    used: npt.NDArray[np.bool_]
    asked: npt.NDArray[np.bool_]
    token_asked: npt.NDArray[np.bool_]
    acceptance: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    rates: Rates

    def __post_init__(self) -> None:
        if 0 not in self.lengths or min(self.lengths) < 0:
            raise InputError(f"draft lengths {self.lengths}: must hold 0, and none may be negative")
        if not self.allowed or not set(self.allowed) <= set(self.lengths):
            raise InputError(f"allowed draft lengths {self.allowed} are not among {self.lengths}")
        if max(self.lengths) >= self.used.shape[1]:
            raise InputError(f"draft length {max(self.lengths)} needs rounds of {max(self.lengths) + 1} positions")
        if not self.staging_choices or min(self.staging_choices) > self.capacity_bytes:
            raise InputError(f"no staging size of {self.staging_choices} fits into {self.capacity_bytes} bytes")

    @property
    def experts(self) -> int:
        """Routed experts in all layers."""
        return int(self.popularity.size)

    def acceptance_rate(self, length: int, share: float) -> float:
        """Return α at a draft length for a share of resident experts."""
        return float(np.interp(share, *self.acceptance[self.lengths.index(length)]))


@dataclass(frozen=True)
class Choice:
    """One candidate plan.

    Attributes:
        slice: format of the resident experts.
        staging_bytes: size of staging.
        length: γ.
        resident: [layer, expert], what HB keeps.
    """

    slice: Slice
    staging_bytes: int
    length: int
    resident: npt.NDArray[np.bool_]

    @property
    def share(self) -> float:
        """Resident experts over all experts."""
        return float(self.resident.mean())


@dataclass(frozen=True)
class Solution:
    """The best plan, and what is known of it.

    Attributes:
        choice: the plan.
        seconds_per_token: its objective.
        lower_bound: proved bound on the objective.
        greedy: objective of the greedy baseline.
        acceptance_rate: α of the plan.
        break_even_acceptance: α at which the plan's γ (or the best γ ≥ 1, where the plan's is 0) equals γ = 0.
    """

    choice: Choice
    seconds_per_token: float
    lower_bound: float
    greedy: float
    acceptance_rate: float
    break_even_acceptance: float
