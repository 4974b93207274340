import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moe_compiler.cli.commands import COMMANDS, cli
from moe_compiler.frontend.models import shipped_models
from moe_compiler.hardware.loader import shipped_targets
from tests.command import assert_refused, moec
from tests.conftest import write_tiny

MOEC = Path(sys.executable).parent / "moec"


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One whole compile through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    write_tiny(folder / "tiny")
    arguments = compile_arguments(folder)
    result = moec(*arguments, "--json", "-o", folder / "out")
    assert result.returncode == 0, result.stderr
    return folder, result


def compile_arguments(folder):
    return [
        "compile", folder / "tiny", "--target", "elmoe3d-4gb", "--set", "memories.hb.capacity_gb=0.0003",
        "--draft-length", "3", "--batch", "2", "--context", "64", "--time-limit", "1",
    ]  # fmt: skip


PIPELINE = [
    "raise-moe", "select-draft", "partition-experts", "choose-dispatch", "lower-to-tasks", "schedule-round",
    "allocate-staging", "steady-state", "verify-plan",
]  # fmt: skip
LAST = f"{len(PIPELINE):02d}-{PIPELINE[-1]}.mlir"


def test_compile_writes_the_contract(output):
    folder, result = output
    names = sorted(str(p.relative_to(folder / "out")) for p in (folder / "out").rglob("*") if p.is_file())
    snapshots = [f"ir/{n:02d}-{name}.mlir" for n, name in enumerate(["trace", *PIPELINE])]
    assert names == sorted(
        [
            *snapshots,
            "compile.json",
            "cost.json",
            "held_out.json",
            "model_explorer.graph.json",
            "model_explorer.node_data.json",
            "plan.json",
            "plan.npz",
            "schedule.py",
            "timeline.perfetto-trace",
        ]
    )
    cost = json.loads(result.stdout)
    assert cost == json.loads((folder / "out" / "cost.json").read_text())
    contract = {
        "draft": {"length", "bits", "expert_fraction", "acceptance_rate", "break_even_acceptance"},
        "round": {"seconds", "lower_bound_seconds", "gap", "greedy_seconds", "tokens", "joules"},
        "token": {"seconds", "joules"},
        "held_out": {"rounds", "mean_seconds", "p95_seconds", "regret", "p95_regret", "informed_regret"},
        "profile": {"name", "kind"},
    }
    for name, keys in contract.items():
        assert keys <= set(cost[name])
    assert {"model", "target", "batch", "context", "roofline_fraction", "limited_by"} <= set(cost)
    assert cost["profile"]["kind"] == "synthetic"
    assert cost["overrides"] == ["memories.hb.capacity_gb=0.0003"]
    round_ = cost["round"]
    assert round_["lower_bound_seconds"] <= round_["seconds"]
    low, high = round_["ci95_seconds"]
    assert low <= round_["seconds"] <= high
    assert cost["held_out"]["mean_seconds"] == round_["seconds"]
    training = cost["training_round"]
    assert training["lower_bound_seconds"] <= training["seconds"] <= training["greedy_seconds"]
    token = cost["token"]
    assert token["low_seconds"] <= token["seconds"] <= token["high_seconds"], "nothing was measured of this model"
    assert round_["tokens"] == pytest.approx(2 * (1 + cost["draft"]["acceptance_rate"] * 3))
    assert cost["token"]["seconds"] == pytest.approx(round_["seconds"] / round_["tokens"])
    assert round_["joules"] == pytest.approx(sum(cost["joules_by_part"].values()))
    solvers = json.loads((folder / "out" / "plan.json").read_text())["solvers"]
    assert {s["pass"] for s in solvers} == {"select-draft", "partition-experts", "schedule-round", "allocate-staging"}
    for solver in solvers:
        assert {"pass", "status", "objective", "lower_bound", "gap", "greedy", "seed"} <= set(solver)
        assert solver["lower_bound"] <= solver["objective"] * (1 + 1e-9) <= solver["greedy"] * (1 + 1e-8)
    record = json.loads((folder / "out" / "compile.json").read_text())
    assert record["pipeline"] == ",".join(PIPELINE)
    assert {step["step"] for step in record["steps"]} >= {"trace", *PIPELINE}


