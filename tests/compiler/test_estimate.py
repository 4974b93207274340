"""`moec estimate`."""

import json

import numpy as np
import pytest
from moe_passes.plan.errors import InfeasibleError, InputError

from moe_compiler import api
from moe_compiler.estimation import lru
from moe_compiler.frontend import shapes
from tests.command import assert_refused, moec

KEYS = {
    "model", "target", "format", "place", "batch", "context", "bytes", "step_seconds", "fixed_seconds",
    "tokens_per_second", "hit_rate", "distinct_experts", "limited_by", "draft",
}  # fmt: skip
BYTES = {"near", "far", "deep", "expert", "dense", "kv", "per_token"}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tiny):
    return str(tiny("qwen3_moe"))


def test_the_document_has_the_keys_of_the_contract(model):
    found = json.loads(moec("estimate", model, "--target", "rtx5080-ddr5", "--json").stdout)
    assert set(found) >= KEYS
    assert set(found["bytes"]) == BYTES
    assert found["draft"] is None
    assert found["profile"]["kind"] == "synthetic"
    drafted = api.estimate(model, "rtx5080-ddr5", draft_length=3, alpha=0.5)["draft"]
    assert set(drafted) >= {"length", "acceptance_rate", "verify_seconds", "break_even_acceptance"}
    assert len(drafted["verify_seconds"]) == 4
    assert drafted["verify_seconds"] == sorted(drafted["verify_seconds"])


def test_bytes_by_hand(model):
    """Three layers of 16 experts of 12,288 weights; near: dense weights, cache and the experts of two layers."""
    found = api.estimate(
        model, "rtx5080-ddr5", format="experts=4,dense=8,kv=8,embedding=16", place="layers=1:far", context=10
    )
    size = found["bytes"]
    assert size["expert"] == 12_288 // 2
    # Per layer 128 elements a token, a byte each.
    assert size["kv"] == 3 * 10 * 128
    assert size["near"] == size["dense"] + size["kv"] + 2 * 16 * size["expert"]
    assert size["far"] == 16 * size["expert"] + 2 * 128 * 64
    assert found["hit_rate"] == pytest.approx(2 / 3, abs=0.05)


def test_more_near_is_never_slower(model):
    speeds = [
        api.estimate(model, "rtx5080-ddr5", place=place)["tokens_per_second"]
        for place in ("experts=far", "near-share=0.25", "near-share=0.5", "near-share=0.75", "all-near")
    ]
    assert speeds == sorted(speeds)


def test_popular_experts_are_those_of_the_first_half(model, tmp_path):
    """Expert 0 is chosen by every token: one expert of 16 near is a quarter of what a token uses."""
    random = np.random.default_rng(0)
    others = np.argsort(random.random((400, 3, 15)), axis=-1)[..., :3] + 1
    experts = np.concatenate([np.zeros((400, 3, 1), dtype=np.int64), others], axis=-1)
    np.savez(tmp_path / "skewed.npz", experts=experts, kind="real")
    found = api.estimate(model, "rtx5080-ddr5", place="near-share=0.0625", profile=str(tmp_path / "skewed.npz"))
    assert found["hit_rate"] == pytest.approx(0.25)
    assert found["profile"]["kind"] == "real"


def test_a_wide_step_reads_distinct_experts_once(model):
    one, many = (api.estimate(model, "dgx-spark-gb10", batch=batch) for batch in (1, 32))
    assert one["distinct_experts"] == 4
    assert many["distinct_experts"] <= 16
    assert one["profile"]["name"] == "synthetic-1024tokens-seed0-like-middle"
    assert many["profile"]["name"].endswith("-like-middle-requests-of-16"), "a request for each sequence"
    assert many["bytes"]["per_token"] < one["bytes"]["per_token"]


def test_a_cache_that_is_least_recently_used():
    """Two slots, experts 0 1 / 2 / 0 / 2 1: when a step begins, what the last two were."""
    used = np.zeros((4, 1, 3), dtype=bool)
    for step, experts in enumerate(([0, 1], [2], [0], [1, 2])):
        used[step, 0, experts] = True
    assert np.argwhere(lru(used, 2)).tolist() == [[3, 0, 2]]
    assert np.argwhere(lru(used, 3)).tolist() == [[2, 0, 0], [3, 0, 1], [3, 0, 2]]


def test_shapes_are_traced_once_and_kept(model, monkeypatch):
    first = api.estimate(model, "m2-ultra")
    monkeypatch.setattr(shapes, "traced", lambda source: pytest.fail("traced again"))
    assert api.estimate(model, "m2-ultra") == first
    (kept,) = shapes.cache_folder().iterdir()
    kept.write_text("{")
    with pytest.raises(pytest.fail.Exception):
        api.estimate(model, "m2-ultra")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--place", "layers=9:far"], ["3 MoE layers", "0 to 3"]),
        (["--place", "cache=99"], ["16 experts", "1 to 16"]),
        (["--place", "everywhere"], ["all-near", "cache=SLOTS"]),
        (["--format", "int7"], ["no such format"]),
        (["--draft-length", "-1"], ["--draft-length", "0 to 64"]),
        (["--alpha", "1.5"], ["--alpha", "0 to 1"]),
        (["--batch", "0"], ["--batch"]),
    ],
)
def test_what_cannot_be_estimated_is_refused(model, options, words):
    assert_refused(moec("estimate", model, "--target", "rtx5080-ddr5", *options), *words)


def test_a_machine_of_one_memory_has_all_near(model):
    assert api.estimate(model, "epyc-768gb")["place"] == "all-near"
    with pytest.raises(InputError, match="one memory"):
        api.estimate(model, "epyc-768gb", place="near-share=0.5")


def test_every_memory_that_is_too_small_is_in_one_report(model):
    sets = ("memories.vram.capacity_gb=0.0001", "memories.dram.capacity_gb=0.0002")
    with pytest.raises(InfeasibleError) as error:
        api.estimate(model, "rtx5080-ddr5", place="near-share=0.5", overrides=sets)
    assert "memory 'vram'" in str(error.value)
    assert "memory 'dram'" in str(error.value)


def test_the_usual_place_fits_and_is_the_fastest_of_a_few(model):
    sets = ("memories.vram.capacity_gb=0.0012",)
    usual = api.estimate(model, "rtx5090-pcie", overrides=sets)
    assert usual["place"] != "all-near"
    assert usual["bytes"]["near"] <= 1_200_000
    assert (
        usual["tokens_per_second"]
        >= api.estimate(model, "rtx5090-pcie", place="experts=loaded", overrides=sets)["tokens_per_second"]
    )


def test_what_decides_no_shape_decides_no_estimate(tiny, tmp_path):
    """A file of another name, or with a configuration's quantisation, gives what its content says."""
    folder = tiny("qwen3_moe", quantization_config={"quant_method": "awq"})
    assert api.estimate(str(folder), "m2-ultra")["format"] == "int4-g128"
    wrong = tiny("qwen3_moe", quantization_config={"quant_method": "secret"})
    with pytest.raises(InputError, match="'secret' is not known"):
        api.estimate(str(wrong), "m2-ultra")


def test_weights_that_run_at_another_widths_rate_are_named(model):
    found = api.estimate(model, "rtx5080-ddr5", format="experts=5.5,dense=8.5,kv=16,embedding=16")
    assert "gpu has no rate for experts of 5.5 bits: they run at that of 8 bits" in found["notes"]
    assert not any("dense weights" in note for note in found["notes"])
