"""The examples run as their docstrings say."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


SOLVERS = ("allocation", "dispatch", "draft", "placement", "rcpsp")


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_is_used_without_torch_and_without_mlir(solver):
    """The script runs, and nothing that it imports brings either in."""
    run = f"""
import runpy, sys
from moe_passes.solve.{solver} import solve
assert callable(solve)
runpy.run_path({str(EXAMPLES / "solvers" / f"{solver}.py")!r}, run_name="__main__")
print(sorted({{"torch", "torch_mlir", "transformers", "moe_compiler"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *said, imported = done.stdout.splitlines()
    assert said, "says what it found"
    assert imported == "[]"


def test_every_solver_that_the_contract_names_has_an_example():
    assert {path.stem for path in (EXAMPLES / "solvers").glob("*.py")} == set(SOLVERS)


def test_draw_timeline(compiled, tmp_path):
    compiled.save(tmp_path / "out")
    picture = tmp_path / "timeline.png"
    command = [sys.executable, EXAMPLES / "draw_timeline.py", tmp_path / "out", "-o", picture]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
