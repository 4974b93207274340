"""One thread that loads experts: what is waited for first, then prefetches by urgency, while slots are free."""

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
WAITED_FOR = 0
"""Priority of a load that a computation waits for: it begins whether or not a slot is free."""


class Loader(Generic[T]):
    """Loads by priority (lowest first), in the order of submission among equals.

    Attributes:
        slots: free slots; a load takes one, if there is one, until it is released.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._queue: list[tuple[int, int]] = []
        self._entries: dict[int, tuple[Future[T], Callable[[], T]]] = {}
        self._number_of: dict[int, int] = {}
        self._holds: set[int] = set()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="expert-loads", daemon=True)
        self._thread.start()

    def submit(self, priority: int, load: Callable[[], T], future: Future[T] | None = None) -> Future[T]:
        """Queue a load, or one that is queued already (`future`) with another priority.

        Raises:
            RuntimeError: the loader is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the loader is closed")
            future = Future() if future is None else future
            self._forget(future)
            number = next(self._numbers)
            self._entries[number] = (future, load)
            self._number_of[id(future)] = number
            heapq.heappush(self._queue, (priority, number))
            self._changed.notify()
        return future

    def release(self, future: Future[T]) -> None:
        """Give the slot of a load back; one that has not begun is dropped."""
        future.cancel()
        with self._changed:
            self._forget(future)
            if id(future) in self._holds:
                self._holds.remove(id(future))
                self.slots += 1
                self._changed.notify()

    def close(self) -> None:
        """Stop; queued loads are dropped."""
        with self._changed:
            self._closed = True
            for future, _ in self._entries.values():
                future.cancel()
            self._changed.notify()
        self._thread.join()

    def _forget(self, future: Future[T]) -> None:
        """Take a load out of the queue; its place there is skipped."""
        self._entries.pop(self._number_of.pop(id(future), -1), None)

    def _next(self) -> tuple[Future[T], Callable[[], T]] | None:
        """Wait for a load that may begin; None when closed."""
        with self._changed:
            while not self._closed:
                while self._queue and self._queue[0][1] not in self._entries:
                    heapq.heappop(self._queue)
                if not self._queue or (self.slots <= 0 and self._queue[0][0] != WAITED_FOR):
                    self._changed.wait()
                    continue
                future, load = self._entries[heapq.heappop(self._queue)[1]]
                self._forget(future)
                if not future.set_running_or_notify_cancel():
                    continue
                if self.slots > 0:
                    self.slots -= 1
                    self._holds.add(id(future))
                return future, load
            return None

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            future, load = entry
            try:
                future.set_result(load())
            except BaseException as error:
                future.set_exception(error)
            del entry, future, load
