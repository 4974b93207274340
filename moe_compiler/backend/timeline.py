"""The predicted timeline as a Perfetto trace: protobuf TrackEvents, one track per resource.

A resource that tasks share has as many tracks as there are tasks on it at once: slices on a track must not overlap.
"""

from moe_passes.ir.round import Round
from moe_passes.plan.round import Schedule, Work
from moe_passes.solve.rcpsp.problem import Problem
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

SEQUENCE = 1
ROOT_TRACK = 1
FIRST_TRACK = 16


def timeline(round_: Round, title: str) -> bytes:
    """Serialise a scheduled round; a task is a slice on the track of every resource that it occupies."""
    trace = proto.Trace()
    _describe(trace, ROOT_TRACK, title, None)
    problem, schedule = round_.problem, round_.schedule("emit")
    lanes = _lanes(problem, schedule)
    tracks: dict[tuple[int, int], int] = {}
    for resource, lane in sorted(set(lanes.values()) | {(r, 0) for r in _shared_in_time(problem)}):
        tracks[resource, lane] = FIRST_TRACK + len(tracks)
        name = problem.names[resource] + (f" ({lane + 1})" if lane else "")
        _describe(trace, tracks[resource, lane], name, ROOT_TRACK)
    # Ends before starts at one moment: slices on a track then nest properly.
    events = []
    for number, work in enumerate(round_.work):
        mode = problem.tasks[number].modes[schedule.modes[number]]
        start, end = schedule.starts[number], schedule.starts[number] + mode.duration
        for resource, amount in mode.uses:
            if amount and mode.duration:
                track = tracks[lanes[number, resource]]
                events.append((start, 1, number, track, label(work)))
                events.append((end, 0, number, track, ""))
    for time, is_start, _, track, name in sorted(events):
        packet = trace.packet.add()
        packet.timestamp = time
        packet.trusted_packet_sequence_id = SEQUENCE
        event = packet.track_event
        event.track_uuid = track
        event.type = proto.TrackEvent.TYPE_SLICE_BEGIN if is_start else proto.TrackEvent.TYPE_SLICE_END
        if is_start:
            event.name = name
    data: bytes = trace.SerializeToString(deterministic=True)
    return data


def _shared_in_time(problem: Problem) -> list[int]:
    """Return the resources that are not held as bytes."""
    held = {b.resource for b in problem.buffers}
    return [r for r, name in enumerate(problem.names) if r not in held and name != "staging"]


def _lanes(problem: Problem, schedule: Schedule) -> dict[tuple[int, int], tuple[int, int]]:
    """Return (resource, lane) of every task on every resource, such that no two in a lane overlap."""
    busy_until: dict[int, list[int]] = {}
    result: dict[tuple[int, int], tuple[int, int]] = {}
    for number in sorted(range(len(problem.tasks)), key=lambda n: (schedule.starts[n], n)):
        mode = problem.tasks[number].modes[schedule.modes[number]]
        for resource, amount in mode.uses:
            if amount and mode.duration:
                ends = busy_until.setdefault(resource, [])
                lane = next((n for n, end in enumerate(ends) if end <= schedule.starts[number]), len(ends))
                ends[lane : lane + 1] = [schedule.end(problem, number)]
                result[number, resource] = (resource, lane)
    return result


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
