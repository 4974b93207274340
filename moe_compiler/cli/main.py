"""`moec`: the entry point, which turns errors into exit codes."""

import gc
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from moe_compiler.cli.codes import EXIT_BUG, EXIT_INPUT, EXIT_INTERRUPTED

PATIENCE_SECONDS = 1.5
"""After an interrupt, for what runs outside of Python and hears of it only when it is done."""
NEW_OBJECTS = 20_000
"""Made before Python looks for cycles among them: rounds are thousands of values without any."""
MOST_LINES, MOST_COLUMNS = 30, 600
"""Of a message."""

SAID: list[int] = []
"""After an interrupt, the descriptor of stderr as it was."""


def entry() -> NoReturn:
    """Be the console script: run, and end at once.

    Taking down torch and MLIR takes seconds, in which an interrupt would be Python's, without a word.
    """
    code: object = 0
    collect_seldom()
    try:
        _watch_interrupts()
        main()
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as stop:
        code = stop.code
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, AttributeError):  # Whoever read it has gone, or there never was one.
        code = code or EXIT_INPUT
    os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> None:
    """Run the command line.

    Imports happen in here, so that an interrupt during them is an interrupt and not a traceback.
    """
    try:
        _run()
    except KeyboardInterrupt:
        _interrupted()
    except Exception as error:
        _report_bug(error)
        sys.exit(EXIT_BUG)


def collect_seldom() -> None:
    """Let Python look for cycles seldom; a process of ours only, as it holds for all of it.

    With all that torch and MLIR keep, looking takes as long as making the values of rounds does.
    """
    gc.set_threshold(NEW_OBJECTS, 10, 10)


def _run() -> None:
    import click
    from moe_passes.plan.errors import InputError

    from moe_compiler.cli.commands import cli

    try:
        _check_words(sys.argv)
        # click returns the code of an `Exit`, and what a command returns, which is None for all of ours.
        code = cli.main(standalone_mode=False)
        if code:
            sys.exit(code)
    except click.ClickException as error:
        click.UsageError(_cut(error.format_message()), getattr(error, "ctx", None)).show()
        sys.exit(EXIT_INPUT)
    except click.Abort:
        _interrupted()
    except InputError as error:
        print(f"moec: error: {_cut(str(error))}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    except OSError as error:
        print(f"moec: error: cannot read or write: {_cut(str(error))}", file=sys.stderr)
        sys.exit(EXIT_INPUT)


def _cut(message: str) -> str:
    """Shorten a message that repeats what it was given: some lines, each of some hundred characters."""
    from moe_compiler.cli.text import printable

    half = MOST_COLUMNS // 2
    given = [printable(line) for line in message.splitlines()]
    lines = [line if len(line) <= MOST_COLUMNS else f"{line[:half]} … {line[-half:]}" for line in given]
    return "\n".join(lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], f"… {len(lines) - MOST_LINES} more"])


def _check_words(words: list[str]) -> None:
    """Refuse bytes that are no UTF-8: no output could hold them."""
    from moe_passes.plan.errors import InputError

    for place, word in enumerate(words):
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            shown = word.encode("utf-8", "backslashreplace").decode()[:80]
            raise InputError(f"argument {place} has bytes that are not UTF-8: {shown}; valid: names in UTF-8")


def _watch_interrupts() -> None:
    """End the process a while after an interrupt, where native code keeps Python from hearing of it."""
    import threading
    import time

    heard, rings = os.pipe()
    os.set_blocking(rings, False)
    signal.set_wakeup_fd(rings, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(heard, 1) != bytes([signal.SIGINT]):
            pass
        time.sleep(PATIENCE_SECONDS)
        _interrupted()

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, _hear)


def _hear(_: int, frame: FrameType | None) -> NoReturn:
    """Raise; whatever else others say of it (click, native code that calls Python) goes nowhere.

    During an import there is nothing to be taken back, and native modules do not survive an exception (nanobind's ends
    the process by a segmentation fault).
    """
    if _is_importing(frame):
        _interrupted()
    if not SAID:
        SAID.append(os.dup(2))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _interrupted() -> NoReturn:
    """End at once; what was being written has been taken back by now."""
    os.write(SAID[0] if SAID else 2, b"moec: interrupted; nothing was written\n")
    os._exit(EXIT_INTERRUPTED)


def _report_bug(error: Exception) -> None:
    """Keep the IR and a command that reproduces the failure."""
    import shlex
    import tempfile
    import traceback
    from pathlib import Path

    from moe_compiler.compilation import PassFailureError

    cause = error.__cause__ or error
    folder = Path(tempfile.mkdtemp(prefix="moec-bug-"))
    (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))
    lines = [
        f"moec: this is a bug in moec: {error}: {type(cause).__name__}: {str(cause)[:300]}",
        f"  command:   {shlex.join(sys.argv)}",
        f"  traceback: {folder / 'traceback.txt'}",
    ]
    if isinstance(error, PassFailureError):
        (folder / "before.mlir").write_text(error.text)
        command = ["moec", "opt", str(folder / "before.mlir"), "-p", error.rest]
        command += ["--profile", error.profile] if error.profile else []
        lines.append(f"  reproduce: {shlex.join(command)}")
    print("\n".join(lines), file=sys.stderr)
