"""`moec schedule` from end to end."""

import json

import pytest
from click.testing import CliRunner
from moe_passes.plan.errors import InputError

from moe_compiler.cli.commands import cli


def schedule(tmp_path, document, *options):
    path = tmp_path / "p.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return CliRunner().invoke(cli, ["schedule", str(path), *map(str, options)])


def task(name, duration, after=(), resource="m", **more):
    return {"id": name, "after": list(after), "modes": [{"duration": duration, "uses": {resource: 1}}], **more}


def file(*tasks, **more):
    return {"schema": 1, "resources": {"m": 1, "n": 1}, "tasks": list(tasks), **more}


def test_two_jobs_on_two_machines(tmp_path):
    """Jobs m3 n2 and n2 m4: 7 is the load of m, and can be reached."""
    jobs = (task("a1", 3), task("a2", 2, ["a1"], "n"), task("b1", 2, [], "n"), task("b2", 4, ["b1"]))
    result = schedule(tmp_path, file(*jobs), "--json")
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    assert (document["status"], document["makespan"], document["lower_bound"], document["gap"]) == ("optimal", 7, 7, 0)
    assert [entry["id"] for entry in document["tasks"]] == ["a1", "a2", "b1", "b2"]
    assert all(entry["mode"] == 0 for entry in document["tasks"])
    assert document["greedy"] >= 7


def test_decimals_are_exact_and_modes_are_chosen(tmp_path):
    modes = [{"duration": 0.3, "uses": {"m": 1}}, {"duration": 0.1, "uses": {"n": 0.5}}]
    tasks = [{"id": n, "modes": modes} for n in range(3)]
    document = json.loads(schedule(tmp_path, file(*tasks), "--json").stdout)
    assert (document["status"], document["makespan"]) == ("optimal", 0.2)
    assert [entry["mode"] for entry in document["tasks"]] == [1, 1, 1]


def test_buffers_are_held_from_start_to_end(tmp_path):
    """Two loads of 2 into a buffer for one: the second waits for the use of the first."""
    tasks = (task("l1", 2), task("u1", 3, ["l1"], "n"), task("l2", 2), task("u2", 3, ["l2"], "n"))
    buffers = [{"resource": "b", "amount": 1, "from": f"l{n}", "to": f"u{n}"} for n in (1, 2)]
    problem = file(*tasks, buffers=buffers)
    problem["resources"]["b"] = 1
    assert json.loads(schedule(tmp_path, problem, "--json").stdout)["makespan"] == 10
    problem["resources"]["b"] = 2
    assert json.loads(schedule(tmp_path, problem, "--json").stdout)["makespan"] == 8


def test_deadlines_that_contradict_exit_with_3(tmp_path):
    tasks = (task("a", 3, deadline=4), task("b", 3, deadline=4), task("c", 1, [], "n", deadline=1))
    result = schedule(tmp_path, file(*tasks), "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert (document["status"], document["makespan"], document["tasks"]) == ("infeasible", None, [])
    assert (document["conflict"], document["conflict_is_smallest"]) == (["a", "b"], True)
    assert "'a', 'b'" in result.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("{", "cannot be read"),
        ('{"schema": 1, "schema": 1}', "'schema' stands twice"),
        ("[]", "file: Input should be"),
        ({"schema": 2}, "schema: Input should be 1"),
        ({"colour": 1}, "colour: Extra inputs"),
        ({"tasks": [task("a", -1)]}, "tasks.0.modes.0.duration: Input should be greater than or equal to 0"),
        ({"tasks": [task("a", "3")]}, "tasks.0.modes.0.duration: Value error, must be a number"),
        ({"tasks": [task("a", True)]}, "must be a number"),
        ({"tasks": [{"id": "a", "modes": []}]}, "tasks.0.modes: List should have at least 1 item"),
        ({"tasks": [task("a", 1), task("a", 1)]}, "tasks.1.id: 'a' is the id of tasks.0, too"),
        ({"tasks": [task("a", 1, ["z"])]}, "tasks.0.after: task 'z' does not exist"),
        ({"tasks": [task("a", 1, ["b"]), task("b", 1, ["a"])]}, "in a cycle: 'a' → 'b' → 'a'"),
        ({"tasks": [task("a", 1, [], "q")]}, "tasks.0.modes.0.uses: resource 'q' does not exist; valid: m, n"),
        ({"resources": {"m": 0}}, "tasks.0.modes.0.uses.m: 1 is above the capacity, 0"),
        ({"buffers": [{"resource": "m", "amount": 2, "from": "a", "to": "a"}]}, "buffers.0.amount: 2 is above"),
        ({"buffers": [{"resource": "m", "amount": 1, "from": "a", "to": "z"}]}, "buffers.0.to: task 'z' does not"),
        (
            {
                "tasks": [task("a", 1), task("b", 1, ["a"]), task("c", 1, ["b"])],
                "buffers": [{"resource": "m", "amount": 1, "from": "c", "to": "a"}],
            },
            "buffers.0.to: 'a' ends before 'c' ('from') starts; valid: 'c' or a task that does not come before it",
        ),
        ({"tasks": [task("a", 1e300)]}, "valid: whole steps below 2**50"),
    ],
)
def test_bad_files_are_refused(tmp_path, change, says):
    document = change if isinstance(change, str) else {**file(task("a", 1)), **change}
    result = schedule(tmp_path, document)
    assert isinstance(result.exception, InputError), result.output
    assert says in str(result.exception)


def test_nan_is_refused(tmp_path):
    result = schedule(tmp_path, json.dumps(file(task("a", float("nan")))))
    assert "NaN is not a number of JSON" in str(result.exception)


@pytest.mark.parametrize("options", [("--time-limit", 0), ("--time-limit", "inf"), ("--seed", -1)])
def test_bad_options_are_refused(tmp_path, options):
    assert isinstance(schedule(tmp_path, file(task("a", 1)), *options).exception, InputError)


def test_nothing_to_do(tmp_path):
    result = schedule(tmp_path, {"schema": 1, "resources": {}, "tasks": []})
    assert result.exit_code == 0
    assert "0 tasks in 0 (optimal" in result.stdout


def test_several_workers_give_the_same_bytes(tmp_path):
    tasks = [task(n, 1 + n * 5 % 7, [n - 3] if n > 2 else [], "mn"[n % 2]) for n in range(14)]
    runs = [schedule(tmp_path, file(*tasks), "--json", "--workers", 2, "--seed", 4) for _ in range(2)]
    assert runs[0].exit_code == 0
    assert json.loads(runs[0].stdout)["status"] == "optimal"
    assert runs[0].stdout == runs[1].stdout


@pytest.mark.parametrize("workers", [0, 257])
def test_bad_workers_are_refused_with_the_value(tmp_path, workers):
    result = schedule(tmp_path, file(task("a", 1)), "--workers", workers)
    assert f"--workers {workers}; valid: an integer from 1 to 256" in str(result.exception)


def test_a_number_beyond_decimals_is_refused(tmp_path):
    result = schedule(tmp_path, '{"schema": 1, "resources": {"m": 1e99999999999999999999}, "tasks": []}')
    assert isinstance(result.exception, InputError), result.output
    assert "cannot be read" in str(result.exception)
