"""Moving bytes without Python's lock: reads, and the loop that a thread reads in, compiled by Numba.

A thread that needs Python's lock for every load takes it from the one that computes, and each waits for the other to
wake: on a machine with two cores that cost more than the loads themselves.
"""

import errno
import time
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from moe_compiler.runtime.compiled import natively

FREE, PENDING, RUNNING, DONE = range(4)
"""States of a job."""
URGENCY, FILE, COUNT, BYTES, IS_CHECKED, STARTED, ENDED, STATUS = range(8)
"""What a job is: the lowest urgency is first; a descriptor or `MEMORY`; how many parts; bytes of them; whether Python
looks at it before it is done; nanoseconds; and 0, `CUT_OFF` or the number of an error."""
SOURCE, SIZE, ROOM = range(3)
"""What a part is: a position in the file, or an address; bytes, whole pages of a file; and the address they go to."""
RATE, UNTIL = range(2)
"""What a pace is: bytes per second, 0 for as fast as it goes, and when what was moved so far would have ended, in
nanoseconds."""
MEMORY, CUT_OFF, CLOSED = -1, -1, -1
INTERRUPTED = errno.EINTR
MONOTONIC = time.CLOCK_MONOTONIC
"""Which is what `time.perf_counter_ns` reads."""
LONGEST_SLEEP_MICROSECONDS = 20_000
"""Between looks at whether the loop is to end."""


def _of_libc(name: str, result: Any, *arguments: Any) -> Any:
    return types.ExternalFunction(name, result(*arguments))


_read = _of_libc("read", types.intp, types.intc, types.uintp, types.uintp)
_write = _of_libc("write", types.intp, types.intc, types.uintp, types.uintp)
_preadv = _of_libc("preadv", types.intp, types.intc, types.uintp, types.intc, types.int64)
_memmove = _of_libc("memmove", types.uintp, types.uintp, types.uintp, types.uintp)
_clock = _of_libc("clock_gettime", types.intc, types.intc, types.uintp)
_usleep = _of_libc("usleep", types.intc, types.uint32)
_errno = _of_libc("__errno_location", types.CPointer(types.int32))  # type: ignore[no-untyped-call]
_carray: Any = numba.carray  # type: ignore[attr-defined]


