"""How many drafted tokens verify accepts: a curve by coverage, or what was measured.

α, accepted over drafted tokens, is taken to depend on the *coverage*: the share of what the draft's routers ask for
that is resident. Two things are assumed. The probability p that a token is accepted differs from round to round: it is
beta distributed with a + b = `CONCENTRATION`. So rounds of 1 or 2 drafted tokens gain less than one p for all would
say. And of what slicing costs at full coverage, weights that a draft does not slice win back `UNSLICED_GAIN` of their
share in the active weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moe_passes.plan.model import WHOLE_BITS
from moe_passes.plan.request import MeasuredAcceptance

CONCENTRATION = 3.0
UNSLICED_GAIN = 0.5


@dataclass(frozen=True)
class Curve:
    """α at a length by coverage, ascending; the last point is full coverage."""

    coverages: tuple[float, ...]
    rates: tuple[float, ...]

    @property
    def full(self) -> float:
        """α at full coverage."""
        return self.rates[-1]

    def rate(self, coverage: float) -> float:
        """Return α."""
        return float(np.interp(coverage, self.coverages, self.rates))


@dataclass(frozen=True)
class Draft:
    """What of a draft decides how much is accepted, besides its length.

    Attributes:
        is_dense_sliced: whether dense weights are computed with their most significant slice alone.
        are_experts_sliced: the same of experts.
        share: of the experts that are resident.
        coverage: share of what its routers ask for that is resident.
    """

    is_dense_sliced: bool
    are_experts_sliced: bool
    share: float
    coverage: float


@dataclass(frozen=True)
class Acceptance:
    """Expected accepted tokens of a draft.

    Attributes:
        curves: of α by coverage, at `length`, with everything sliced; their mean counts.
        length: draft length that the curves are of.
        dense_share: of the active weights, those that are not routed experts.
        source: where it comes from, for outputs.
        measured: what was measured, which counts before the curves.
    """

    curves: tuple[Curve, ...]
    length: int
    dense_share: float
    source: str
    measured: tuple[MeasuredAcceptance, ...] = ()

    @property
    def longest(self) -> int | None:
        """Longest draft that something is known of; None: any."""
        known = [len(of.survival_ppm) for of in self.measured if of.survival_ppm]
        return min(known, default=None)

    def accepted(self, length: int, draft: Draft) -> float:
        """Return how many of `length` drafted tokens are accepted on the mean."""
        if not length:
            return 0.0
        if self.measured:
            return self._of_measured(length, draft)
        unsliced = self.dense_share * (not draft.is_dense_sliced)
        unsliced += (1 - self.dense_share) * (not draft.are_experts_sliced)
        rates = []
        for of in self.curves:
            kept = 1 - (1 - UNSLICED_GAIN * unsliced) * (1 - of.full)
            rates.append(min(1.0, of.rate(draft.coverage) * kept / of.full) if of.full else 0.0)
        return expected_accepted(float(np.mean(rates)), self.length, length)

    def _of_measured(self, length: int, draft: Draft) -> float:
        """Interpolate by the share of experts between the drafts that were measured with the same bits.

        Where none was, those count that differ in the fewest weights, and of several kinds the one that promises less.
        """
        least = min(_differs(of, draft) for of in self.measured)
        kinds: dict[tuple[int, int], list[MeasuredAcceptance]] = {}
        for of in self.measured:
            if _differs(of, draft) == least:
                kinds.setdefault((of.expert_bits, of.dense_bits), []).append(of)
        return min(_interpolated(rows, length, draft.share) for rows in kinds.values())

    def most_accepted(self, length: int, draft: Draft) -> float:
        """Return the most that any draft of this coverage or less could have accepted."""
        if self.measured and length:
            return max(_measured(of, length) for of in self.measured)
        return self.accepted(length, draft)


def _interpolated(rows: list[MeasuredAcceptance], length: int, share: float) -> float:
    """Return how many of `length` tokens a draft of this share has accepted; one row alone says it for all shares."""
    if len(rows) == 1:
        return _measured(rows[0], length)
    # Without any expert nothing is taken to be accepted.
    known = {0.0: 0.0} | {of.share: _measured(of, length) for of in sorted(rows, key=lambda of: of.share)}
    return float(np.interp(share, list(known), list(known.values())))


def _measured(of: MeasuredAcceptance, length: int) -> float:
    if of.survival_ppm:
        return sum(of.survival_ppm[:length]) / 1e6
    return expected_accepted(of.rate, of.length, length)


def _differs(of: MeasuredAcceptance, draft: Draft) -> int:
    """Count the weights, dense and of experts, of which a draft computes with another part than was measured."""
    pairs = ((of.dense_bits, draft.is_dense_sliced), (of.expert_bits, draft.are_experts_sliced))
    return sum((bits < WHOLE_BITS) != is_sliced for bits, is_sliced in pairs if bits)


def expected_accepted(rate: float, of_length: int, length: int) -> float:
    """Move α from one draft length to another: expected accepted tokens of `length` drafted ones.

    Up to the length n that α is of, the share of rounds in which i tokens are accepted is E[p^i], with a mean of p for
    which Σ_{i=1…n} E[p^i] = α·n. Beyond, where nothing is known and the tail of the distribution would decide, it falls
    with each token by the one p for which Σ p^i = α·n.
    """
    mean = _solve(lambda p: sum(_moments(p, of_length)), rate * of_length)
    survival = _moments(mean, min(length, of_length))
    if length > of_length:
        one = _solve(lambda p: sum(p**i for i in range(1, of_length + 1)), rate * of_length)
        survival += [survival[-1] * one**i for i in range(1, length - of_length + 1)]
    return float(sum(survival))


def _solve(total: Callable[[float], float], wanted: float) -> float:
    """Return the argument from 0 to 1 of an increasing function at which it has a value, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) < wanted else (low, middle)
    return high


def _moments(mean: float, most: int) -> list[float]:
    """Return E[p], E[p²], … of a beta distribution: E[p^i] = Π_{j<i} (a + j) / (a + b + j)."""
    moments, last = [], 1.0
    for j in range(most):
        last *= (mean * CONCENTRATION + j) / (CONCENTRATION + j)
        moments.append(last)
    return moments
