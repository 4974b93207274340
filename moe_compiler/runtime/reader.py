"""A thread that reads what is submitted, the most urgent first, beside the one that computes."""

import atexit
import os
import select
import threading
import time

import numpy as np
from torch import Tensor

from moe_compiler.runtime import native
from moe_compiler.runtime.far import Outcome, Pace, Transfer, move, pace_of, rate_of
from moe_compiler.runtime.packing import pages

MOST_PARTS = 2
"""Of a transfer: pieces of an expert."""


class ReaderEndedError(Exception):
    """The thread that loads experts has ended, and nobody ended it."""


class Reader:
    """Places for transfers, and the thread that makes them; all methods are called by one other thread.

    The thread holds Python's lock only while it looks at bytes that nobody has looked at before.
    """

    def __init__(self, places: int, pace: Pace) -> None:
        self._pace = pace
        self._states = np.full(places, native.FREE)
        self._jobs = np.zeros((places, native.STATUS + 1), dtype=np.int64)
        self._parts = np.zeros((places, MOST_PARTS, native.ROOM + 1), dtype=np.int64)
        self._transfers: list[Transfer | None] = [None] * places
        self._errors: list[Exception | None] = [None] * places
        self._free = list(range(places))
        self._running: set[int] = set()
        self._closed, self._ended, self._seen = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 0
        self._work = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
        self._done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._done, select.POLLIN)
        self._is_closed = False
        self._failure: BaseException | None = None
        """What the thread died of."""
        self._thread = threading.Thread(target=self._run, name="expert-loads", daemon=True)
        # It writes to addresses: nothing may move once Python takes itself down.
        atexit.register(self.close)
        self._thread.start()

    def submit(self, transfer: Transfer, urgency: int) -> int:
        """Let bytes move, before what is less urgent (higher); returns the place of the transfer.

        Raises:
            IndexError: there is no place left.
            RuntimeError: the reader is closed.
        """
        if self._closed[0]:
            raise RuntimeError("the reader is closed")
        place = self._free.pop()
        count = len(transfer.parts)
        self._parts[place, :count] = transfer.parts
        self._jobs[place, : native.IS_CHECKED + 1] = (
            urgency,
            transfer.file,
            count,
            transfer.bytes,
            transfer.is_checked,
        )
        self._transfers[place], self._errors[place] = transfer, None
        native.exchange(self._states, place, native.FREE, native.PENDING)
        self._running.add(place)
        os.eventfd_write(self._work, 1)
        return place

    def hurry(self, place: int, urgency: int) -> None:
        """Change the urgency of a transfer that may not have begun."""
        self._jobs[place, native.URGENCY] = urgency

    def cancel(self, place: int) -> bool:
        """Take a transfer back, if it has not begun; says whether it had not."""
        if not native.exchange(self._states, place, native.PENDING, native.FREE):
            return False
        self._release(place)
        return True

    def ended(self) -> list[Outcome]:
        """Return what has ended since this was last asked, in the order in which it did."""
        if self._ended[0] == self._seen:
            return []
        found = []
        for place in self._running:
            if native.exchange(self._states, place, native.DONE, native.FREE):
                start, end = self._jobs[place, [native.STARTED, native.ENDED]].tolist()
                found.append(Outcome(place, start, end, self._errors[place]))
        self._seen += len(found)
        for outcome in found:
            self._release(outcome.place)
        return sorted(found, key=lambda outcome: outcome.end)

    def wait(self, seconds: float) -> None:
        """Wait until something ends that `ended` has not returned, or so long; it may return sooner.

        Raises:
            ReaderEndedError: there is nobody who reads.
        """
        if self._failure is not None or not self._thread.is_alive():
            raise ReaderEndedError("the thread that loads experts has ended") from self._failure
        if self._poll.poll(seconds * 1e3):
            os.eventfd_read(self._done)

    def close(self) -> None:
        """Stop, when what is moving has moved."""
        if self._is_closed:
            return
        self._closed[0] = 1
        os.eventfd_write(self._work, 1)
        self._thread.join()
        self._is_closed = True
        os.close(self._work)
        os.close(self._done)
        atexit.unregister(self.close)

    def _release(self, place: int) -> None:
        self._transfers[place] = None
        self._running.remove(place)
        self._free.append(place)

    def _run(self) -> None:
        try:
            while (place := self._serve()) != native.CLOSED:
                self._look(place)
                native.end(self._states, place, self._ended, self._done)
        except BaseException as failure:
            self._failure = failure
            os.eventfd_write(self._done, 1)

    def _serve(self) -> int:
        flags, events = (self._closed, self._ended), (self._work, self._done)
        return int(native.serve(self._states, self._jobs, self._parts, self._pace, flags, events))

    def _look(self, place: int) -> None:
        transfer = self._transfers[place]
        assert transfer is not None
        try:
            transfer.check(int(self._jobs[place, native.STATUS]))
        except Exception as error:
            self._errors[place] = error
        self._jobs[place, native.ENDED] = time.perf_counter_ns()


class Addressed:
    """A far memory whose bytes have addresses, or positions in a file; they go to memory of this process.

    Attributes:
        pace: that transfers from here are held to.
    """

    def __init__(self, bytes_per_second: float | None = None) -> None:
        self.pace = pace_of(bytes_per_second)

    @property
    def bytes_per_second(self) -> float | None:
        """See `FarMemory`."""
        return rate_of(self.pace)

    def rooms(self, size: int) -> Tensor:
        """See `FarMemory`."""
        return pages(size)

    def reader(self, places: int) -> Reader:
        """See `FarMemory`."""
        return Reader(places, self.pace)

    def move(self, transfer: Transfer) -> None:
        """See `FarMemory`."""
        move(transfer, self.pace)


def warm_up() -> None:
    """Compile what reads, or read what was compiled before."""
    reader = Reader(1, pace_of())
    bytes_ = np.zeros(2, dtype=np.uint8)
    parts = ((bytes_.ctypes.data, 1, bytes_.ctypes.data + 1),)
    transfer = Transfer(native.MEMORY, parts, 1, False, lambda status: None, bytes_)
    # Where the thread's loop was compiled before, what it calls is not compiled for us.
    move(transfer, pace_of())
    reader.submit(transfer, 0)
    while not reader.ended():
        reader.wait(1.0)
    reader.close()