def _typed(_: Any, array: Any, place: Any, old: Any, new: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, values[0])
        pointer = cgutils.get_item_pointer(  # type: ignore[no-untyped-call]
            context, builder, signature.args[0], made, [values[1]]
        )
        found = builder.cmpxchg(pointer, values[2], values[3], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(array, types.intp, array.dtype, array.dtype), code


_exchange: Any = intrinsic(_typed)


@natively()
def exchange(values: Any, place: int, old: int, new: int) -> Any:
    """Change a value of [n] int64 from one to another at once, if it is that one; says whether it was."""
    return _exchange(values, np.intp(place), np.int64(old), np.int64(new))


@natively()
def _now() -> Any:
    parts = np.empty(2, np.int64)
    _clock(MONOTONIC, parts.ctypes.data)
    return parts[0] * 1_000_000_000 + parts[1]


@natively()
def _read_run(file: Any, parts: Any) -> Any:
    """Read parts that lie one behind the other, as one read where the disk gives it as one."""
    rooms, left, at = np.empty((parts.shape[0], 2), np.int64), np.int64(0), parts[0, SOURCE]
    for n in range(parts.shape[0]):
        rooms[n, 0], rooms[n, 1] = parts[n, ROOM], parts[n, SIZE]
        left += parts[n, SIZE]
    first = 0
    while left:
        count = _preadv(np.int32(file), rooms[first:].ctypes.data, np.int32(rooms.shape[0] - first), at)
        if count == 0:
            return np.int64(CUT_OFF)
        if count < 0:
            error = np.int64(_carray(_errno(), 1)[0])
            if error != INTERRUPTED:
                return error
            continue
        at, left = at + count, left - count
        while first < rooms.shape[0] and count >= rooms[first, 1]:
            count -= rooms[first, 1]
            first += 1
        if count:
            rooms[first, 0] += count
            rooms[first, 1] -= count
    return np.int64(0)


@natively()
def booked(pace: Any, size: Any, start: Any) -> Any:
    """Give bytes their time at a rate, behind those that were given theirs, not before `start`; returns its end."""
    took = np.int64(size * 1e9 / pace[RATE])
    while True:
        until = pace[UNTIL]
        end = max(until, start) + took
        if exchange(pace, UNTIL, until, end):
            return end


@natively()
def _hold(pace: Any, size: Any, start: Any, closed: Any) -> None:
    """Wait until so many bytes may have moved: whoever reads, what is emulated has one rate for all."""
    if not pace[RATE]:
        return
    end = booked(pace, size, start)
    while not closed[0] and _now() < end:
        _usleep(np.uint32(min((end - _now()) // 1000 + 1, LONGEST_SLEEP_MICROSECONDS)))


@natively()
def move(file: Any, parts: Any, size: Any, pace: Any, closed: Any) -> Any:
    """Move parts, here and now.

    Args:
        file: the descriptor that they are read from, or `MEMORY`.
        parts: [part, 3] int64.
        size: bytes that count, those of padding do not.
        pace: [2] int64, that it is held to.
        closed: [1] int64; once it is not 0, nothing is waited for any more.

    Returns:
        0; `CUT_OFF` where the file ends before the bytes do; or the number of an error.
    """
    start, first, status = _now(), 0, np.int64(0)
    while first < parts.shape[0] and not status:
        last = first + 1
        if file == MEMORY:
            _memmove(parts[first, ROOM], parts[first, SOURCE], parts[first, SIZE])
        else:
            while last < parts.shape[0] and parts[last - 1, SOURCE] + parts[last - 1, SIZE] == parts[last, SOURCE]:
                last += 1
            status = _read_run(file, parts[first:last])
        first = last
    _hold(pace, size, start, closed)
    return status


@natively()
def _most_urgent(states: Any, jobs: Any) -> Any:
    """Begin the most urgent job that waits, if there is one; returns its place, or −1."""
    while True:
        best = -1
        for place in range(states.shape[0]):
            if states[place] == PENDING and (best < 0 or jobs[place, URGENCY] < jobs[best, URGENCY]):
                best = place
        if best < 0 or exchange(states, best, PENDING, RUNNING):
            return best


@natively()
def end(states: Any, place: int, ended: Any, done: int) -> Any:
    """Let others know that a job is done."""
    exchange(states, place, RUNNING, DONE)
    ended[0] += 1
    one = np.ones(1, np.uint64)
    _write(np.int32(done), one.ctypes.data, 8)
    # What is used no more is freed: whatever lies at an address that is passed must be used once more afterwards.
    return one[0]


@natively()
def serve(states: Any, jobs: Any, parts: Any, pace: Any, flags: Any, events: Any) -> Any:
    """Do one job after the other, the most urgent first, until there is one for Python to look at, or all is over.

    Args:
        states: [job] int64.
        jobs: [job, 8] int64.
        parts: [job, part, 3] int64.
        pace: [2] int64, that what moves is held to.
        flags: two of [1] int64: whether it is over, and how many jobs were done.
        events: descriptors of two eventfds: one is read once for each job, the other is written after each.

    Returns:
        The job to look at, which is not done yet; or `CLOSED`.
    """
    (closed, ended), (work, done), token = flags, events, np.empty(1, np.uint64)
    while True:
        _read(np.int32(work), token.ctypes.data, 8)
        if closed[0]:
            return CLOSED
        place = _most_urgent(states, jobs)
        if place < 0:
            continue
        jobs[place, STARTED] = _now()
        count = jobs[place, COUNT]
        status = move(jobs[place, FILE], parts[place, :count], jobs[place, BYTES], pace, closed)
        jobs[place, STATUS], jobs[place, ENDED] = status, _now()
        if status or jobs[place, IS_CHECKED]:
            return place
        end(states, place, ended, done)
