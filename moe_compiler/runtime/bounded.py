"""Run what a stranger's file decides, so that it ends and leaves the machine's memory to others."""

import resource
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection


class TooMuchError(Exception):
    """It took more time or memory than it may."""


def bounded(run: Callable[[], str], most_seconds: int, most_bytes: int) -> str:
    """Run a function in a child of this process; return its text.

    The child is a fork, so that nothing is loaded anew; it must not compute with torch, whose threads it does not have.

    Args:
        run: makes the text.
        most_seconds: of a processor.
        most_bytes: of memory, beside what this process has.

    Raises:
        TooMuchError: it takes more than that.
        ValueError: it fails; the reason is its message.
    """
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(run, sender, most_seconds, most_bytes), daemon=True)
    child.start()
    sender.close()
    try:
        is_made, text = receiver.recv()
    except EOFError:
        raise TooMuchError(f"takes over {most_seconds} s, or over {most_bytes / 1e9:.0f} GB") from None
    finally:
        child.kill()
        child.join()
        receiver.close()
    if not is_made:
        raise ValueError(text)
    return str(text)


def _child(run: Callable[[], str], sender: Connection, most_seconds: int, most_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (most_seconds, most_seconds))
    # Of data, not of addresses: libraries set aside more addresses than a machine has memory.
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + most_bytes,) * 2)
    try:
        made = True, run()
    except MemoryError:
        return
    except Exception as error:
        made = False, str(error).strip() or type(error).__name__
    sender.send(made)


def _data_bytes() -> int:
    """Bytes of data that this process has; 0 where nothing says so."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return 0