def test_two_processes_give_the_same_bytes_in_every_file_but_compile_json(tmp_path):
    """Nothing is made small here: both trace, search and evaluate as users do."""
    write_tiny(tmp_path / "tiny", num_hidden_layers=1)
    for name in ("first", "second"):
        command = [MOEC, *map(str, compile_arguments(tmp_path)), "-o", tmp_path / name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(files) == len(PIPELINE) + 10
    for path in files:
        if path.name != "compile.json":
            assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes(), path


@pytest.mark.parametrize("k", range(1, len(PIPELINE)))
def test_opt_on_a_snapshot_with_the_rest_of_the_pipeline_gives_the_same_ir(output, k):
    folder, _ = output
    name = ["trace", *PIPELINE][k]
    result = moec("opt", folder / "out" / "ir" / f"{k:02d}-{name}.mlir", "-p", ",".join(PIPELINE[k:]))
    assert result.returncode == 0, result.stderr
    assert result.stdout == (folder / "out" / "ir" / LAST).read_text()


def test_every_snapshot_is_accepted_by_torch_mlir_opt(output, tmp_path):
    import torch_mlir

    folder, _ = output
    irdl = tmp_path / "moe.irdl.mlir"
    irdl.write_text(moec("dialect", "--irdl").stdout)
    tool = Path(torch_mlir.__path__[0]) / "_mlir_libs" / "torch-mlir-opt"
    for snapshot in sorted((folder / "out" / "ir").glob("*.mlir")):
        result = subprocess.run([tool, f"--irdl-file={irdl}", snapshot], capture_output=True, text=True, check=False)
        assert result.returncode == 0, (snapshot, result.stderr[:500])


def test_opt_reads_stdin_and_writes_files(output, tmp_path):
    folder, _ = output
    text = (folder / "out" / "ir" / LAST).read_text()
    result = moec("opt", "-", "-p", "verify-plan", "-o", tmp_path / "checked.mlir", stdin=text)
    assert (result.returncode, result.stdout) == (0, "")
    assert (tmp_path / "checked.mlir").read_text() == text


def test_verify_plan_rejects_a_tampered_plan(output):
    folder, _ = output
    text = (folder / "out" / "ir" / LAST).read_text()
    lines = text.splitlines()
    last = max(n for n, line in enumerate(lines) if '"sched.task"' in line)
    lines[last] = re.sub(r"#sched.slot<\d+ : i64", "#sched.slot<0 : i64", lines[last])
    assert_refused(moec("opt", "-", "-p", "verify-plan", stdin="\n".join(lines)), "the plan is wrong", "starts before")


def test_plain_decoding_on_the_xpu(output, tmp_path):
    folder, _ = output
    result = moec("compile", folder / "tiny", "--target", "xpu-lpddr5", "--draft-length", "0", "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "plain decoding" in result.stdout
    cost = json.loads((tmp_path / "out" / "cost.json").read_text())
    assert cost["draft"]["length"] == 0
    assert cost["mode"] == "plain decoding"
    assert cost["bytes"]["external_read"] == 0, "all of it is near"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["qwen3-30b-a3", "--target", "elmoe3d-8gb"], ["did you mean 'qwen3-30b-a3b'"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-9gb"], ["did you mean 'elmoe3d"]),
        (["no/such", "--target", "elmoe3d-8gb"], ["no/such: no such file"]),
        (["olmoe-1b-7b", "--target", "no/such.yaml"], ["no/such.yaml: no such hardware file"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--batch", "0"], ["--batch 0", "1 to"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--batch", "two"], ["--batch", "two"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--context", "-1"], ["--context -1"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--draft-length", "-3"], ["--draft-length -3", "auto"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--draft-length", "some"], ["--draft-length some"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--seed", "-1"], ["--seed -1"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--time-limit", "nan"], ["--time-limit nan"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--pipeline", "raise-mo"], ["did you mean 'raise-moe'"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--pipeline", "raise-moe{a=1}"], ["unknown option 'a'"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--pipeline", "raise-moe"], ["pipeline", "select-draft"]),
        (
            ["olmoe-1b-7b", "--target", "xpu-lpddr5", "--pipeline", "SHUFFLED"],
            ["select-draft needs", "raise-moe stands after it"],
        ),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--set", "memories.hb.banks=-1"], ["--set", "-1"]),
        (["olmoe-1b-7b", "--target", "elmoe3d-8gb", "--profile", "nope.npz"], ["nope.npz", "no such file"]),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_written(tmp_path, arguments, words):
    from moe_passes.ir.pipeline import default_pipeline

    first, *rest = default_pipeline().split(",")
    pipelines = {"SHUFFLED": ",".join([*rest[:1], first, *rest[1:]])}
    arguments = [pipelines.get(a, a) for a in arguments]
    assert_refused(moec("compile", *arguments, "-o", tmp_path / "out"), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["config.json:1", "not valid JSON"]),
        ("[]", ["an object"]),
        ("{}", ["model_type"]),
        ('{"model_type": "llama", "hidden_size": 64}', ["dense model", "mixture-of-experts"]),
        ('{"model_type": "qwen3_moes", "num_experts": 4}', ["did you mean 'qwen3_moe'"]),
        ('{"model_type": "qwen3_moe", "num_experts": 4}', ["how many experts a token uses", "num_experts_per_tok"]),
        (
            '{"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 8}',
            ["num_experts_per_tok", "8", "1 to 4"],
        ),
        ('{"model_type": "qwen3_moe", "num_experts": 4, "hidden_size": -5}', ["hidden_size", "-5"]),
        ('{"model_type": "qwen3_moe", "num_experts": 4, "hidden_size": "big"}', ["hidden_size", "big"]),
    ],
)
def test_bad_model_files_are_refused(tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    assert_refused(moec("compile", tmp_path, "--target", "elmoe3d-8gb", "-o", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_profiles_of_another_shape_and_output_folders(output, tmp_path):
    folder, _ = output
    np.savez(tmp_path / "other.npz", experts=np.tile(np.arange(2), (500, 32, 1)))
    base = ["compile", folder / "tiny", "--target", "elmoe3d-8gb"]
    assert_refused(moec(*base, "--profile", tmp_path / "other.npz", "-o", tmp_path / "out"), "another model")
    assert_refused(moec(*base, "-o", folder / "out"), "exists already")
    assert_refused(moec(*base, "-o", tmp_path / "no" / "where"), "is not a folder")
    assert_refused(moec(*base, "-o", "/proc/out"), "/proc")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["memories.hb.capacity_gb=0.0001"], ["does not fit into memory 'hb'", "needed", "available", "capacity_gb"]),
        (["memories.external.capacity_gb=0.0003"], ["does not fit into memory 'external'", "needed", "available"]),
        (["memories.hb.staging_gb=0.00001"], ["staging", "staging_gb=auto"]),
        (["memories.hb.staging_gb=5"], ["does not fit into memory 'hb'", "staging_gb=auto"]),
    ],
)
def test_infeasible_targets_name_memory_bytes_and_levers(output, tmp_path, changes, words):
    folder, _ = output
    sets = [item for change in changes for item in ("--set", change)]
    base = ["compile", folder / "tiny", "--target", "elmoe3d-4gb"]
    assert_refused(moec(*base, *sets, "-o", tmp_path / "out"), *words)


def test_malformed_ir_is_refused(tmp_path):
    (tmp_path / "a.mlir").write_text("module { oops")
    assert_refused(moec("opt", tmp_path / "a.mlir", "-p", "verify-plan"), "a.mlir", "not valid IR")
    assert_refused(moec("opt", tmp_path / "missing.mlir", "-p", "verify-plan"), "missing.mlir")
    assert_refused(moec("opt", "-", "-p", "verify-plan", stdin="module {}"), "run raise-moe first")
    old = "module attributes {moe.version = 1 : i64} {}"
    assert_refused(moec("opt", "-", "-p", "verify-plan", stdin=old), "of version 1")
    empty = "module attributes {moe.version = 6 : i64} {}"
    assert_refused(moec("opt", "-", "-p", "schedule-round", stdin=empty), "@round")
    assert_refused(moec("opt", "-", "-p", "raise-moe", stdin=empty), "the traced phases")


def test_lists_are_one_json_document():
    runner = CliRunner()
    models = json.loads(runner.invoke(cli, ["models", "--json"]).stdout)
    assert len(models) == len(shipped_models())
    assert {"name", "architecture", "hidden", "layers", "experts", "top_k", "format"} == set(models[0])
    assert [p["name"] for p in json.loads(runner.invoke(cli, ["passes", "--json"]).stdout)][: len(PIPELINE)] == PIPELINE
    targets = json.loads(runner.invoke(cli, ["targets", "--json"]).stdout)
    assert [target["name"] for target in targets] == sorted(shipped_targets())
    figures = json.loads(runner.invoke(cli, ["target", "show", "elmoe3d-8gb", "--json"]).stdout)
    assert {"path", "unit", "value", "source"} == set(figures[0])


def test_help_has_examples():
    runner = CliRunner()
    for command in ([], *([name] for name in COMMANDS), ["target", "show"]):
        result = runner.invoke(cli, [*command, "--help"])
        assert result.exit_code == 0
        assert "xample" in result.stdout


def test_a_bug_exits_with_70_and_keeps_a_reproducer(output, monkeypatch, capsys):
    from moe_passes.ir.passes.schedule_round import ScheduleRound

    from moe_compiler.cli import main as entry

    folder, _ = output

    def broken(self, module, context):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(ScheduleRound, "run", broken)
    monkeypatch.setattr("sys.argv", ["moec", *map(str, compile_arguments(folder)), "-o", str(folder / "bug")])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    message = capsys.readouterr().err
    assert stop.value.code == 70
    assert "this is a bug in moec" in message.splitlines()[0]
    assert "ZeroDivisionError: planted" in message.splitlines()[0]
    reproducer = message.split("reproduce: ")[1].split()
    assert "moe.version = 6" in Path(reproducer[2]).read_text()
    assert not (folder / "bug").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": 3}, ["num_key_value_heads", "3", "divisor"]),
        ({"num_local_experts": 3}, ["num_local_experts", "one number of experts"]),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps", "nan", "finite"]),
        ({"num_hidden_layers": 100_000}, ["num_hidden_layers", "1 to 512"]),
        ({"num_experts": 16.5}, ["num_experts", "16.5"]),
        ({"model_type": 3}, ["model_type", "a string"]),
    ],
)
def test_contradicting_configurations_are_refused(tiny, tmp_path, changes, words):
    from moe_passes.plan.errors import InputError

    import moe_compiler

    folder = tiny("qwen3_moe")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError) as error:
        moe_compiler.compile(folder, "elmoe3d-8gb")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"target": None}, "target is of type NoneType"),
        ({"target": 3}, "target is of type int"),
        ({"profile": 3}, "profile is of type int"),
        ({"draft_length": 2.7}, "--draft-length 2.7"),
        ({"draft_length": True}, "--draft-length True"),
        ({"draft_length": float("inf")}, "--draft-length inf"),
        ({"time_limit": "1"}, "--time-limit 1"),
        ({"batch": 1.5}, "--batch 1.5"),
        ({"overrides": "a=b"}, "a list of PATH=VALUE"),
        ({"overrides": [3]}, "a list of PATH=VALUE"),
        ({"pipeline": ["raise-moe"]}, "pipeline is of type list"),
        ({"pipeline": ""}, "pipeline is empty"),
        ({"model": 3}, "int is not a model"),
    ],
)
def test_python_arguments_of_wrong_types_are_refused(arguments, word):
    from moe_passes.plan.errors import InputError

    import moe_compiler

    with pytest.raises(InputError, match=re.escape(word)):
        moe_compiler.compile(**{"model": "olmoe-1b-7b", "target": "elmoe3d-8gb", **arguments})


