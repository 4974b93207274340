"""Measuring solver calls: who runs a pipeline may watch them; no answer depends on being watched."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

KIB_PER_MIB = 1024


@dataclass(frozen=True)
class SolverCall:
    """What one solver call cost on this computer.

    Attributes:
        pass_name: the pass that called.
        instance: what was solved.
        seconds: wall seconds.
        peak_mib: peak resident memory of the process up to the end of the call.
    """

    pass_name: str
    instance: str
    seconds: float
    peak_mib: float


_WATCHERS: ContextVar[tuple[list[SolverCall], ...]] = ContextVar("watchers", default=())


@contextmanager
def watch_solver_calls() -> Iterator[list[SolverCall]]:
    """Collect every solver call made within."""
    calls: list[SolverCall] = []
    token = _WATCHERS.set((*_WATCHERS.get(), calls))
    try:
        yield calls
    finally:
        _WATCHERS.reset(token)


@contextmanager
def solver_call(pass_name: str, instance: str) -> Iterator[None]:
    """Measure one solver call for whoever watches."""
    start = time.perf_counter()
    yield
    seconds, peak = time.perf_counter() - start, peak_mib()
    for calls in _WATCHERS.get():
        calls.append(SolverCall(pass_name, instance, seconds, peak))


def peak_mib() -> float:
    """Return the peak resident memory of this process so far, in MiB (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB
