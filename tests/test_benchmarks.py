"""What benchmarks compare with, and whether it is fair."""

import runpy
from functools import cache
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def names_of(file, monkeypatch):
    """Return what a benchmark defines."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / file))


least_loads = runpy.run_path(str(BENCHMARKS / "peers.py"))["least_loads"]


def fewest(asked, slots):
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

    return after(0, frozenset())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(1, 3))
def test_no_cache_loads_fewer_than_the_bound(asked, slots):
    assert least_loads([(0, expert) for expert in asked], slots) == fewest(asked, slots)


def test_loads_before_the_first_that_counts_do_not_count():
    asked = [(0, expert) for expert in (1, 2, 1, 3, 2, 3)]
    assert [least_loads(asked, 2, first) for first in (0, 2, 4)] == [3, 1, 0]


def test_what_is_profiled_is_of_other_texts_than_what_is_asked(monkeypatch):
    names = names_of("run.py", monkeypatch)
    asked, others = names["modules"]()
    assert len(set(asked)) == names["PROMPTS"] == len(set(names["asked_prompts"]()))
    assert not set(asked) & set(others)
    assert not any(prompt in text for prompt in names["asked_prompts"]() for text in others)
    assert all(any(prompt in text for text in others) for prompt in names["profiled_prompts"]())
