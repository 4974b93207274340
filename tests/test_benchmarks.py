"""What benchmarks compare with: a bound that were none would make every figure look good."""

import runpy
from functools import cache
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

least_loads = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "peers.py"))["least_loads"]


def fewest(asked, slots, first):
    """Try everything that could give way."""

    @cache
    def after(number, cached):
        if number == len(asked):
            return 0
        key = asked[number]
        if key in cached:
            return after(number + 1, cached)
        kept = [cached] if len(cached) < slots else [cached - {old} for old in cached]
        return 1 + min(after(number + 1, frozenset(rest | {key})) for rest in kept)

    return after(first, frozenset())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(1, 3))
def test_no_cache_loads_fewer_than_the_bound(asked, slots):
    assert least_loads([(0, expert) for expert in asked], slots) == fewest(asked, slots, 0)


def test_loads_before_the_first_that_counts_do_not_count():
    asked = [(0, expert) for expert in (1, 2, 1, 3, 2, 3)]
    assert [least_loads(asked, 2, first) for first in (0, 2, 4)] == [3, 1, 0]