@pytest.mark.parametrize(
    ("snapshot", "old", "new", "pipeline", "word"),
    [
        ("raise-moe", "", "", "raise-moe", "raise-moe has already run"),
        ("select-draft", "", "", "select-draft", "select-draft has already run"),
        ("partition-experts", "", "", "partition-experts", "partition-experts has already run"),
        ("lower-to-tasks", "", "", "lower-to-tasks", "lower-to-tasks has already run"),
        ("raise-moe", "efficiency = 0.", "efficiency = 1.", "select-draft", "'efficiency' is 1."),
        ("raise-moe", "static_watts = ", "static_watts = -", "select-draft", "'static_watts' is -"),
        ("raise-moe", "layer = 0 : i64", "layer = 7 : i64", "select-draft", "layer"),
        ("raise-moe", "seed = 0 : i64", "seed = 9999999999 : i64", "select-draft", "'seed'"),
        ("verify-plan", "#sched.head", "#sched.tail", "verify-plan", "expected dynamic attribute"),
        ("verify-plan", "w8a8_macs = ", "w8a8_macs = 9999999", "verify-plan", "valid: Traffic("),
        (
            "verify-plan",
            'kind = "buffer", name = "staging"',
            'kind = "buffer", name = "stage"',
            "verify-plan",
            "staging",
        ),
        (
            "verify-plan",
            "length = 3 : i64, staging_bytes = ",
            "length = 3 : i64, staging_bytes = 9",
            "verify-plan",
            "HB",
        ),
        ("verify-plan", " length = 3 : i64, staging", " length = 4 : i64, staging", "verify-plan", "was asked for"),
    ],
)
def test_edited_ir_is_refused(compiled, snapshot, old, new, pipeline, word):
    text = dict(compiled.snapshots)[snapshot]
    assert old in text
    result = moec("opt", "-", "-p", pipeline, stdin=text.replace(old, new, 1) if old else text)
    assert_refused(result, word)


