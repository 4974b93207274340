"""`moec allocate` from end to end."""

import csv
import json
import sys

import pytest
from click.testing import CliRunner
from moe_passes.plan.errors import InputError

from moe_compiler.cli import main as entry
from moe_compiler.cli.commands import cli

EXAMPLE = "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\nb3,0,9,4\nb4,9,21,4\nb5,0,21,4\n"


def allocate(tmp_path, content, *options):
    path = tmp_path / "in.csv"
    path.write_text(content)
    return CliRunner().invoke(cli, ["allocate", str(path), *map(str, options)])


def overlaps(rows):
    """Check the file alone: rectangles [lower, upper) × [offset, offset + size)."""
    boxes = [[int(row[key]) for key in ("lower", "upper", "offset", "size")] for row in rows]
    return [
        (a, b)
        for n, a in enumerate(boxes)
        for b in boxes[:n]
        if a[0] < b[1] and b[0] < a[1] and a[2] < b[2] + b[3] and b[2] < a[2] + a[3]
    ]


def test_file_in_and_out(tmp_path):
    result = allocate(tmp_path, EXAMPLE, "--capacity", 12, "-o", tmp_path / "out.csv", "--json")
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    assert (document["status"], document["peak"], document["lower_bound"], document["gap"]) == ("optimal", 12, 12, 0)
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["id"] for row in rows] == ["b1", "b2", "b3", "b4", "b5"]
    assert [int(row["offset"]) for row in rows] == [buffer["offset"] for buffer in document["buffers"]]
    assert max(int(row["offset"]) + int(row["size"]) for row in rows) <= 12
    assert overlaps(rows) == []


def test_alignment_and_fixed_offsets(tmp_path):
    content = "size,id,upper,lower,alignment,offset\n3,a,4,0,4,\n3,b,4,0,,8\n2,c,9,3,,\n"
    result = allocate(tmp_path, content, "--capacity", 11, "-o", tmp_path / "out.csv")
    assert result.exit_code == 0, result.exception
    rows = {row["id"]: int(row["offset"]) for row in csv.DictReader((tmp_path / "out.csv").open())}
    assert rows["a"] % 4 == 0
    assert rows["b"] == 8
    assert overlaps(list(csv.DictReader((tmp_path / "out.csv").open()))) == []


@pytest.mark.parametrize(
    ("content", "capacity", "conflict"),
    [
        (EXAMPLE, 11, ["b1", "b3", "b5"]),
        (EXAMPLE, 3, ["b1"]),
        ("id,lower,upper,size,offset\na,0,2,3,0\nb,1,4,3,1\nc,9,9,1,\n", 9, ["a", "b"]),
    ],
)
def test_no_allocation_exits_with_3_and_names_a_conflict(tmp_path, content, capacity, conflict):
    result = allocate(tmp_path, content, "--capacity", capacity, "--json", "-o", tmp_path / "out.csv")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert (document["status"], document["conflict"], document["peak"]) == ("infeasible", conflict, None)
    assert "cannot be placed together" in result.stderr
    assert not (tmp_path / "out.csv").exists()


def test_none_found_exits_with_4(tmp_path):
    """As many buffers as time allows, tight; a limit of nothing."""
    lines = [f"{n},{n * 7 % 31},{n * 7 % 31 + 5 + n % 9},{1 + n * 5 % 11}" for n in range(120)]
    content = "id,lower,upper,size\n" + "\n".join(lines)
    bound = json.loads(allocate(tmp_path, content, "--capacity", 10_000, "--json").stdout)["lower_bound"]
    result = allocate(tmp_path, content, "--capacity", bound, "--time-limit", 0.0001, "--json")
    assert result.exit_code == 4, result.stdout
    assert json.loads(result.stdout)["status"] == "unknown"


def test_exit_codes_reach_the_shell(tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text(EXAMPLE)
    monkeypatch.setattr(sys, "argv", ["moec", "allocate", str(tmp_path / "in.csv"), "--capacity", "11"])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("id,lower,upper\n", "columns id, lower, upper; valid: id, lower, upper, size once each"),
        ("id,lower,upper,size,colour\n", "valid: id, lower, upper, size once each"),
        ("id,lower,upper,size\na,0,1\n", ":2: 3 cells; valid: 4"),
        ("id,lower,upper,size\na,0,1,nan\n", ":2: size 'nan'; valid: an integer from 1"),
        ("id,lower,upper,size\na,-1,1,1\n", ":2: lower '-1'"),
        ("id,lower,upper,size\na,0,1,0\n", ":2: size '0'"),
        ("id,lower,upper,size\na,0,1,99999999999999999999\n", ":2: size '99999"),
        ("id,lower,upper,size\na,3,1,1\n", ":2: upper 1 is before lower 3"),
        ("id,lower,upper,size\na,0,1,1\n\na,0,1,1\n", ":4: id 'a' is the id of line 2, too"),
        ("id,lower,upper,size,alignment\na,0,1,1,0\n", ":2: alignment '0'"),
        ("id,lower,upper,size,alignment,offset\na,0,1,1,4,3\n", ":2: offset 3; valid: a multiple of the alignment, 4"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, says):
    result = allocate(tmp_path, content, "--capacity", 100, "-o", tmp_path / "out.csv")
    assert isinstance(result.exception, InputError), result.output
    assert says in str(result.exception)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "options", [("--capacity", 0), ("--capacity", 9, "--seed", -1), ("--capacity", 9, "--time-limit", "nan")]
)
def test_bad_options_are_refused(tmp_path, options):
    assert isinstance(allocate(tmp_path, EXAMPLE, *options).exception, InputError)


def test_no_buffers_need_no_memory(tmp_path):
    result = allocate(tmp_path, "id,lower,upper,size\n", "--capacity", 1, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["peak"] == 0
