"""An interrupt ends every command with 130 and one line, whatever runs, and is the caller's again afterwards."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from moe_passes.plan.round import Mode, Task
from moe_passes.solve.rcpsp.problem import Budget, Problem
from moe_passes.solve.rcpsp.solver import solve

from tests.passes.solve.rcpsp.shops import random_jobs

ENTRY = "print(flush=True); from moe_compiler.cli.main import entry; entry()"
"""The line says that Python has started: before that no program can answer."""
SECONDS = 30
"""Far more than it takes on a busy machine; a search that goes on takes longer."""
MOMENTS = [0.3 * n for n in range(1, 11)]


def interrupted(arguments, after: float):
    process = subprocess.Popen(
        [sys.executable, "-c", ENTRY, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, message = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, message


@pytest.fixture(scope="module")
def shop_file(tmp_path_factory) -> Path:
    """A job shop that nothing proves in minutes."""
    import random

    tasks = []
    for job in random_jobs(random.Random(1), 30, 20):
        for place, (machine, duration) in enumerate(job):
            after = [len(tasks) - 1] if place else []
            modes = [{"duration": duration, "uses": {str(machine): 1}}]
            tasks.append({"id": len(tasks), "after": after, "modes": modes})
    path = tmp_path_factory.mktemp("shop") / "shop.json"
    path.write_text(json.dumps({"schema": 1, "resources": {str(m): 1 for m in range(20)}, "tasks": tasks}))
    return path


@pytest.mark.parametrize("after", MOMENTS)
def test_a_search_is_interrupted(shop_file, after):
    code, message = interrupted(["schedule", shop_file, "--time-limit", 300], after)
    assert (code, message) == (130, "moec: interrupted; nothing was written\n")


@pytest.mark.parametrize("after", MOMENTS)
def test_a_compile_is_interrupted_and_writes_nothing(tmp_path, tiny, after):
    out = tmp_path / "out"
    arguments = ["compile", tiny(num_hidden_layers=8), "--target", "elmoe3d-4gb", "--context", 64, "-o", out]
    code, message = interrupted(arguments, after)
    assert (code, message.splitlines()[-1]) == (130, "moec: interrupted; nothing was written")
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-qwen3_moe"]


def test_nothing_is_raised_in_an_import(tmp_path):
    """A native module that is loading does not survive an exception: the process ends at once."""
    body = """
import os, pathlib, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
except KeyboardInterrupt:
    pathlib.Path("raised").touch()
"""
    (tmp_path / "native.py").write_text(body)
    code = "from moe_compiler.cli import main; main.main = lambda: __import__('native'); main.entry()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "moec: interrupted; nothing was written\n")
    assert not (tmp_path / "raised").exists()


@pytest.fixture
def _interrupts():
    """Python's own handler: a shell that runs tests in the background has interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupts")
def test_a_search_from_python_is_interrupted_and_leaves_the_handler():
    tasks = []
    for number in range(400):
        modes = tuple(Mode(5 + (number * n) % 7, ((n, 1),)) for n in range(3))
        tasks.append(Task(modes, (number - 1,) if number % 10 else ()))
    problem = Problem((1, 1, 1), ("a", "b", "c"), tuple(tasks))
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        solve(problem, Budget(600.0), "exact")
    timer.cancel()
    assert signal.getsignal(signal.SIGINT) is before
