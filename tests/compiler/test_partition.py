"""`moec partition` from end to end; its figures recomputed from the document and the trace alone."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from moe_passes.plan.errors import InputError

from moe_compiler.cli.commands import cli
from moe_compiler.traces import synthetic
from tests.conftest import tiny_config

SLOW = ("--set", "links.aggregation.bandwidth_gb_s=0.2", "--set", "memories.hb.banks=4")
ONE_COMPARISON = ("--baseline", "shard-2")
TRACE = "synthetic-600tokens-seed0"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("partition") / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_config("qwen3_moe")))
    return folder


def partition(model, *options, trace=TRACE):
    arguments = ["partition", "--trace", trace, "--model", str(model), "--target", "elmoe3d-8gb", *map(str, options)]
    return CliRunner().invoke(cli, arguments)


@pytest.fixture(scope="module")
def document(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    result = partition(model, *SLOW, "--batch", 2, "--step-tokens", 3, "--json", "-o", path)
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    assert json.loads(path.read_text()) == found
    return found


def seconds_of(document, layer, step):
    """The issue's closed form, straight from the document: `step` is [token][k]."""
    entry = document["layers"][layer]
    kept = {"none": 0, "msb": entry["expert_bytes"]["msb"], "all": entry["expert_bytes"]["all"]}
    banks = [0.0] * document["banks"]
    experts = {e for token in step for e in token}
    for e in experts:
        for home in entry["placement"][e][:1]:
            for bank in home:
                banks[bank] += kept[entry["residency"][e]] / len(home)
    heard = sum(len({b for e in token for home in entry["placement"][e][:1] for b in home}) for token in step)
    missing = sum(entry["expert_bytes"]["all"] - kept[entry["residency"][e]] for e in experts)
    return max(
        max(banks) / document["bank_bytes_per_second"],
        heard * document["hidden"] * 2 / document["link_bytes_per_second"],
        missing / document["external_bytes_per_second"],
    )


