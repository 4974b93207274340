"""The canonical search against every allocation there is, and conflicts."""

from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from moe_passes.plan.errors import InputError
from moe_passes.solve.allocation.bound import lower_bound
from moe_passes.solve.allocation.canonical import search
from moe_passes.solve.allocation.check import violations
from moe_passes.solve.allocation.problem import Lifetime, Problem
from moe_passes.solve.allocation.solver import ORDERS, first_fit, peak, solve
from ortools.sat.python import cp_model

from moe_compiler.formats.allocation_file import read
from tests.conftest import public_data

CAPACITY = 6
TIGHT = st.builds(
    lambda lower, length, size, align: Lifetime(lower, lower + length, size, align),
    st.integers(0, 5),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([None, None, 2]),
)


def exists(problem):
    offsets = [range(problem.capacity_bytes - b.size + 1) if b.fixed is None else (b.fixed,) for b in problem.buffers]
    return any(not violations(problem, choice) for choice in product(*offsets))


@given(st.lists(TIGHT, min_size=1, max_size=5))
@settings(max_examples=250, deadline=None)
def test_it_finds_an_allocation_or_proves_that_there_is_none(buffers):
    problem = Problem(CAPACITY, tuple(buffers), alignment_bytes=1)
    outcome = search(problem, 0, 100_000)
    if outcome.offsets is None:
        assert outcome.is_complete
        assert not exists(problem)
    else:
        assert violations(problem, tuple(outcome.offsets)) == []


TALL = st.builds(
    lambda lower, length, size, align: Lifetime(lower, lower + length, size, align),
    st.integers(0, 5),
    st.integers(1, 4),
    st.integers(1, 9),
    st.sampled_from([None, None, 2, 3]),
)
REPEATED = st.lists(TALL, min_size=4, max_size=7).flatmap(
    lambda kinds: st.lists(st.sampled_from(kinds), min_size=8, max_size=14)
)


def as_rectangles(problem):
    """Ask CP-SAT about lifetimes and addresses as rectangles that do not overlap."""
    model = cp_model.CpModel()
    times, lines = [], []
    for buffer in problem.buffers:
        unit = problem.alignment(buffer)
        place = model.new_int_var(0, (problem.capacity_bytes - buffer.size) // unit, "")
        times.append(model.new_fixed_size_interval_var(buffer.lower, buffer.upper - buffer.lower, ""))
        lines.append(model.new_fixed_size_interval_var(place * unit, buffer.size, ""))
    model.add_no_overlap_2d(times, lines)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers, solver.parameters.max_deterministic_time = 1, 0.5
    return solver.solve(model)


@given(REPEATED, st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_it_agrees_with_cp_sat_where_little_may_be_wasted(buffers, slack):
    capacity = lower_bound(Problem(1000, tuple(buffers), 1)) + slack
    problem = Problem(capacity, tuple(buffers), 1)
    outcome, other = search(problem, 0, 20_000), as_rectangles(problem)
    assume(other != cp_model.UNKNOWN and (outcome.is_complete or outcome.offsets is not None))
    assert (outcome.offsets is None) == (other == cp_model.INFEASIBLE)


def test_the_smallest_least_offset_comes_first_also_in_parts():
    """A rank that is larger than the part once outweighed offsets, and this was said to have no allocation."""
    small, pair = Lifetime(2, 3, 1, 3), (Lifetime(0, 1, 2, 3), Lifetime(1, 3, 4, 2))
    others = (Lifetime(2, 4, 2, 3), Lifetime(1, 3, 1), Lifetime(1, 2, 4), Lifetime(1, 2, 3, 2), small)
    order = (small, small, *others[:3], pair[0], pair[0], *others[3:], pair[1], pair[1], Lifetime(0, 2, 1))
    problem = Problem(17, order, 1)
    outcome = search(problem, 0, 10_000)
    assert outcome.offsets is not None
    assert violations(problem, tuple(outcome.offsets)) == []


@given(st.lists(TIGHT, min_size=1, max_size=5), st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_solve_agrees_and_conflicts_are_irreducible(buffers, fixed):
    first = Lifetime(buffers[0].lower, buffers[0].upper, buffers[0].size, None, fixed)
    problem = Problem(CAPACITY, (first, *buffers[1:]), alignment_bytes=1)
    solution = solve(problem)
    assert (solution.status != "infeasible") == exists(problem)
    if solution.status != "infeasible":
        assert violations(problem, solution.offsets) == []
        return
    kept = [problem.buffers[n] for n in solution.conflict]
    assert not exists(Problem(CAPACITY, tuple(kept), 1))
    for number in range(len(kept)):
        assert exists(Problem(CAPACITY, tuple(kept[:number] + kept[number + 1 :]), 1))


def test_example_of_minimalloc():
    """README of MiniMalloc: five buffers in 12 bytes."""
    times = ((0, 3), (3, 9), (0, 9), (9, 21), (0, 21))
    problem = Problem(12, tuple(Lifetime(lower, upper, 4) for lower, upper in times), 1)
    outcome = search(problem, 0, 1000)
    assert violations(problem, tuple(outcome.offsets)) == []


def tight(seed):
    """Forty buffers in two units more than are alive at once."""
    buffers = tuple(Lifetime(n * seed % 17, n * seed % 17 + 4 + n % 5, 1 + n % 4) for n in range(40))
    return Problem(lower_bound(Problem(1000, buffers, 1)) + 2, buffers, 1)


def test_a_limit_is_kept_and_proves_nothing():
    assert search(tight(5), 0, 50_000).offsets is not None
    outcome = search(tight(5), 0, 3)
    assert outcome.offsets is None
    assert not outcome.is_complete
    assert outcome.states <= 4


def test_the_same_seed_gives_the_same_offsets():
    found = search(tight(7), 3, 50_000).offsets
    assert found is not None
    assert search(tight(7), 3, 50_000).offsets == found


@pytest.mark.parametrize("name", ["B", "C", "D"])
def test_instances_of_minimalloc(name):
    """Those that take about a second; benchmarks/allocate.py has all."""
    table = read(public_data(f"minimalloc/{name}.1048576.csv"))
    problem = Problem(1_048_576, table.buffers, 1)
    assert min(peak(problem, first_fit(problem, order)) for order in ORDERS) > problem.capacity_bytes
    solution = solve(problem, 0, 60.0)
    assert solution.status in ("optimal", "feasible")
    assert violations(problem, solution.offsets) == []


def test_fixed_offsets_are_kept():
    problem = Problem(10, (Lifetime(0, 5, 4, None, 3), Lifetime(0, 5, 3), Lifetime(2, 9, 3)), 1)
    solution = solve(problem)
    assert violations(problem, solution.offsets) == []
    assert solution.offsets[0] == 3
    with pytest.raises(InputError, match="fixed offset 7"):
        Problem(10, (Lifetime(0, 5, 4, None, 7),), 1)
    with pytest.raises(InputError, match="alignment 0"):
        Problem(10, (Lifetime(0, 5, 4, 0),), 1)


def test_checker_sees_alignment_and_fixed_offsets():
    problem = Problem(10, (Lifetime(0, 5, 2, 4), Lifetime(5, 6, 2, None, 3)), 1)
    assert violations(problem, (4, 3)) == []
    assert violations(problem, (2, 3))
    assert violations(problem, (4, 4))
