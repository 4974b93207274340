"""Perfetto traces as values: slices on named tracks, flows between them, and counters, written as protobuf TrackEvents.

Slices of a track never overlap: where they do, the track has as many lanes as there are slices at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from moe_passes.plan.errors import InputError
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

from moe_compiler.paths import read_bytes

SEQUENCE = 1
MOST_TRACE_BYTES = 64 * 1024**2
ROOT_TRACK = 1
FIRST_TRACK = 16
END, LEVEL, START = range(3)
"""Order of events at one moment: what ends makes room for what starts."""


@dataclass(frozen=True)
class Slice:
    """Something that takes time on a track; times are nanoseconds.

    Attributes:
        track: its name.
        name: of the slice.
        start: when it begins.
        end: when it ends; later.
        details: (name, value) that a click shows.
        flows: numbers of the arrows that begin here.
        ended_flows: of those that end here.
    """

    track: str
    name: str
    start: int
    end: int
    details: tuple[tuple[str, int | str], ...] = ()
    flows: tuple[int, ...] = ()
    ended_flows: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """The first word of its name."""
        return self.name.partition(" ")[0]


@dataclass(frozen=True)
class Level:
    """What a counter shows from a moment on.

    Attributes:
        counter: its name.
        unit: of the values.
        time: nanoseconds.
        value: from then on.
    """

    counter: str
    unit: str
    time: int
    value: float


def write_trace(title: str, tracks: Iterable[str], slices: Sequence[Slice], levels: Sequence[Level] = ()) -> bytes:
    """Write a trace, the same for the same content.

    Args:
        title: of the group of all tracks.
        tracks: names in the order in which they are shown; one without slices is shown empty.
        slices: in any order; those that take no time are left out.
        levels: of counters, in any order; their tracks come last.
    """
    writer, slices = _Writer(title), [part for part in slices if part.end > part.start]
    numbers = lanes(slices)
    most = dict.fromkeys((*tracks, *(part.track for part in slices)), 0)
    for part, lane in zip(slices, numbers, strict=True):
        most[part.track] = max(most[part.track], lane)
    for name, last in most.items():
        for lane in range(last + 1):
            writer.describe(name, lane)
    events: list[tuple[int, int, int, Slice | Level, int]] = []
    for number, (part, lane) in enumerate(zip(slices, numbers, strict=True)):
        track = writer.tracks[part.track, lane]
        events += [(part.start, START, number, part, track), (part.end, END, number, part, track)]
    for number, level in enumerate(levels):
        events.append((level.time, LEVEL, number, level, writer.describe(level.counter, unit=level.unit)))
    for time, kind, _, what, track in sorted(events, key=lambda event: event[:3]):
        writer.add(time, kind, what, track)
    data: bytes = writer.trace.SerializeToString(deterministic=True)
    return data


def summed(counter: str, unit: str, parts: Iterable[tuple[int, int, float]]) -> list[Level]:
    """Return the levels of a counter that adds up (start, end, value) while each lasts."""
    changes: dict[int, list[float]] = {}
    for start, end, value in parts:
        changes.setdefault(start, []).append(value)
        changes.setdefault(end, []).append(-value)
    lasting: list[float] = []
    levels = []
    for time in sorted(changes):
        for change in changes[time]:
            # Added up anew, so that no rounding error stays behind.
            if -change in lasting:
                lasting.remove(-change)
            else:
                lasting.append(change)
        levels.append(Level(counter, unit, time, sum(lasting)))
    return levels


def lanes(slices: Sequence[Slice]) -> list[int]:
    """Return the lane of every slice on its track: the lowest that is free when it starts."""
    result, ends = [0] * len(slices), dict[str, list[int]]()
    for number in sorted(range(len(slices)), key=lambda n: (slices[n].start, n)):
        part = slices[number]
        busy = ends.setdefault(part.track, [])
        lane = next((n for n, end in enumerate(busy) if end <= part.start), len(busy))
        busy[lane : lane + 1] = [part.end]
        result[number] = lane
    return result


class _Writer:
    """A trace that is being written, and the numbers of its tracks by (name, lane)."""

    def __init__(self, title: str) -> None:
        self.trace = proto.Trace()
        self.tracks: dict[tuple[str, int], int] = {}
        root = self._packet(0).track_descriptor
        root.uuid, root.name, root.child_ordering = ROOT_TRACK, title, proto.TrackDescriptor.EXPLICIT

    def describe(self, name: str, lane: int = 0, unit: str = "") -> int:
        """Return the number of a track, which is described when it is first asked for."""
        if (name, lane) not in self.tracks:
            number = self.tracks[name, lane] = FIRST_TRACK + len(self.tracks)
            track = self._packet(0).track_descriptor
            track.uuid, track.parent_uuid, track.sibling_order_rank = number, ROOT_TRACK, number
            track.name = name + (f" ({lane + 1})" if lane else "")
            if unit:
                track.counter.unit_name = unit
        return self.tracks[name, lane]

    def add(self, time: int, kind: int, what: Slice | Level, track: int) -> None:
        """Add an event."""
        event = self._packet(time).track_event
        event.track_uuid = track
        if isinstance(what, Level):
            event.type = proto.TrackEvent.TYPE_COUNTER
            event.double_counter_value = what.value
        elif kind == END:
            event.type = proto.TrackEvent.TYPE_SLICE_END
        else:
            event.type = proto.TrackEvent.TYPE_SLICE_BEGIN
            event.name = what.name
            event.flow_ids.extend(what.flows)
            event.terminating_flow_ids.extend(what.ended_flows)
            for name, value in what.details:
                note = event.debug_annotations.add()
                note.name = name
                setattr(note, "int_value" if isinstance(value, int) else "string_value", value)

    def _packet(self, time: int) -> Any:
        packet = self.trace.packet.add()
        packet.timestamp = time
        packet.trusted_packet_sequence_id = SEQUENCE
        return packet


def read_trace(path: Path) -> tuple[list[str], list[Slice]]:
    """Read a trace of ours back: names of tracks in their order, and slices.

    Raises:
        InputError: it cannot be read, is too large, or is no such trace.
    """
    try:
        data = read_bytes(path, MOST_TRACE_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    trace, names, open_, slices = proto.Trace(), dict[int, str](), dict[int, Slice](), list[Slice]()
    try:
        trace.ParseFromString(data)
    except DecodeError:
        raise InputError(f"{path}: is no Perfetto trace, or was cut off; valid: what moec wrote") from None
    for packet in trace.packet:
        event, track = packet.track_event, packet.track_event.track_uuid
        if packet.HasField("track_descriptor"):
            names[packet.track_descriptor.uuid] = packet.track_descriptor.name
        elif event.type == proto.TrackEvent.TYPE_SLICE_BEGIN:
            details = ((n.name, n.string_value or n.int_value) for n in event.debug_annotations)
            open_[track] = Slice(names.get(track, ""), event.name, packet.timestamp, packet.timestamp, tuple(details))
        elif event.type == proto.TrackEvent.TYPE_SLICE_END and track in open_:
            slices.append(replace(open_.pop(track), end=packet.timestamp))
    shown = dict.fromkeys(part.track for part in slices)
    return [name for name in names.values() if name in shown], slices
