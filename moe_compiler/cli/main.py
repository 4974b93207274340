"""`moec`: the entry point, which turns errors into exit codes."""

import shlex
import sys
import tempfile
import traceback
from pathlib import Path

from moe_compiler.cli.codes import EXIT_BUG, EXIT_INPUT, EXIT_INTERRUPTED


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


def _run() -> None:
    import click
    from moe_passes.plan.errors import InputError

    from moe_compiler.cli.commands import cli

    try:
        # click returns the code of an `Exit`, and what a command returns, which is None for all of ours.
        code = cli.main(standalone_mode=False)
        if code:
            sys.exit(code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_INPUT)
    except click.Abort:
        _interrupted()
    except InputError as error:
        print(f"moec: error: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    except OSError as error:
        print(f"moec: error: cannot read or write: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT)


def _interrupted() -> None:
    print("moec: interrupted; nothing was written", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)


def _report_bug(error: Exception) -> None:
    """Keep the IR and a command that reproduces the failure."""
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
