"""What differs between two compiles: everything that was asked and decided, and seconds that add up."""

import json
import shutil

import pytest

from tests.command import assert_refused, moec
from tests.conftest import write_tiny


@pytest.fixture(scope="module")
def folders(small, tmp_path_factory):
    """One model, compiled for plain decoding, and for two sequences with three drafted tokens in less memory."""
    folder = tmp_path_factory.mktemp("diff")
    write_tiny(folder / "tiny")
    common = ("compile", folder / "tiny", "--target", "elmoe3d-4gb", "--context", 64, "--time-limit", 0.5)
    for name, options in {
        "a": ("--draft-length", 0, "--set", "memories.hb.capacity_gb=0.0004"),
        "b": ("--draft-length", 3, "--batch", 2, "--set", "memories.hb.capacity_gb=0.0003"),
    }.items():
        done = moec(*common, *options, "-o", folder / name)
        assert done.returncode == 0, done.stderr
    return folder


def test_what_was_asked_and_decided_otherwise_is_said_and_seconds_add_up(folders):
    done = moec("diff", folders / "a", folders / "b", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    plans, costs = ([json.loads((folders / f / f"{name}.json").read_text()) for f in "ab"] for name in ("plan", "cost"))
    assert {part["name"]: (part["a"], part["b"]) for part in found["request"]} == {
        "overrides": (["memories.hb.capacity_gb=0.0004"], ["memories.hb.capacity_gb=0.0003"]),
        "batch": (1, 2),
    }
    decided = {part["name"]: (part["a"], part["b"]) for part in found["decisions"]}
    assert decided["draft.length"] == (0, 3)
    assert all(a != b for a, b in decided.values())
    assert found["token_seconds"] == [cost["token"]["seconds"] for cost in costs]
    assert found["difference_seconds"] == found["token_seconds"][1] - found["token_seconds"][0]
    changes = [part["seconds"] for part in found["contributions"]]
    assert sum(changes) == pytest.approx(found["difference_seconds"], rel=1e-9)
    assert [abs(change) for change in changes] == sorted(map(abs, changes), reverse=True)
    was, now = ([level for layer in plan["layers"] for level in layer["residency"]] for plan in plans)
    assert sum(part["experts"] for part in found["residency"]) == sum(a != b for a, b in zip(was, now, strict=True)) > 0
    kinds = [sorted(task["kind"] for task in plan["round"]["tasks"]) for plan in plans]
    drafted = next(part for part in found["tasks"] if part["name"] == "draft-experts")
    assert (drafted["a"], drafted["b"]) == (None, kinds[1].count("draft-experts"))


def test_people_read_the_same(folders):
    text = moec("diff", folders / "a", folders / "b").stdout
    for words in ("token: ", "batch: 1 → 2", "draft.length: 0 → 3", "experts near:", "attention"):
        assert words in text
    assert moec("diff", folders / "a", folders / "a").stdout.splitlines()[-1] == "nothing differs"


def test_what_differs_in_what_is_expected_alone_is_said(folders, tmp_path):
    """Of the same decisions: another α, and seconds that nothing in the files explains."""
    shutil.copytree(folders / "b", tmp_path / "other")
    cost = json.loads((tmp_path / "other" / "cost.json").read_text())
    cost["draft"]["acceptance_rate"], cost["round"]["tokens"] = 0.5, cost["round"]["tokens"] / 2
    cost["token"]["seconds"] *= 2
    (tmp_path / "other" / "cost.json").write_text(json.dumps(cost))
    text = moec("diff", folders / "b", tmp_path / "other").stdout
    assert "acceptance_rate: " in text
    assert "(+100.0%)" in text
    found = json.loads(moec("diff", folders / "b", tmp_path / "other", "--json").stdout)
    assert sum(part["seconds"] for part in found["contributions"]) == pytest.approx(found["difference_seconds"])
    assert "nothing differs" not in text


def test_experts_in_other_banks_are_counted(folders, tmp_path):
    shutil.copytree(folders / "a", tmp_path / "moved")
    plan = json.loads((tmp_path / "moved" / "plan.json").read_text())
    layer = next(layer for layer in plan["layers"] if any(layer["placement"]))
    expert = next(n for n, copies in enumerate(layer["placement"]) if copies)
    layer["placement"][expert] = [[0]] if layer["placement"][expert] != [[0]] else [[1]]
    (tmp_path / "moved" / "plan.json").write_text(json.dumps(plan))
    found = json.loads(moec("diff", folders / "a", tmp_path / "moved", "--json").stdout)
    assert (found["placed_otherwise"], found["residency"], found["difference_seconds"]) == (1, [], 0)


def test_what_cannot_be_compared_is_refused(folders, tmp_path):
    assert_refused(moec("diff", folders / "a", tmp_path), "is no compile of ours", "plan.json")
    other = tmp_path / "other"
    shutil.copytree(folders / "a", other)
    plan = json.loads((other / "plan.json").read_text())
    for change, words in (
        ({"model": "another"}, ["of another (3 MoE layers) cannot be compared", "two compiles of one model"]),
        ({"layers": plan["layers"][:1]}, ["(1 MoE layers) cannot be compared"]),
        ({"layers": [plan["layers"][0] | {"placement": []}, *plan["layers"][1:]]}, ["layers.0", "placement of 0"]),
        ({"schema": 2}, ["is of schema 2", "valid: 1"]),
        ({"layers": 3}, ["plan.json: layers", "it is 3"]),
    ):
        (other / "plan.json").write_text(json.dumps(plan | change))
        assert_refused(moec("diff", folders / "a", other), *words)
    (other / "plan.json").write_text("[")
    assert_refused(moec("diff", folders / "a", other), "plan.json: cannot be read")
    (other / "plan.json").write_text(json.dumps(plan))
    cost = json.loads((other / "cost.json").read_text())
    for part, name, value in (("token", "seconds", 0.0), ("round", "tokens", 0.0), ("round", "seconds", float("inf"))):
        text = json.dumps(cost | {part: cost[part] | {name: value}}).replace("Infinity", "1e999")
        (other / "cost.json").write_text(text)
        assert_refused(moec("diff", folders / "a", other), f"cost.json: {part}.{name}")
    (other / "cost.json").unlink()
    assert_refused(moec("diff", folders / "a", other), "cost.json: cannot be read")
