"""The command line in the process of the tests, which has loaded torch and MLIR already."""

import contextlib
import io
import subprocess
import sys
from unittest import mock

from moe_compiler.cli.main import main


def moec(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run `moec` as its console script does, but for what belongs to a process: signals, and ending at once."""
    words = ["moec", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    code: object = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", words),
        mock.patch.object(sys, "stdin", given),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    return subprocess.CompletedProcess(words, code if isinstance(code, int) else 1, out.getvalue(), err.getvalue())


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """The command ended with 2, one message that holds these words, and nothing on stdout."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert result.stdout == ""