def steps_of(experts, batch, width):
    """R = ⌊T/w⌋ runs, S = ⌊R/B⌋ steps, step i is runs i, i+S, i+2S, …"""
    runs = [experts[r * width : (r + 1) * width] for r in range(len(experts) // width)]
    count = len(runs) // batch
    return [np.concatenate([runs[i + n * count] for n in range(batch)]) for i in range(count)]


def test_contract_and_closed_form(document):
    assert {"banks", "bank_capacity_bytes", "bank_bytes_per_second", "link_bytes_per_second"} <= set(document)
    assert document["trace"]["kind"] == document["score"]["trace"]["kind"] == "synthetic"
    experts = synthetic.generate(synthetic.Made(600), 3, 16, 4).experts
    assert all(len(copies) <= 1 for entry in document["layers"] for copies in entry["placement"]), "recomputed simply"
    training, held_out = steps_of(experts[:450], 2, 3), steps_of(experts[450:], 2, 3)
    for n, entry in enumerate(document["layers"]):
        told = np.mean([seconds_of(document, n, step[:, n].tolist()) for step in training])
        assert entry["objective"] == pytest.approx(told)
        assert entry["lower_bound"] <= entry["objective"]
        assert entry["gap"] == pytest.approx(1 - entry["lower_bound"] / entry["objective"])
    totals = [sum(seconds_of(document, n, step[:, n].tolist()) for n in range(3)) for step in held_out]
    assert document["score"]["steps"] == len(totals)
    assert document["score"]["mean_seconds"] == pytest.approx(np.mean(totals))
    assert document["score"]["p99_seconds"] == pytest.approx(np.percentile(totals, 99))


def test_banks_hold_what_they_can(document):
    held = np.zeros(document["banks"])
    for entry in document["layers"]:
        for level, copies in zip(entry["residency"], entry["placement"], strict=True):
            assert (level == "none") == (copies == [])
            for home in copies:
                held[home] += entry["expert_bytes"][level] / len(home)
    assert held.max() <= document["bank_capacity_bytes"] + 1


def test_baselines_are_scored_and_never_better_on_training_steps(document):
    assert {"lpt", "eplb", "shard-2", "shard-4"} <= set(document["score"]["baselines"])
    assert all(entry["objective"] <= entry["baseline"]["objective"] for entry in document["layers"])
    assert document["objective"] < sum(entry["greedy"] for entry in document["layers"])


def test_a_part_of_the_experts_and_a_trace_of_its_own_to_score_on(model):
    result = partition(
        model, *SLOW, "--set", "memories.hb.capacity_gb=0.0007", "--context", 16, "--json",
        "--score", "synthetic-100tokens-seed5", *ONE_COMPARISON,
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    levels = [level for entry in found["layers"] for level in entry["residency"]]
    assert "none" in levels
    assert "all" in levels
    assert found["score"]["steps"] == 100
    assert list(found["score"]["baselines"]) == ["shard-2"]
    test = synthetic.generate(synthetic.Made(100, 5), 3, 16, 4).experts
    totals = [sum(seconds_of(found, n, [token[n].tolist()]) for n in range(3)) for token in test]
    assert found["score"]["mean_seconds"] == pytest.approx(np.mean(totals))


def test_the_same_request_gives_the_same_bytes(model):
    first, second = (partition(model, *SLOW, *ONE_COMPARISON, "--json", "--jobs", n) for n in (1, 2))
    assert first.stdout == second.stdout


def test_replan_keeps_within_its_budget(model, document, tmp_path):
    old = tmp_path / "old.json"
    contiguous = [[[e // 4]] for e in range(16)]
    layers = [{**entry, "placement": contiguous} for entry in document["layers"]]
    old.write_text(json.dumps({**document, "layers": layers}))
    options = (*SLOW, *ONE_COMPARISON, "--batch", 2, "--step-tokens", 3, "--previous", old, "--json")
    still = partition(model, *options, "--max-migration-gb", 0, trace="synthetic-600tokens-seed9")
    moved = partition(model, *options, "--max-migration-gb", 0.0001, trace="synthetic-600tokens-seed9")
    assert still.exit_code == moved.exit_code == 0, moved.exception
    still, moved = json.loads(still.stdout), json.loads(moved.stdout)
    assert [e["placement"] for e in still["layers"]] == [contiguous] * 3
    assert 0 < moved["migration"]["moved_bytes"] <= 0.0001e9
    assert moved["objective"] < still["objective"]
    assert moved["migration"]["curve"][0] == {"bytes": 0.0, "objective": pytest.approx(still["objective"])}


def test_export_and_import(model, document, tmp_path):
    experts, slots = 16, 4
    whole = [[[e // slots]] for e in range(experts)]
    plan = {**document, "layers": [{**entry, "placement": whole} for entry in document["layers"]]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    for form, name in (("eplb", "triple.npz"), ("expert-location", "location.json"), ("vllm-ascend", "map.json")):
        arguments = ["placement", "export", str(tmp_path / "plan.json"), "--format", form, "-o", str(tmp_path / name)]
        assert CliRunner().invoke(cli, arguments).exit_code == 0
        again = partition(
            model, *SLOW, *ONE_COMPARISON, "--previous", tmp_path / name, "--max-migration-gb", 0, "--json"
        )
        assert again.exit_code == 0, again.exception
        assert [e["placement"] for e in json.loads(again.stdout)["layers"]] == [whole] * 3
    assert json.loads((tmp_path / "location.json").read_text()) == {"physical_to_logical_map": [list(range(16))] * 3}
    sharded = {**document, "layers": [{**document["layers"][0], "placement": [[[0, 1]]] * 16}]}
    (tmp_path / "sharded.json").write_text(json.dumps(sharded))
    arguments = ["placement", "export", str(tmp_path / "sharded.json"), "--format", "eplb", "-o", str(tmp_path / "no")]
    assert "sharded over 2 banks" in str(CliRunner().invoke(cli, arguments).exception)
    assert not (tmp_path / "no").exists()


def test_equal_slots_can_be_exported(model, tmp_path):
    plan = tmp_path / "plan.json"
    made = partition(model, *SLOW, *ONE_COMPARISON, "--equal-slots", "--batch", 2, "--json", "-o", plan)
    assert made.exit_code == 0, made.exception
    document = json.loads(made.stdout)
    for layer in document["layers"]:
        assert set(layer["residency"]) == {"all"}
        assert all(len(copy) == 1 for copies in layer["placement"] for copy in copies)
        held = np.bincount([copy[0] for copies in layer["placement"] for copy in copies], minlength=4)
        assert len(set(held.tolist())) == 1
        assert layer["objective"] <= layer["baseline"]["objective"]
        assert layer["stages"][-1]["stage"] == "exchanges"
    for form in ("eplb", "expert-location", "vllm-ascend"):
        arguments = ["placement", "export", str(plan), "--format", form, "-o", str(tmp_path / form)]
        assert CliRunner().invoke(cli, arguments).exit_code == 0, form


def test_experts_that_no_training_token_chooses_are_named(model, tmp_path):
    few = np.tile(np.arange(4), (40, 3, 1))
    np.savez(tmp_path / "few.npz", experts=few)
    shown = partition(model, *ONE_COMPARISON, trace=str(tmp_path / "few.npz"))
    assert shown.exit_code == 0, shown.exception
    assert "no training token chooses 36 of 48 experts" in shown.stdout
    told = partition(model, *ONE_COMPARISON, "--json", trace=str(tmp_path / "few.npz"))
    assert json.loads(told.stdout)["trace"]["unseen_experts"] == 36


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--equal-slots", "--previous", __file__), "--equal-slots with --previous"),
        (("--batch", 0), "--batch 0"),
        (("--step-tokens", 0), "--step-tokens 0"),
        (("--batch", 4096), "too few for one step"),
        (("--baseline", "best"), "baseline 'best'"),
        (("--max-migration-gb", 1), "needs --previous"),
        (("--max-migration-gb", "nan"), "--max-migration-gb nan"),
        (("--previous", "nowhere.json"), "no such file"),
        (("--score", "nowhere.npz"), "no such file"),
        (("--set", "memories.hb.capacity_gb=0.0001"), "does not fit"),
        (("-o", "nowhere/plan.json"), "nowhere/plan.json"),
    ],
)
def test_bad_options_are_refused(model, options, says):
    result = partition(model, *ONE_COMPARISON, *options)
    assert isinstance(result.exception, InputError), result.output
    assert says in str(result.exception)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("3", "is not a plan"),
        ('{"banks": 4, "layers": []}', "layers: List should have at least 1 item"),
        ('{"banks": 4, "model": "other", "layers": [LAYER]}', "is a plan of 'other'"),
        ('{"banks": 7, "layers": [LAYER]}', "is a plan for 7 banks"),
        ('{"banks": 4, "layers": [LAYER]}', "has 1 layers"),
        ('{"banks": "4", "layers": [LAYER]}', "banks: Input should be a valid integer"),
        ('{"banks": NaN, "layers": [LAYER]}', "NaN is not a number of JSON"),
        ('{"schema": 99, "banks": 4, "layers": [LAYER]}', "schema: Input should be 1"),
        ('{"banks": 4, "layers": [{}, {}, {}]}', "layers.0.layer: Field required"),
        ('{"banks": 4, "layers": [LAYER, LAYER, LAYER]}', "layer 0 stands where layer 1 is due"),
        ('{"banks": 4, "layers": [{"layer": 0, "residency": ["all"], "placement": [[[1], [1]]]}]}', "several replicas"),
        ('{"banks": 4, "layers": [{"layer": 0, "residency": ["all"], "placement": [[[1, 1]]]}]}', "distinct banks"),
        ('{"banks": 4, "layers": [{"layer": 0, "residency": ["all"], "placement": [[[]]]}]}', "at least 1 item"),
        ('{"physical_to_logical_map": [[0], [0], [0]]}', "slots do not divide"),
        ("[[0]]", "is not a plan"),
    ],
)
def test_bad_previous_plans_are_refused(model, tmp_path, content, says):
    layer = {"layer": 0, "residency": ["all"] * 16, "placement": [[[0]]] * 16}
    (tmp_path / "old.json").write_text(content.replace("LAYER", json.dumps(layer)))
    result = partition(model, *SLOW, *ONE_COMPARISON, "--previous", tmp_path / "old.json")
    assert isinstance(result.exception, InputError), result.output
    assert says in str(result.exception)


TRIPLE = {
    "physical_to_logical": np.arange(16)[None],
    "logical_to_physical": np.arange(16)[None, :, None],
    "counts": np.ones((1, 16), dtype=np.int64),
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"counts": np.array(3)}, "'counts' has type int64 and shape ()"),
        ({"counts": np.full((1, 16), np.nan)}, "'counts' has type float64"),
        ({"logical_to_physical": np.arange(16)[None]}, "valid: integers of 3 dimensions"),
        ({"counts": np.ones((2, 16), dtype=np.int64)}, "one number of layers"),
        ({"physical_to_logical": np.full((1, 16), 99)}, "expert ids from 0 to 15"),
        (None, "has no array 'physical_to_logical'"),
    ],
)
def test_bad_triples_are_refused(model, tmp_path, change, says):
    np.savez(tmp_path / "t.npz", **({"other": np.zeros(1)} if change is None else {**TRIPLE, **change}))
    result = partition(model, *SLOW, *ONE_COMPARISON, "--previous", tmp_path / "t.npz")
    assert isinstance(result.exception, InputError), result.output
    assert says in str(result.exception)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x93NUMPY"])
def test_files_that_are_no_archives_are_refused(model, tmp_path, content):
    (tmp_path / "t.npz").write_bytes(content)
    result = partition(model, *SLOW, *ONE_COMPARISON, "--previous", tmp_path / "t.npz")
    assert isinstance(result.exception, InputError), result.output
    assert "cannot be read" in str(result.exception)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"banks": 100_000_000}, "banks: Input should be less than or equal to"),
        ({"banks": 60_000}, "equally many in every bank"),
        ({"residency": ["msb"] + ["all"] * 15}, "expert 0 is resident as 'msb'"),
        ({"placement": []}, "residency of 16 experts, placement of 0"),
        ({"placement": [[[0.9]]] * 16}, "valid integer"),
    ],
)
def test_what_slots_cannot_express_is_not_exported(document, tmp_path, change, says):
    whole = {"residency": ["all"] * 16, "placement": [[[e // 4]] for e in range(16)]}
    changed = {**whole, **{key: value for key, value in change.items() if key != "banks"}}
    plan = {**document, **{"banks": change.get("banks", 4)}}
    (tmp_path / "p.json").write_text(json.dumps({**plan, "layers": [{**la, **changed} for la in plan["layers"]]}))
    arguments = ["placement", "export", str(tmp_path / "p.json"), "--format", "eplb", "-o", str(tmp_path / "out.npz")]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, InputError), result.output
    assert says in str(result.exception)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("experts", "says"),
    [
        (np.zeros((1, 3, 4), dtype=np.int64) + np.arange(4), "has 0 of 1 tokens: too few"),
        (np.full((8, 3, 4), np.nan), "must be integers"),
        (np.full((8, 3, 4), -1), "out of range"),
        (np.zeros((0, 3, 4), dtype=np.int64), "no tokens"),
    ],
)
def test_bad_traces_are_refused(model, tmp_path, experts, says):
    np.savez_compressed(tmp_path / "t.npz", experts=experts)
    result = partition(model, *ONE_COMPARISON, trace=str(tmp_path / "t.npz"))
    assert isinstance(result.exception, InputError), result.output
    assert says in str(result.exception)


def test_one_hot_routing_and_more_banks_than_experts(model, tmp_path):
    """Every token asks for the same four experts; 64 banks for 16 experts."""
    np.savez_compressed(tmp_path / "t.npz", experts=np.tile(np.arange(4), (40, 3, 1)))
    result = partition(model, "--set", "memories.hb.banks=64", *ONE_COMPARISON, "--json", trace=str(tmp_path / "t.npz"))
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["score"]["mean_seconds"] > 0


def test_summary_for_people(model):
    result = partition(model, *SLOW, *ONE_COMPARISON)
    assert result.exit_code == 0
    for words in ("3 layers, 4 banks", "(synthetic)", "bound", "shard-2", "ours"):
        assert words in result.stdout
