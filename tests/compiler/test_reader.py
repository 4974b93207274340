"""The thread that reads: what it begins with, what is taken back, and what becomes of one that fails or dies."""

import itertools
import os
import threading

import numpy as np
import pytest

from moe_compiler.runtime import native
from moe_compiler.runtime.far import Transfer, pace_of
from moe_compiler.runtime.reader import Reader, ReaderEndedError


class Source:
    """Bytes in memory, and a gate that a transfer of the first of them waits at."""

    def __init__(self):
        self.bytes, self.room = np.arange(200, dtype=np.uint8), np.zeros(200, dtype=np.uint8)
        self.go, self.begun = threading.Event(), threading.Event()

    def transfer(self, number, check=None):
        part = (self.bytes.ctypes.data + number, 1, self.room.ctypes.data + number)
        return Transfer(native.MEMORY, (part,), 1, check is not None, check or (lambda status: None), self)

    def gate(self, status):
        self.begun.set()
        assert self.go.wait(5)


@pytest.fixture
def reader():
    made = Reader(8, pace_of())
    yield made
    made.close()


def all_ended(reader, count):
    found = []
    while len(found) < count:
        found += reader.ended()
        if len(found) < count:
            reader.wait(5)
    return found


def test_the_most_urgent_is_moved_first_and_what_is_taken_back_never(reader):
    source = Source()
    first = reader.submit(source.transfer(0, source.gate), 9)
    assert source.begun.wait(5)
    assert not reader.cancel(first), "it has begun"
    places = {n: reader.submit(source.transfer(n), urgency) for n, urgency in ((1, 7), (2, 5), (3, 6), (4, 8))}
    reader.hurry(places[4], 1)
    assert reader.cancel(places[3])
    assert not reader.ended()
    source.go.set()
    found = all_ended(reader, 4)
    assert [outcome.place for outcome in found] == [first, places[4], places[2], places[1]]
    assert [int(n) for n in np.flatnonzero(source.room)] == [1, 2, 4]
    assert all(a.start <= a.end <= b.start for a, b in itertools.pairwise(found))
    # Places are free again: more transfers than there are places.
    for n in range(10, 100):
        reader.submit(source.transfer(n), 0)
        all_ended(reader, 1)
    assert (source.room[10:100] == source.bytes[10:100]).all()


def test_a_transfer_that_fails_says_why_and_the_next_one_is_made(reader):
    source = Source()

    def damaged(status):
        raise ValueError(f"damaged, {status}")

    def cut_off(status):
        assert status == native.CUT_OFF
        raise ValueError("cut off")

    reader.submit(source.transfer(1, damaged), 0)
    with open(os.devnull, "rb") as file:
        reader.submit(Transfer(file.fileno(), ((0, 1, source.room.ctypes.data),), 1, False, cut_off, source), 1)
        reader.submit(source.transfer(2), 2)
        found = all_ended(reader, 3)
    assert [str(outcome.error) for outcome in found] == ["damaged, 0", "cut off", "None"]
    assert source.room[2] == 2


def test_one_that_has_ended_before_it_is_waited_for_is_not_waited_for(reader):
    source = Source()
    reader.submit(source.transfer(1), 0)
    while not reader._ended[0]:
        pass
    reader.wait(30)
    assert len(reader.ended()) == 1


def test_a_thread_that_is_no_more_is_said_and_a_closed_one_leaves_nothing(monkeypatch):
    def dies(self):
        raise KeyError("made to die")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(Reader, "_serve", dies)
    reader = Reader(1, pace_of())
    reader.submit(Source().transfer(1), 0)
    reader._thread.join(5)
    with pytest.raises(ReaderEndedError, match="the thread that loads experts has ended") as raised:
        reader.wait(5)
    assert isinstance(raised.value.__cause__, KeyError)
    reader.close()
    reader.close()
    with pytest.raises(RuntimeError, match="closed"):
        reader.submit(Source().transfer(1), 0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_does_not_wait_for_a_slow_disk():
    """A byte a second is emulated: a thousand of them are not waited for."""
    source, pace = Source(), pace_of(1)
    reader = Reader(1, pace)
    reader.submit(source.transfer(1)._replace(bytes=1000), 0)
    while reader._states[0] != native.RUNNING:
        pass
    reader.close()
    assert source.room[1] == 1
