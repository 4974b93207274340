"""The predicted timeline as a Perfetto trace: protobuf TrackEvents, one track per resource."""

from moe_passes.dialects.round import Round
from moe_passes.lower_to_tasks.problem import Work
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

SEQUENCE = 1
ROOT_TRACK = 1
FIRST_TRACK = 16


def timeline(round_: Round, title: str) -> bytes:
    """Serialise a scheduled round; a task is a slice on the track of every resource that it occupies."""
    trace = proto.Trace()
    _describe(trace, ROOT_TRACK, title, None)
    problem, schedule = round_.problem, round_.schedule("emit")
    held = {b.resource for b in problem.buffers}
    for resource, name in enumerate(problem.names):
        if resource not in held and name != "staging":
            _describe(trace, FIRST_TRACK + resource, name, ROOT_TRACK)
    # Ends before starts at one moment: slices on a track then nest properly.
    events = []
    for number, work in enumerate(round_.work):
        mode = problem.tasks[number].modes[schedule.modes[number]]
        start, end = schedule.starts[number], schedule.starts[number] + mode.duration
        for resource, amount in mode.uses:
            if amount and mode.duration:
                events.append((start, 1, number, resource, label(work)))
                events.append((end, 0, number, resource, ""))
    for time, is_start, _, resource, name in sorted(events):
        packet = trace.packet.add()
        packet.timestamp = time
        packet.trusted_packet_sequence_id = SEQUENCE
        event = packet.track_event
        event.track_uuid = FIRST_TRACK + resource
        event.type = proto.TrackEvent.TYPE_SLICE_BEGIN if is_start else proto.TrackEvent.TYPE_SLICE_END
        if is_start:
            event.name = name
    data: bytes = trace.SerializeToString(deterministic=True)
    return data


def label(work: Work) -> str:
    """Name a task for people."""
    where = f"L{work.layer}" + (f" expert {work.expert}" if work.expert >= 0 else "")
    return f"{work.kind} {where} (step {work.step})"


def _describe(trace: proto.Trace, uuid: int, name: str, parent: int | None) -> None:
    packet = trace.packet.add()
    packet.timestamp = 0
    packet.trusted_packet_sequence_id = SEQUENCE
    packet.track_descriptor.uuid = uuid
    packet.track_descriptor.name = name
    if parent is not None:
        packet.track_descriptor.parent_uuid = parent
