"""One thread that loads experts: what is waited for first, then prefetches by urgency, while slots are free."""

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
WAITED_FOR = 0
"""Priority of a load that a computation waits for: it does not need a free slot, it is used at once."""


class Loader(Generic[T]):
    """Loads by priority (lowest first), in the order of submission among equals.

    Attributes:
        slots: loads that may be held before they are released; changed by `release` alone.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._queue: list[tuple[int, int, Future[T], Callable[[], T]]] = []
        self._holds: set[int] = set()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="expert-loads", daemon=True)
        self._thread.start()

    def submit(self, priority: int, load: Callable[[], T], future: Future[T] | None = None) -> Future[T]:
        """Queue a load, or one that is queued already (`future`) with another priority."""
        future = Future() if future is None else future
        with self._changed:
            heapq.heappush(self._queue, (priority, next(self._numbers), future, load))
            self._changed.notify()
        return future

    def release(self, future: Future[T]) -> None:
        """Give the slot of a load back; one that has not begun is dropped."""
        future.cancel()
        with self._changed:
            if id(future) in self._holds:
                self._holds.remove(id(future))
                self.slots += 1
                self._changed.notify()

    def close(self) -> None:
        """Stop; queued loads are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _next(self) -> tuple[Future[T], Callable[[], T]] | None:
        """Wait for a load that may begin; None when closed."""
        with self._changed:
            while not self._closed:
                while self._queue and (self._queue[0][2].done()):
                    heapq.heappop(self._queue)
                if self._queue and (self.slots > 0 or self._queue[0][0] == WAITED_FOR):
                    _, _, future, load = heapq.heappop(self._queue)
                    if future.set_running_or_notify_cancel():
                        if self.slots > 0:
                            self.slots -= 1
                            self._holds.add(id(future))
                        return future, load
                    continue
                self._changed.wait()
            return None

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            future, load = entry
            try:
                future.set_result(load())
            except BaseException as error:
                future.set_exception(error)
