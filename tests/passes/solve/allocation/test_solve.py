from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.errors import InputError
from moe_passes.solve.allocation.bound import lower_bound
from moe_passes.solve.allocation.check import violations
from moe_passes.solve.allocation.problem import Lifetime, Problem
from moe_passes.solve.allocation.solve import solve

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
        max(o + b.size for o, b in zip(offsets, buffers, strict=True))
        for offsets in product(range(13), repeat=len(buffers))
        if not violations(problem, offsets)
    ]
    assert lower_bound(problem) <= min(peaks) <= solve(problem).peak_bytes


def test_cp_sat_fits_where_first_fit_does_not():
    # Capacity 4 with 3 + 1, then 1 + 3 across a long-lived byte: only offset 3 or 0 for the long one leaves room.
    buffers = (
        Lifetime(0, 2, 2),
        Lifetime(1, 4, 1),
        Lifetime(3, 6, 2),
        Lifetime(0, 1, 2),
        Lifetime(2, 3, 3),
        Lifetime(5, 6, 2),
    )
    solution = solve(Problem(4, buffers, alignment_bytes=1))
    assert solution.status != "infeasible"
    assert solution.peak_bytes <= 4


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
