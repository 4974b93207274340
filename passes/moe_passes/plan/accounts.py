"""What passes weighed before they decided, for who asks why: kept in a module beside the decisions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = float | npt.NDArray[np.float64] | npt.NDArray[np.int64]
TIE = 1e-9
"""Values a byte that are closer than this, relative to each other, are equal."""
CHOSEN, GREEDY, DISPATCHED, ESTIMATED = "chosen", "greedy", "dispatched", "estimated"
"""Of a setting: it was taken; it is the greedy baseline; it was dispatched on rounds that judge; or the closed form was
all that was asked of it."""

COVERAGE_FIRST = 1000.0
"""A weight of coverage that leaves nothing of the seconds of loads but between equals: values are then points."""


@dataclass(frozen=True)
class Criterion:
    """What select-draft takes it to be worth that HB keeps an expert: seconds of loads a round.

    Verify needs an expert that a share f of tokens choose in 1 − (1 − f)ⁿ of the rounds of n tokens, so a slice saves
    it that much of a load, and the whole all of it. What the draft finds near counts by a weight.

    Attributes:
        top_k: experts that a token chooses.
        tokens: n, of the whole batch.
        slice_bytes: that HB keeps of an expert at the least.
        whole_bytes: of an expert.
        coverage_weight: of a token of the draft that finds its expert near, in units of what the slice saves verify.
        load_seconds_per_byte: of a load.
        load_latency_seconds: of a load.
        computes_far: whether what HB lacks is computed where it lies, so that a slice saves verify nothing.
        room_bytes: of HB for experts.
        price_seconds_per_byte: the cut: a step that is worth less a byte is left out; 0 where everything fits.
    """

    top_k: int
    tokens: int
    slice_bytes: int
    whole_bytes: int
    coverage_weight: float
    load_seconds_per_byte: float
    load_latency_seconds: float
    computes_far: bool
    room_bytes: int
    price_seconds_per_byte: float = 0.0

    def worth(self, popularity: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the seconds a round that the slice is worth, and all of an expert.

        Args:
            popularity: [layer, expert], choices of tokens.
        """
        each = self.load_seconds_per_byte
        chosen = popularity / np.maximum(1, popularity.sum(axis=1, keepdims=True)) * self.top_k
        needed = 1 - (1 - np.minimum(chosen, 1.0)) ** self.tokens
        covered = self.coverage_weight * chosen * self.slice_bytes * each
        # What is computed far is read there whole, whether or not HB has a slice of it.
        sliced = covered + (0.0 if self.computes_far else needed * self.slice_bytes * each)
        every = covered + needed * (self.whole_bytes * each + self.load_latency_seconds)
        return (sliced if self.has_slices else every), every

    def is_split(self, slice_worth: float, whole_worth: float) -> bool:
        """Whether an expert is kept in two steps: its slice is worth more a byte than the rest of it."""
        return bool(splits(slice_worth, self.slice_bytes, whole_worth, self.whole_bytes))

    @property
    def in_points(self) -> bool:
        """Whether values are points for what drafts find near, rather than seconds."""
        return self.coverage_weight >= COVERAGE_FIRST

    @property
    def has_slices(self) -> bool:
        """Whether HB may keep a part of an expert."""
        return self.slice_bytes < self.whole_bytes


def splits(slice_value: Values, slice_bytes: Values, whole_value: Values, whole_bytes: Values) -> npt.NDArray[np.bool_]:
    """Return of which experts the slice is worth more a byte than the rest: those are kept in two steps."""
    rest_bytes = np.asarray(whole_bytes) - slice_bytes
    rest = (np.asarray(whole_value) - slice_value) / np.maximum(rest_bytes, 1)
    return (rest_bytes > 0) & (np.asarray(slice_value) / slice_bytes > rest * (1 + TIE))


@dataclass(frozen=True)
class Weighed:
    """A setting that select-draft weighed, and what it expected of it.

    Attributes:
        role: of `CHOSEN`, `GREEDY`, `DISPATCHED`, `ESTIMATED`.
        length: γ.
        bits: of an expert that the draft computes with.
        dense_bits: of a dense weight that the draft computes with.
        staging_bytes: of HB.
        kv_banks: that a KV cache is striped over.
        window_tokens: of the hot set; 0 where it stays as it is.
        most_swaps: of a layer and round.
        coverage_weight: see `Criterion`.
        most_far_tokens: an expert is computed far up to so many tokens.
        expert_fraction: of all experts, that HB keeps anything of.
        coverage: share of what the draft asks for that is near.
        acceptance_rate: α.
        round_tokens: of the whole batch.
        estimate_seconds: a token, by the closed form.
        seconds: a token, dispatched on rounds that judge; 0 where it was not.
    """

    role: str
    length: int
    bits: int
    dense_bits: int
    staging_bytes: int
    kv_banks: int
    window_tokens: int
    most_swaps: int
    coverage_weight: float
    most_far_tokens: int
    expert_fraction: float
    coverage: float
    acceptance_rate: float
    round_tokens: float
    estimate_seconds: float
    seconds: float


@dataclass(frozen=True)
class DraftAccount:
    """What select-draft weighed.

    Attributes:
        weighed: what was dispatched, and of every other γ what the closed form thought best; the chosen one first.
        criterion: by which experts were chosen; None where a placement was asked for, or every layer keeps as many.
        popularity: [MoE layer][expert], choices of training tokens that it goes by.
    """

    weighed: tuple[Weighed, ...]
    criterion: Criterion | None
    popularity: tuple[tuple[int, ...], ...]
