"""The timelines that a person opens: named phases, no two slices at once on a track, arrows, and the plan's totals."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from moe_passes.ir.round import read_round
from moe_passes.plan.round import add_up

from moe_compiler.backend.trace_file import Level, Slice, lanes, summed, write_trace
from tests.decoded import check_arrows, decode

times = st.integers(0, 30)


@given(st.lists(st.tuples(st.sampled_from("ab"), times, times), max_size=12))
def test_slices_on_a_lane_never_overlap_and_there_are_no_more_lanes_than_slices_at_once(drawn):
    slices = [Slice(track, str(n), start, start + length + 1) for n, (track, start, length) in enumerate(drawn)]
    found = lanes(slices)
    by_lane = {}
    for part, lane in zip(slices, found, strict=True):
        by_lane.setdefault((part.track, lane), []).append((part.start, part.end))
    for spans in by_lane.values():
        spans.sort()
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
    for part, lane in zip(slices, found, strict=True):
        at_once = [o for o in slices if o.track == part.track and o.start <= part.start < o.end]
        assert lane < len(at_once)
    _, read, _ = decode(write_trace("title", ["a", "b"], slices))
    assert sorted((p.name, p.start, p.end) for p in read) == sorted((p.name, p.start, p.end) for p in slices)


def test_what_ends_makes_room_for_what_begins_and_nothing_that_takes_no_time_is_shown():
    slices = [Slice("a", "second", 5, 9), Slice("a", "first", 0, 5), Slice("a", "nothing", 5, 5)]
    tracks, read, _ = decode(write_trace("title", ["empty"], slices))
    assert tracks == ["title", "empty", "a"]
    assert [part.name for part in read] == ["first", "second"]


def test_a_counter_adds_up_what_lasts():
    assert summed("c", "bytes", [(0, 4, 2.0), (2, 6, 1.0)]) == [
        Level("c", "bytes", 0, 2.0),
        Level("c", "bytes", 2, 3.0),
        Level("c", "bytes", 4, 1.0),
        Level("c", "bytes", 6, 0.0),
    ]


def test_the_predicted_timeline_is_the_plan(compiled):
    files = compiled.files()
    plan, cost = json.loads(files["plan.json"]), json.loads(files["cost.json"])
    tracks, slices, counters = decode(files["timeline.perfetto-trace"])
    tasks, length = plan["round"]["tasks"], plan["draft"]["length"]
    assert {"phases", "external", "link"} <= set(tracks)
    phases = [part for part in slices if part.track == "phases"]
    assert [part.name for part in phases] == [*(f"draft {n + 1}" for n in range(length)), "verify"]
    assert all(first.end <= second.start for first, second in pairwise(phases))
    assert max(part.end for part in slices) == round(cost["training_round"]["seconds"] * 1e9)
    assert {part.details["task"] for part in slices if part.track != "phases"} == {task["id"] for task in tasks}
    external = [part for part in slices if part.track.startswith("external")]
    loads = [part for part in external if part.name.startswith("load")]
    read = sum(part.details.get("external_read_bytes", 0) for part in external)
    assert read == add_up(read_round(compiled.module, "test").work).external_read_bytes > 0
    assert sorted(part.details["task"] for part in loads) == [t["id"] for t in tasks if t["kind"] == "load"]
    assert check_arrows(slices) >= len(loads)
    staged = [value for _, value in counters["staging"]]
    assert 0 < max(staged) <= plan["draft"]["staging_bytes"]
    assert staged[-1] == 0
    bandwidth = counters["bandwidth of the far memory"]
    moved = sum(value * (later - time) for (time, value), (later, _) in pairwise(bandwidth))
    assert abs(moved - read) <= 1
