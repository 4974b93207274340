"""`moec compile --place`: experts lie where they are asked to, and cost what `moec estimate` says."""

import pytest
import yaml
from moe_passes.plan.errors import InfeasibleError, InputError

from moe_compiler import api
from moe_compiler.hardware.loader import shipped_targets
from tests.command import assert_refused, moec

PROFILE = "synthetic-1024tokens-seed0"


@pytest.fixture
def model(tiny):
    return str(tiny(num_hidden_layers=3))


def compiled(model, target, place, **options):
    return api.compile(model, target, place=place, **({"draft_length": 0, "profile": PROFILE} | options))


def near_of(made):
    """How many experts of each layer are near; all of them whole."""
    levels = [layer["residency"] for layer in made.plan["layers"]]
    assert {level for layer in levels for level in layer} <= {"none", "all"}
    return [layer.count("all") for layer in levels]


@pytest.mark.parametrize(
    ("place", "near", "is_far"),
    [
        ("all-near", [16, 16, 16], True),
        ("experts=far", [0, 0, 0], True),
        ("experts=loaded", [0, 0, 0], False),
        ("layers=1:far", [16, 16, 0], True),
        ("near-share=0.25", [4, 4, 4], True),
        ("near-share=0.5:front", [16, 8, 0], True),
        ("cache=5", [5, 5, 5], False),
    ],
)
def test_experts_lie_where_they_are_asked_to(model, place, near, is_far):
    made = compiled(model, "rtx3090-host", place)
    assert near_of(made) == near
    assert (made.plan["dispatch"]["most_far_tokens"] > 0) is is_far
    loads = [task for task in made.plan["round"]["tasks"] if task["kind"] == "load"]
    assert bool(loads) is (place in ("experts=loaded", "cache=5"))
    assert (made.plan["hot_set"]["window_tokens"] > 0) is (place == "cache=5")


@pytest.mark.parametrize(
    ("place", "batch"),
    [
        *((place, batch) for place in ("all-near", "layers=1:far", "experts=far") for batch in (1, 4)),
        ("experts=loaded", 1),
    ],
)
def test_an_estimate_of_the_same_placement_says_the_same(model, place, batch):
    """Nothing runs beside anything else in these: the estimate's sum is the schedule."""
    made = compiled(model, "rtx3090-host", place, batch=batch)
    estimated = api.estimate(model, "rtx3090-host", place=place, batch=batch, profile=PROFILE)
    assert made.cost["token"]["seconds"] == pytest.approx(1 / estimated["tokens_per_second"], rel=0.1)


def test_drafts_read_what_is_near(model):
    made = compiled(model, "rtx3090-host", "near-share=0.5", draft_length=2)
    assert made.plan["draft"]["length"] == 2
    assert made.plan["draft"]["expert_fraction"] == 0.5
    assert near_of(made) == [8, 8, 8]


def test_on_one_memory_all_is_near_and_drafts_read_all_of_it(model):
    made = compiled(model, "dgx-spark-gb10", None, draft_length=2)
    assert near_of(made) == [16, 16, 16]
    assert made.cost["bytes"]["external_read"] == 0
    plain = compiled(model, "dgx-spark-gb10", "all-near")
    estimated = api.estimate(model, "dgx-spark-gb10", profile=PROFILE)
    assert plain.cost["token"]["seconds"] == pytest.approx(1 / estimated["tokens_per_second"], rel=0.1)


@pytest.fixture
def three_levels(tmp_path):
    """A host whose DRAM is too small for the model's 626 kB of experts, before a disk that holds everything."""
    host = yaml.safe_load(shipped_targets()["rtx3090-host"].read_text())
    host["memories"]["dram"]["capacity_gb"] = 0.0005
    host["memories"]["ssd"] = {"capacity_gb": 1, "bandwidth_gb_s": 7, "latency_ns": 80_000}
    host["links"]["nvme"] = {"from": "ssd", "to": "dram", "bandwidth_gb_s": 7, "latency_ns": 10_000}
    path = tmp_path / "three.yaml"
    path.write_text(yaml.safe_dump(host))
    return str(path)


@pytest.mark.parametrize("place", ["experts=loaded", "experts=far", "layers=2:far"])
def test_what_the_far_memory_does_not_hold_comes_out_of_the_one_behind(model, three_levels, place):
    made = compiled(model, three_levels, place)
    deep = sum(len(layer["deep"]) for layer in made.plan["layers"])
    size = made.plan["layers"][0]["expert_bytes"]["all"]
    assert deep == -(-(48 * size + 128 * 64 * 2 - 500_000) // size)
    estimated = api.estimate(model, three_levels, place=place, profile=PROFILE)
    assert made.cost["token"]["seconds"] == pytest.approx(1 / estimated["tokens_per_second"], rel=0.1)


def test_the_near_memory_comes_first_and_the_deep_one_last(model, three_levels):
    made = compiled(model, three_levels, None, overrides=["memories.vram.capacity_gb=0.001"])
    for layer in made.plan["layers"]:
        assert all(layer["residency"][expert] != "msb" for expert in layer["deep"])
    assert any("all" in layer["residency"] for layer in made.plan["layers"])


@pytest.mark.parametrize(
    ("target", "place", "words"),
    [
        ("rtx3090-host", "everywhere", ["all-near", "cache=SLOTS"]),
        ("rtx3090-host", "layers=4:far", ["3 MoE layers", "0 to 3"]),
        ("rtx3090-host", "cache=17", ["16 experts", "1 to 16"]),
        ("elmoe3d-8gb", "experts=far", ["no engine computes on memory 'external'"]),
        ("epyc-768gb", "near-share=0.5", ["one memory"]),
    ],
)
def test_what_cannot_be_placed_is_refused(model, target, place, words, tmp_path):
    command = ("compile", model, "--target", target, "--place", place, "-o", str(tmp_path / "out"))
    assert_refused(moec(*command), *words)
    assert not (tmp_path / "out").exists()


def test_a_placement_that_is_larger_than_its_memory_is_infeasible(model):
    with pytest.raises(InfeasibleError, match=r"(?s)--place all-near.*'vram'.*memories\.vram\.capacity_gb of at least"):
        compiled(model, "rtx3090-host", "all-near", overrides=["memories.vram.capacity_gb=0.001"])
    with pytest.raises(InputError, match="--place"):
        compiled(model, "rtx3090-host", "near-share=2")
