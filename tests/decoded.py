"""Perfetto traces read back: slices by track, and counters."""

from dataclasses import dataclass, field
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto


@dataclass
class Found:
    """A slice."""

    track: str
    name: str
    start: int
    end: int = -1
    details: dict[str, Any] = field(default_factory=dict)
    flows: list[int] = field(default_factory=list)
    ended_flows: list[int] = field(default_factory=list)


def decode(data: bytes) -> tuple[list[str], list[Found], dict[str, list[tuple[int, float]]]]:
    """Return tracks, slices and counters; no slice may begin on a track before the last one has ended."""
    trace = proto.Trace()
    trace.ParseFromString(data)
    names, open_, slices, counters = {}, {}, [], {}
    for packet in trace.packet:
        if packet.HasField("track_descriptor"):
            names[packet.track_descriptor.uuid] = packet.track_descriptor.name
            continue
        event, track = packet.track_event, names[packet.track_event.track_uuid]
        if event.type == proto.TrackEvent.TYPE_COUNTER:
            counters.setdefault(track, []).append((packet.timestamp, event.double_counter_value))
        elif event.type == proto.TrackEvent.TYPE_SLICE_BEGIN:
            assert track not in open_, f"two slices overlap on {track}"
            notes = {note.name: note.string_value or note.int_value for note in event.debug_annotations}
            flows = [*event.flow_ids], [*event.terminating_flow_ids]
            open_[track] = Found(track, event.name, packet.timestamp, -1, notes, *flows)
            slices.append(open_[track])
        else:
            open_.pop(track).end = packet.timestamp
    assert not open_
    return [*names.values()], slices, counters


def check_arrows(slices: list[Found]) -> int:
    """Return how many arrows there are; each leads from a load to what is computed with that expert, later."""
    begun = {number: part for part in slices for number in part.flows}
    ended = [(begun[number], part) for part in slices for number in part.ended_flows]
    for load, use in ended:
        assert load.name.startswith("load L")
        assert use.name.startswith(("expert L", "write L"))
        assert (load.details["layer"], load.details["expert"]) == (use.details["layer"], use.details["expert"])
        assert load.end <= use.start
    assert set(begun) == {number for part in slices for number in part.ended_flows}
    return len(ended)
