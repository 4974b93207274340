"""A GPU that is none: its copies are made when somebody waits for them, its kernels are interpreted, or those of CUDA.

Where there is one, tests of kernels run on it.
"""

import time
from dataclasses import dataclass

import torch

HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where kernels are tested."""
UNWRITTEN = 255


@dataclass
class Event:
    """A place in the order of copies; `moment` is when it was reached."""

    gpu: "NoGpu"
    number: int
    moment: float | None = None

    def query(self):
        return self.moment is not None

    def synchronize(self):
        self.gpu.catch_up(self.number)


class NoGpu:
    """See `moe_compiler.runtime.cuda.Device`."""

    def __init__(self):
        self.device = torch.device("cpu")
        self.pinned, self.under_way, self.copied = [], [], []
        self.count = 0

    def pin(self, room):
        self.pinned.append(room.data_ptr())

    def unpin(self, room):
        self.pinned.remove(room.data_ptr())

    def mark(self):
        self.count += 1
        return Event(self, self.count, time.perf_counter())

    def copy(self, pairs, after):
        assert after.moment is not None, "what is computed here is computed at once"
        for _, room in pairs:
            room.fill_(UNWRITTEN)
        start = Event(self, self.count + 1)
        self.count += 2
        end = Event(self, self.count)
        self.under_way.append((start, end, pairs))
        return start, end

    def seconds_between(self, start, end):
        return end.moment - start.moment

    def catch_up(self, number):
        """Make the copies up to an event."""
        while self.under_way and self.under_way[0][0].number <= number:
            start, end, pairs = self.under_way.pop(0)
            start.moment = time.perf_counter()
            for data, room in pairs:
                room[: len(data)] = data
            end.moment = time.perf_counter()
            self.copied.append(pairs)
