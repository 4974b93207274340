"""Our passes in xDSL: visible by its entry point, and what they make is what `moec opt` makes."""

import subprocess
import sys
from pathlib import Path

import pytest
from moe_passes.ir.dialects import irdl
from moe_passes.xdsl_plugin import UNIVERSE
from xdsl.utils.exceptions import PassFailedException

from tests.command import moec

XDSL_OPT = Path(sys.executable).parent / "xdsl-opt"


def xdsl(*arguments):
    return subprocess.run([XDSL_OPT, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def drafted(compiled, tmp_path_factory):
    """The module after select-draft, without locations."""
    folder = tmp_path_factory.mktemp("xdsl")
    (folder / "ir.mlir").write_text(dict(compiled.snapshots)["select-draft"])
    done = moec("opt", folder / "ir.mlir", "-p", "strip-debuginfo", "-o", folder / "drafted.mlir")
    assert done.returncode == 0, done.stderr
    assert "loc(" not in (folder / "drafted.mlir").read_text()
    return folder / "drafted.mlir"


def test_a_pass_in_xdsl_opt_makes_what_it_makes_in_moec_opt(drafted, tmp_path):
    done = xdsl(drafted, "-p", "partition-experts", "-o", tmp_path / "xdsl.mlir")
    assert done.returncode == 0, done.stderr
    for name, source, passes in (
        ("one", tmp_path / "xdsl.mlir", "strip-debuginfo"),
        ("other", drafted, "partition-experts,strip-debuginfo"),
    ):
        assert moec("opt", source, "-p", passes, "-o", tmp_path / name).returncode == 0
    assert (tmp_path / "one").read_text() == (tmp_path / "other").read_text()
    assert "#moe.replica<" in (tmp_path / "xdsl.mlir").read_text()


def test_a_round_is_scheduled_in_xdsl_opt(drafted, tmp_path):
    passes = "partition-experts{placer=search},choose-dispatch,lower-to-tasks,schedule-round{time-limit=0.5 workers=1}"
    done = xdsl(drafted, "-p", passes, "-o", tmp_path / "scheduled.mlir")
    assert done.returncode == 0, done.stderr
    assert "#sched.slot<" in (tmp_path / "scheduled.mlir").read_text()
    assert "slot = #sched.open" not in (tmp_path / "scheduled.mlir").read_text()


def test_what_a_pass_refuses_xdsl_says(drafted):
    done = xdsl(drafted, "-p", "schedule-round")
    assert done.returncode != 0
    assert "schedule-round needs the tasks of a round" in done.stderr
    done = xdsl(drafted, "-p", "partition-experts{placer=none}")
    assert "PassFailedException" in done.stderr
    assert issubclass(PassFailedException, Exception)


def test_dialects_and_passes_are_those_of_our_definition():
    for name in ("moe", "sched"):
        dialect = UNIVERSE.all_dialects[name]()
        body = irdl().split(f"irdl.dialect @{name} ")[1].split("irdl.dialect @")[0]
        operations = {
            f"{name}.{line.split('@')[1].split(' ')[0]}" for line in body.splitlines() if "irdl.operation" in line
        }
        assert {operation.name for operation in dialect.operations} == operations
    made = UNIVERSE.all_passes["schedule-round"]()
    assert made.name == "schedule-round"
    assert {"time_limit", "workers", "profile"} <= set(made.__dataclass_fields__)