def test_hostile_ir_files(tmp_path):
    (tmp_path / "deep.mlir").write_text("module {\n" * 5000)
    (tmp_path / "binary.mlir").write_bytes(b"\xff\xfe\x00")
    assert_refused(moec("opt", tmp_path / "deep.mlir", "-p", "raise-moe"), "deep.mlir:101", "nested")
    assert_refused(moec("opt", tmp_path / "binary.mlir", "-p", "raise-moe"), "cannot be read as text")


def test_opt_writes_files_safely(compiled, tmp_path):
    text = dict(compiled.snapshots)["verify-plan"]
    (tmp_path / "real.mlir").write_text("old")
    (tmp_path / "link.mlir").symlink_to(tmp_path / "real.mlir")
    assert moec("opt", "-", "-p", "verify-plan", "-o", tmp_path / "link.mlir", stdin=text).returncode == 0
    assert (tmp_path / "link.mlir").is_symlink()
    assert (tmp_path / "real.mlir").read_text() == text
    assert moec("opt", "-", "-p", "verify-plan", "-o", "/dev/null", stdin=text).returncode == 0
    assert Path("/dev/null").is_char_device()
    assert_refused(moec("opt", "-", "-p", "verify-plan", "-o", tmp_path, stdin=text), "the path of a file")
    assert {path.name for path in tmp_path.iterdir()} == {"real.mlir", "link.mlir"}
