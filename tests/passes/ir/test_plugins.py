"""Passes and cost models from outside: the worked example is installed and run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from moe_passes.plan import plugins
from moe_passes.plan.errors import InputError

from tests.command import moec
from tests.conftest import write_tiny

PACKAGE = Path(__file__).parents[3] / "examples" / "pass_package"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Install the example package into a folder of its own; returns that."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def installed(site, monkeypatch):
    """Let this process find the example package."""
    monkeypatch.syspath_prepend(str(site))


def test_a_pass_from_outside_is_listed_and_runs_beside_ours_and_mlirs(installed, compiled, tmp_path):
    listed = json.loads(moec("passes", "--json").stdout)
    assert listed[-1]["name"] == "pin-experts"
    assert listed[-1]["options"][0]["name"] == "experts"
    snapshot = tmp_path / "draft.mlir"
    snapshot.write_text(dict(compiled.snapshots)["select-draft"])
    done = moec("opt", snapshot, "-p", "canonicalize,pin-experts{experts=9;15},cse,partition-experts")
    assert done.returncode == 0, done.stderr
    stores = [line for line in done.stdout.splitlines() if '"moe.expert_store"' in line]
    assert len(stores) == 3
    for line in stores:
        residents = line.partition("#moe.residency<{msb = array<i64: ")[2].partition(">")[0].split(", ")
        assert {"9", "15"} <= set(residents)
        assert "#moe.replica<9 : i64" in line


def test_a_pass_from_outside_is_refused_with_the_true_reason(installed, compiled, tmp_path):
    snapshot = tmp_path / "raised.mlir"
    snapshot.write_text(dict(compiled.snapshots)["raise-moe"])
    early = moec("opt", snapshot, "-p", "pin-experts")
    assert early.returncode == 2
    assert "pin-experts needs the draft plan" in early.stderr
    assert "select-draft" in early.stderr
    wrong = moec("opt", snapshot, "-p", "select-draft,pin-experts{experts=99}")
    assert wrong.returncode == 2
    assert "valid: ids from 0 to 15" in wrong.stderr


def test_every_pass_and_estimate_follows_a_cost_model_from_outside(installed, small, tmp_path):
    """On a machine that is twice as slow in everything, the same plan takes twice as long, rounding apart."""
    folder = write_tiny(tmp_path / "tiny", num_hidden_layers=1)
    base = ["compile", folder, "--target", "elmoe3d-4gb", "--set", "memories.hb.capacity_gb=0.0001"]
    base += ["--draft-length", "2", "--context", "64", "--time-limit", "0.2", "--json"]
    base += ["--profile", "synthetic-600tokens-seed0"]
    costs = {}
    for name in ("analytic", "half-speed"):
        done = moec(*base, "--cost-model", name, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
        costs[name] = json.loads(done.stdout)
        assert costs[name]["cost_model"] == name
    full, half = costs["analytic"], costs["half-speed"]
    for section, key in (("round", "seconds"), ("held_out", "mean_seconds"), ("steady_state", "period_seconds")):
        assert half[section][key] == pytest.approx(2 * full[section][key], rel=0.02)
    assert half["joules_by_part"]["external_read"] == full["joules_by_part"]["external_read"]
    assert half["joules_by_part"]["static"] == pytest.approx(2 * full["joules_by_part"]["static"], rel=0.02)
    assert half["limited_by"] == full["limited_by"]
    assert half["roofline_fraction"] == pytest.approx(full["roofline_fraction"], rel=0.02)
    solvers = [
        {s["pass"]: s["objective"] for s in json.loads((tmp_path / name / "plan.json").read_text())["solvers"]}
        for name in ("analytic", "half-speed")
    ]
    for name in ("select-draft", "partition-experts", "schedule-round"):
        assert solvers[1][name] == pytest.approx(2 * solvers[0][name], rel=0.02), name


def test_a_cost_model_that_is_not_registered_is_refused(tmp_path):
    import moe_compiler

    with pytest.raises(InputError, match=r"unknown cost model 'analytical'; did you mean 'analytic'"):
        moe_compiler.compile(write_tiny(tmp_path / "tiny"), "elmoe3d-4gb", cost_model="analytical")


def test_names_that_clash_are_errors(monkeypatch):
    class Point:
        name, value = "schedule-round", "elsewhere:Pass"

    monkeypatch.setattr(plugins, "_registered", lambda group: (Point(),))
    with pytest.raises(InputError, match=r"'schedule-round' is registered more than once"):
        plugins.load("group", {"schedule-round": "ours:Pass"}, "schedule-round", "pass")


def test_what_is_no_pass_is_refused(monkeypatch):
    from moe_passes.ir.registry import load_pass

    class Point:
        name, value = "odd", "elsewhere:odd"

        def load(self):
            return print

    monkeypatch.setattr(plugins, "_registered", lambda group: (Point(),))
    with pytest.raises(InputError, match=r"not a moe_passes.ir.base.Pass"):
        load_pass("odd")
