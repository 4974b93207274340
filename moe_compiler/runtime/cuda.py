"""What needs a GPU of NVIDIA's, and nothing else: streams, events, memory. Tests put another in the place of `Cuda`."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

OUT_OF_MEMORY = 2
"""Of CUDA's errors."""


class Event(Protocol):
    """A place in the order in which a GPU works."""

    def query(self) -> bool:
        """Say whether all that was before it is done."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was before it is done."""
        ...


class Device(Protocol):
    """A GPU that copies while it computes."""

    @property
    def device(self) -> torch.device:
        """What torch calls it."""
        ...

    def pin(self, room: Tensor) -> None:
        """Let the GPU copy from memory of this process by itself.

        Raises:
            MemoryError: there is no room for so much that stays where it is.
            ValueError: it cannot be pinned for another reason.
        """
        ...

    def unpin(self, room: Tensor) -> None:
        """Undo `pin`."""
        ...

    def mark(self) -> Event:
        """Return the event after all that was given so far to the current stream."""
        ...

    def copy(self, pairs: Sequence[tuple[Tensor, Tensor]], after: Event) -> tuple[Event, Event]:
        """Copy pinned bytes to rooms of the GPU beside what it computes, one copy after the other.

        Args:
            pairs: bytes, and the room that they go to.
            after: nothing is written before it.

        Returns:
            The events before the first byte and after the last one.
        """
        ...

    def seconds_between(self, start: Event, end: Event) -> float:
        """Return the time from one event to another, both of them past."""
        ...


class Cuda:
    """The first GPU of this machine, its stream of copies beside the one that computes.

    Raises:
        ValueError: there is none.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            why = "torch is built without it" if torch.version.cuda is None else "torch finds no GPU"
            raise ValueError(f"--device cuda: there is no CUDA here: {why}; valid: --device cpu")
        self.device = torch.device("cuda")
        self._copies = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def pin(self, room: Tensor) -> None:
        """See `Device`."""
        status = torch.cuda.cudart().cudaHostRegister(room.data_ptr(), len(room), 0)  # type: ignore[no-untyped-call]
        if int(status) == OUT_OF_MEMORY:
            raise MemoryError
        if int(status):
            raise ValueError(f"--device cuda: memory cannot be pinned: CUDA error {int(status)}; valid: --device cpu")

    def unpin(self, room: Tensor) -> None:
        """See `Device`."""
        torch.cuda.cudart().cudaHostUnregister(room.data_ptr())  # type: ignore[no-untyped-call]

    def mark(self) -> Event:
        """See `Device`."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def copy(self, pairs: Sequence[tuple[Tensor, Tensor]], after: Event) -> tuple[Event, Event]:
        """See `Device`."""
        assert isinstance(after, torch.cuda.Event)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(after)
            start = self.mark()
            for data, room in pairs:
                room[: len(data)].copy_(data, non_blocking=True)
            return start, self.mark()

    def seconds_between(self, start: Event, end: Event) -> float:
        """See `Device`."""
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        return float(start.elapsed_time(end)) * 1e-3

    def reset_peak(self) -> int:
        """Let the peak of the memory that is in use begin anew; returns what is in use, in bytes."""
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak_bytes(self) -> int:
        """Return the most memory that was in use since `reset_peak`."""
        return torch.cuda.max_memory_allocated()
