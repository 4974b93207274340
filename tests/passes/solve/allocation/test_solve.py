from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.errors import InputError
from moe_passes.solve.allocation import pairwise
from moe_passes.solve.allocation.bound import lower_bound
from moe_passes.solve.allocation.canonical import search
from moe_passes.solve.allocation.check import violations
from moe_passes.solve.allocation.problem import Lifetime, Problem
from moe_passes.solve.allocation.solver import ORDERS, first_fit, peak, solve

lifetimes = st.builds(
    lambda lower, length, size: Lifetime(lower, lower + length, size),
    st.integers(0, 8),
    st.integers(0, 6),
    st.integers(1, 4),
)


@given(st.lists(lifetimes, max_size=12))
@settings(max_examples=200, deadline=None)
def test_every_allocation_is_valid_and_bounded(buffers):
    problem = Problem(1000, tuple(buffers), alignment_bytes=1)
    solution = solve(problem)
    assert violations(problem, solution.offsets) == []
    assert lower_bound(problem) <= solution.peak_bytes <= solution.greedy_bytes


@given(st.lists(lifetimes, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_bound_never_exceeds_brute_force_optimum(buffers):
    problem = Problem(16, tuple(buffers), alignment_bytes=1)
    peaks = [
        max((o + b.size for o, b in zip(offsets, buffers, strict=True) if b.upper > b.lower), default=0)
        for offsets in product(range(13), repeat=len(buffers))
        if not violations(problem, offsets)
    ]
    assert lower_bound(problem) <= min(peaks) <= solve(problem).peak_bytes


@pytest.mark.parametrize("fixed", [None, 2])
def test_what_is_alive_at_no_time_overlaps_nothing_and_counts_in_no_peak(fixed):
    """[6, 6) has no moment in it, within [5, 8) or without."""
    empty, beside = Lifetime(6, 6, 8, None, fixed), Lifetime(5, 8, 3, None, fixed)
    solution = solve(Problem(10, (empty, beside, Lifetime(6, 6, 10)), alignment_bytes=1))
    assert violations(Problem(10, (empty, beside), alignment_bytes=1), solution.offsets[:2]) == []
    assert (solution.lower_bound_bytes, solution.peak_bytes) == (3, 3 + (fixed or 0))
    assert solution.offsets[1:] == (fixed or 0, 0)


def test_a_conflict_is_of_the_buffers_that_are_alive():
    empty = Lifetime(2, 2, 9)
    clashing = Lifetime(0, 3, 5, None, 0), empty, Lifetime(2, 4, 5, None, 4)
    solution = solve(Problem(10, clashing, alignment_bytes=1))
    assert (solution.status, solution.conflict) == ("infeasible", (0, 2))


def test_a_proof_that_no_other_method_confirms_is_none(monkeypatch):
    problem = Problem(5, SPLIT, alignment_bytes=1)
    assert solve(problem).status == "infeasible"
    monkeypatch.setattr(pairwise, "MOST_PAIRS", 0)
    assert solve(problem).status == "unknown"


@given(st.lists(lifetimes, min_size=1, max_size=4), st.integers(4, 10))
@settings(max_examples=100, deadline=None)
def test_the_second_proof_is_right(buffers, capacity):
    problem = Problem(capacity, tuple(buffers), alignment_bytes=1)
    exists = any(not violations(problem, offsets) for offsets in product(range(capacity), repeat=len(buffers)))
    assert pairwise.is_infeasible(problem, 0, 1.0) == (not exists)


SPLIT = (Lifetime(3, 6, 2), Lifetime(5, 8, 2), Lifetime(1, 5, 3), Lifetime(5, 8, 2))
"""Three buffers of 2 fill 6 bytes at 5, so the first of them lies at 0, 2 or 4; beside it, at 3, only 0 or 4 leaves 3
bytes in one piece. First fit places the buffer of 3 first, at 0, in every order: the first one of 2 comes to 3, and
what is left at 5 are 3 bytes and one."""
ABOVE_FIXED = (Lifetime(1, 3, 1), Lifetime(3, 5, 3), Lifetime(3, 4, 3), Lifetime(4, 7, 2, None, 0))
"""Two buffers of 3 fill 6 bytes at 3, and the fixed one keeps the second buffer off 0: it lies at 3, the third at 0.
First fit places the second buffer right above the fixed one, at 2, in every order, and the third one above it."""


def peaks(problem):
    return [peak(problem, first_fit(problem, order)) for order in ORDERS]


def test_the_canonical_search_fits_where_first_fit_does_not():
    problem = Problem(6, SPLIT, alignment_bytes=1)
    assert peaks(problem) == [7, 7, 7, 7]
    outcome = search(problem, 0, 1000)
    assert violations(problem, tuple(outcome.offsets)) == []
    solution = solve(problem)
    assert (solution.status, solution.peak_bytes, solution.greedy_bytes) == ("optimal", 6, 7)
    assert violations(problem, solution.offsets) == []


def test_cp_sat_fits_where_first_fit_does_not():
    """The canonical search is not asked where an offset is fixed."""
    problem = Problem(6, ABOVE_FIXED, alignment_bytes=1)
    assert peaks(problem) == [8, 8, 8, 8]
    solution = solve(problem)
    assert (solution.status, solution.peak_bytes) == ("optimal", 6)
    assert solution.offsets[1:] == (3, 0, 0)
    assert violations(problem, solution.offsets) == []


def test_cp_sat_proves_that_nothing_fits_beside_what_is_fixed():
    """Fixed at 2, the last buffer leaves 2 bytes on either side, and the second one needs 3."""
    problem = Problem(6, (*ABOVE_FIXED[:3], Lifetime(4, 7, 2, None, 2)), alignment_bytes=1)
    assert lower_bound(problem) == 6, "by size it would fit"
    solution = solve(problem)
    assert (solution.status, solution.conflict) == ("infeasible", (1, 3))


@pytest.mark.parametrize(
    ("place", "buffers", "expected"),
    [
        # Largest first: 3, then 2 and 2 above it where they meet it, then the byte; by start, the byte comes before 2.
        (2, (Lifetime(5, 7, 3), Lifetime(1, 5, 2), Lifetime(4, 7, 2), Lifetime(3, 4, 1)), [7, 7, 5, 7]),
        # Longest first: the buffer from 2 to 6 at 0, the one of 3 above it, the two of 2 from 3 on above each other.
        (1, (Lifetime(3, 5, 2), Lifetime(0, 3, 3), Lifetime(2, 6, 2), Lifetime(3, 6, 2)), [7, 6, 7, 7]),
        # By area, 4, 4, 4 and 3: the buffer of 2 from 1 to 3 is placed after the longest one, not before it as by size.
        (3, (Lifetime(0, 4, 1), Lifetime(1, 3, 2), Lifetime(5, 7, 2), Lifetime(3, 6, 1)), [4, 4, 4, 3]),
    ],
)
def test_each_order_of_first_fit_is_the_best_somewhere(place, buffers, expected):
    problem = Problem(1000, buffers, alignment_bytes=1)
    assert peaks(problem) == expected
    solution = solve(problem)
    assert solution.peak_bytes == expected[place] == lower_bound(problem)
    assert (solution.status, solution.greedy_bytes) == ("optimal", expected[0])
    assert solution.offsets == tuple(first_fit(problem, ORDERS[place]))


def test_fixed_offsets_that_overlap_are_named():
    buffers = (Lifetime(0, 5, 2), Lifetime(0, 5, 4, None, 2), Lifetime(5, 9, 4, None, 3), Lifetime(4, 6, 2, None, 5))
    solution = solve(Problem(20, buffers, alignment_bytes=1))
    assert solution.status == "infeasible"
    assert solution.conflict in ((1, 3), (2, 3)), "1 and 2 lie on one another, but at different times"
    apart = (*buffers[:3], Lifetime(4, 6, 2, None, 7))
    assert solve(Problem(20, apart, alignment_bytes=1)).status != "infeasible"


def test_offsets_are_aligned():
    problem = Problem(1 << 20, tuple(Lifetime(0, 5, 100) for _ in range(9)))
    assert all(offset % 64 == 0 for offset in solve(problem).offsets)


def test_checker_sees_overlap_and_bounds():
    problem = Problem(10, (Lifetime(0, 5, 4), Lifetime(4, 6, 4)), alignment_bytes=2)
    assert violations(problem, (0, 4)) == []
    for bad in ((0, 2), (0, 8), (-2, 4), (0, 5), (0,)):
        assert violations(problem, bad)


@pytest.mark.parametrize("buffer", [Lifetime(5, 4, 1), Lifetime(0, 1, 0), Lifetime(-1, 1, 1), Lifetime(0, 1, 11)])
def test_malformed_buffers_are_refused(buffer):
    with pytest.raises(InputError):
        Problem(10, (buffer,))
