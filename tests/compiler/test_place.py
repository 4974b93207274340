"""`moec compile --place`: experts lie where they are asked to, and cost what `moec estimate` says."""

import pytest
from moe_passes.plan.errors import InfeasibleError, InputError

from moe_compiler import api
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


@pytest.mark.parametrize(
    ("target", "place", "words"),
    [
        ("rtx3090-host", "everywhere", ["all-near", "cache=SLOTS"]),
        ("rtx3090-host", "layers=4:far", ["3 MoE layers", "0 to 3"]),
        ("rtx3090-host", "cache=17", ["16 experts", "1 to 16"]),
        ("elmoe3d-8gb", "experts=far", ["no engine computes on memory 'external'"]),
        ("epyc-768gb", "near-share=0.5", ["one memory"]),
        ("xpu-lpddr5", "all-near", ["everything lies in memory 'external'"]),
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
