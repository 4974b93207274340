"""Placements that are asked for, by hand."""

import numpy as np
import pytest
from moe_passes.plan.decisions import FROZEN
from moe_passes.plan.errors import InputError
from moe_passes.plan.place import parse_place
from moe_passes.solve.hot_set.follow import HotSet
from moe_passes.solve.residency.fixed import check_place, near_experts, rule_of

COUNTS = np.array([[1, 5, 3, 2], [9, 0, 9, 1]])
"""Two layers of four experts."""


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("all-near", [[0, 1, 2, 3], [0, 1, 2, 3]]),
        ("experts=far", [[], []]),
        ("experts=loaded", [[], []]),
        ("layers=1:far", [[0, 1, 2, 3], []]),
        ("near-share=0.5", [[1, 2], [0, 2]]),
        ("near-share=0.6:front", [[0, 1, 2, 3], [0]]),
        ("cache=3", [[1, 2, 3], [0, 2, 3]]),
    ],
)
def test_who_is_near(text, near):
    found = near_experts(parse_place(text), COUNTS, 0)
    assert [np.flatnonzero(row).tolist() for row in found] == near


def test_random_ones_are_as_many_whatever_the_seed():
    sets = {near_experts(parse_place("near-share=0.5:random"), COUNTS, seed).tobytes() for seed in range(8)}
    assert len(sets) > 1
    found = near_experts(parse_place("near-share=0.5:random"), COUNTS, 3)
    assert found.sum(axis=1).tolist() == [2, 2]


def test_a_cache_keeps_what_was_used_last():
    """Two slots hold 1 and 2; 0 is used, then 3: the one that was used least recently goes, however popular it was."""
    place = parse_place("cache=2")
    assert rule_of(parse_place("near-share=0.5"), 4) == FROZEN
    counts = COUNTS[:1]
    cache = HotSet(rule_of(place, 4), near_experts(place, counts, 0), counts)
    held = []
    for used in ([1], [0], [3], [0], [2]):
        cache.follow(np.isin(np.arange(4), used)[None].astype(np.int64), 1, 1)
        held.append(np.flatnonzero(cache.resident[0]).tolist())
    assert held == [[1, 2], [0, 1], [0, 3], [0, 3], [0, 2]]


@pytest.mark.parametrize(
    ("text", "memories", "words"),
    [
        ("layers=3:far", ("vram", "dram"), "2 MoE layers; valid: 0 to 2"),
        ("cache=5", ("vram", "dram"), "4 experts; valid: 1 to 4"),
        ("near-share=0.5", ("unified",), "one memory, 'unified'; valid: all-near"),
        ("experts=far", ("vram", "dram"), "no engine computes on memory 'dram'"),
    ],
)
def test_what_cannot_be_is_refused(text, memories, words):
    with pytest.raises(InputError, match=words):
        check_place(parse_place(text), (2, 4), memories, computes_far=False)
