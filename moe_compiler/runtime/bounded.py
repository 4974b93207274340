"""Run what a stranger's file decides, so that it ends and leaves the machine to others."""

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection

from moe_compiler.runtime.memory import data_bytes

WAITED_TIMES = 6
"""As long as it may compute, it is waited for: other programs may have the processor."""
LARGEST_REASON = 200
OUT_OF_TIME = (-signal.SIGXCPU, -signal.SIGKILL)


@dataclass(frozen=True)
class Limits:
    """What may be taken.

    Attributes:
        seconds: of a processor.
        bytes: of memory, beside what this process has.
        characters: of the text that is made.
    """

    seconds: int
    bytes: int
    characters: int


def bounded(run: Callable[[], str], limits: Limits) -> str:
    """Run a function in a child of this process; return its text.

    The child is a fork, so that nothing is loaded anew; it must not compute with torch, whose threads it does not have.

    Raises:
        ValueError: it fails or takes too much; the message goes on from what it is.
    """
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(run, sender, limits), daemon=True)
    try:
        child.start()
        sender.close()
        is_over = receiver.poll(limits.seconds * WAITED_TIMES)
        is_made, text = receiver.recv() if is_over else (False, _too_long(limits))
    except EOFError:
        child.join()
        is_out_of_time = child.exitcode in OUT_OF_TIME
        is_made, text = False, _too_long(limits) if is_out_of_time else f"ends with exit code {child.exitcode}"
    except OSError as error:
        is_made, text = False, f"cannot be run: {error}"
    finally:
        receiver.close()
        sender.close()
        if child.pid is not None:
            child.kill()
            child.join()
    if not is_made:
        raise ValueError(text)
    return str(text)


def _too_long(limits: Limits) -> str:
    return f"takes over {limits.seconds} s"


def _child(run: Callable[[], str], sender: Connection, limits: Limits) -> None:
    try:
        sender.send(_made(run, limits))
    finally:
        # Nothing of the parent's is cleaned up here.
        os._exit(0)


def _made(run: Callable[[], str], limits: Limits) -> tuple[bool, str]:
    """Return whether a text was made, and it, or why not."""
    try:
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_CPU, limits.seconds)
        if found := data_bytes():
            # Of data, not of addresses: libraries set aside more addresses than a machine has memory.
            _limit(resource.RLIMIT_DATA, found + limits.bytes)
        text = run()
    except MemoryError:
        return False, f"takes over {limits.bytes / 1e9:.0f} GB"
    except BaseException as error:
        # A panic of a library below is no Exception.
        return False, f"fails: {reason_of(error)}"
    if len(text) > limits.characters:
        return False, f"makes over {limits.characters:,} characters"
    return True, text


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def reason_of(error: BaseException) -> str:
    """Return the first line of what an error of a stranger's file says, of its beginning; or what kind it is."""
    try:
        return (str(error).lstrip()[:LARGEST_REASON].splitlines() or [type(error).__name__])[0]
    except Exception:
        return type(error).__name__
