"""`moec show`: every file that a compile writes, for people and as JSON; Model Explorer's graph and overlay."""

import json
import shutil
from pathlib import Path

import pytest

from tests.command import assert_refused, moec

VERSIONS = Path(__file__).parent.parent / "data" / "versions"


@pytest.fixture(scope="module")
def folder(compiled, tmp_path_factory):
    out = tmp_path_factory.mktemp("show") / "out"
    compiled.save(out)
    return out


def shown(path, *options):
    done = moec("show", path, *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if "--json" in options else done.stdout


def test_every_file_of_a_compile_is_shown_in_lines_and_as_json(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 15
    for path in (folder, *files):
        assert shown(path).strip(), path
        assert shown(path, "--json"), path


def test_what_is_shown_is_what_the_files_say(folder):
    plan, cost = (json.loads((folder / f"{name}.json").read_text()) for name in ("plan", "cost"))
    assert shown(folder / "plan.json", "--json")["round"] == plan["round"]
    assert shown(folder / "cost.json", "--json")["token"] == cost["token"]
    text = shown(folder / "plan.json")
    assert sum(line.startswith("task ") for line in text.splitlines()) == len(plan["round"]["tasks"])
    tracks = shown(folder / "timeline.perfetto-trace", "--json")
    far = [task for task in plan["round"]["tasks"] if "external" in task["uses"]]
    assert tracks["external"]["slices"] == sum(tracks["external"]["kinds"].values()) == len(far)
    assert tracks["external"]["busy_seconds"] == pytest.approx(sum(task["seconds"] for task in far))
    arrays = shown(folder / "plan.npz", "--json")
    assert arrays["layers"]["shape"] == [len(plan["layers"])]
    held = shown(folder / "held_out.json").splitlines()
    assert len(held) == cost["held_out"]["rounds"]
    tasks = shown(folder / "ir" / "09-verify-plan.mlir", "--op", "sched.task", "--json")
    assert len(tasks) == len(plan["round"]["tasks"])
    assert set(tasks[0]) == {"where", "operation", "line", "says"}


def test_other_files_of_ours(tmp_path):
    assert "experts of layer 0" in shown(VERSIONS / "store-1.store")
    figures = shown("targets/elmoe3d-8gb.yaml", "--json")
    assert {"path", "unit", "value", "source"} == set(figures[0])
    (tmp_path / "ir.txt").write_text((VERSIONS / "dialect-6.mlir").read_text())
    assert "sched.task" in shown(tmp_path / "ir.txt")


def test_what_is_not_ours_is_refused(folder, tmp_path):
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bad.npz").write_bytes(b"PK\x05\x06" + bytes(18))
    (tmp_path / "cut.perfetto-trace").write_bytes((folder / "timeline.perfetto-trace").read_bytes()[:100] + b"\xff")
    (tmp_path / "x.store").write_bytes(b"MOESTORE" + bytes(40))
    for name, words in (
        ("other.json", "is no document of ours"),
        ("list.json", "is no document of ours"),
        ("cut.perfetto-trace", "is no Perfetto trace"),
        ("x.store", "is of version 0"),
        ("none.json", "no such file or folder"),
        ("none.mlir", "cannot be read"),
        ("", "is no compile of ours"),
    ):
        assert_refused(moec("show", tmp_path / name), words)
    shutil.copytree(folder, tmp_path / "out")
    (tmp_path / "out" / "compile.json").unlink()
    assert_refused(moec("show", tmp_path / "out"), "compile.json")


def test_model_explorers_graph_is_the_phases_and_its_overlay_the_rounds_seconds(folder):
    collection = json.loads((folder / "model_explorer.graph.json").read_text())
    data = json.loads((folder / "model_explorer.node_data.json").read_text())
    plan = json.loads((folder / "plan.json").read_text())
    length = plan["draft"]["length"]
    for graph in collection["graphs"]:
        nodes = {node["id"]: node for node in graph["nodes"]}
        assert len(nodes) == len(graph["nodes"])
        sources = [edge["sourceNodeId"] for node in graph["nodes"] for edge in node["incomingEdges"]]
        assert set(sources) <= set(nodes)
        lines = [item["value"] for node in graph["nodes"] for item in node["attrs"] if item["key"] == "line"]
        assert not [line for line in lines if line.startswith("/")], "where a package is installed is no part of it"
        assert set(data[graph["id"]]["results"]) <= set(nodes)
        is_draft = graph["id"] == "draft_step"
        spent = sum(task["seconds"] for task in plan["round"]["tasks"] if (task["step"] < length) == is_draft)
        overlay = sum(result["value"] for result in data[graph["id"]]["results"].values())
        assert overlay == pytest.approx(spent / (length if is_draft else 1))
        heads = [node for node in graph["nodes"] if node["label"] == "moe.head"]
        assert [node["namespace"] for node in heads] == [""]
        assert data[graph["id"]]["results"][heads[0]["id"]]["value"] > 0
