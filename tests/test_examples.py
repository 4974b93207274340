"""The examples run as their docstrings say."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_passes_on_arrays():
    done = subprocess.run([sys.executable, EXAMPLES / "passes_on_arrays.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "partition-experts" in done.stdout


def test_draw_timeline(compiled, tmp_path):
    compiled.save(tmp_path / "out")
    picture = tmp_path / "timeline.png"
    command = [sys.executable, EXAMPLES / "draw_timeline.py", tmp_path / "out", "-o", picture]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
