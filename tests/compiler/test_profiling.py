"""What is measured of a real model: its routing, and how many drafted tokens it accepts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from moe_compiler import profiling
from moe_compiler.runtime.quantise import quantise
from tests.command import assert_refused, moec

MODEL = Path(__file__).parents[2] / "examples" / "tiny-moe"
TOKENS, CONTEXT = 79, 39


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A profile of 79 tokens, in pieces of 39, 39 and 1, and four drafts of four tokens."""
    folder = tmp_path_factory.mktemp("profile")
    (folder / "text.txt").write_text(Path(__file__).read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiling, "CONFIGURATIONS", ((4, 4, 0.25), (4, 4, 1.0), (8, 8, 0.5), (8, 8, 1.0)))
        options = ("--tokens", TOKENS, "--draft-length", 4, "--rounds", 8, "--context", CONTEXT, "--json")
        command = ("profile", MODEL, "--weights", MODEL, "--text", folder / "text.txt", *options)
        done = moec(*command, "-o", folder / "a.npz")
        assert done.returncode == 0, done.stderr
    with np.load(folder / "a.npz") as file:
        return folder, json.loads(done.stdout), {name: file[name] for name in file.files}


def test_routing_is_that_of_transformers_on_the_same_text(measured):
    """The router's own logits on INT8 weights, each piece by itself: two of sixteen experts a layer."""
    folder, said, arrays = measured
    words = AutoTokenizer.from_pretrained(MODEL)
    ids = words((folder / "text.txt").read_text())["input_ids"][:TOKENS]
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("_proj.weight", "mlp.gate.weight")):
                parameter.copy_(quantise(parameter).weights(is_slice=False))
            elif parameter.dim() == 3:
                for expert in parameter:
                    expert.copy_(quantise(expert).weights(is_slice=False))
        pieces = [torch.tensor([ids[first : first + CONTEXT]]) for first in range(0, TOKENS, CONTEXT)]
        found = [model(piece, output_router_logits=True).router_logits for piece in pieces]
    logits = [torch.cat(layer) for layer in zip(*found, strict=True)]
    expected = torch.stack([layer.topk(2).indices.sort(dim=-1).values for layer in logits], dim=1).numpy()
    assert arrays["experts"].shape == (TOKENS, 4, 2)
    assert (arrays["experts"] == expected).mean() > 0.99, "ties and rounding apart"
    assert said["context"] == CONTEXT


def test_a_piece_is_as_long_as_the_model_is_made_for_and_1024_tokens_at_most():
    config = json.loads((MODEL / "config.json").read_text())
    lengths = [profiling.piece_tokens(config | {"max_position_embeddings": n}, profiling.Asked()) for n in (512, 4096)]
    assert lengths == [512, 1024]
    assert profiling.piece_tokens(config, profiling.Asked(context=2048)) == 2048


def test_a_draft_on_slices_routes_nearly_as_the_target(measured):
    _, _, arrays = measured
    same = (arrays["experts"] == arrays["draft_experts"]).mean()
    assert 0.7 < same < 1


def test_accepted_lengths_are_counted_for_every_draft(measured):
    _, found, arrays = measured
    assert arrays["accepted_lengths"].shape == (4, 5)
    assert (arrays["accepted_lengths"].sum(axis=1) == 8).all()
    assert arrays["accepted_lengths"][3].tolist() == [0, 0, 0, 0, 8], "in 8 bits on all experts it is the target"
    rates = [draft["acceptance_rate"] for draft in found["drafts"]]
    assert rates == pytest.approx((arrays["accepted_lengths"] @ np.arange(5) / 32).tolist())
    assert rates[0] < rates[1] <= rates[3] == 1
    assert arrays["draft_configurations"].tolist() == [[4, 4, 0.25], [4, 4, 1], [8, 8, 0.5], [8, 8, 1]]


def test_a_compile_goes_by_what_was_measured(measured, small, tmp_path):
    folder, _, _ = measured
    capacity = ("--set", "memories.hb.capacity_gb=0.0037")
    options = ("--draft-length", 2, "--context", 64, "--time-limit", 0.2, "--profile", folder / "a.npz", "--json")
    done = moec("compile", MODEL, "--target", "elmoe3d-8gb", *capacity, *options, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert (plan["profile"]["kind"], plan["profile"]["draft_routing"]) == ("real", "measured")
    assert "measured" in json.loads(done.stdout)["draft"]["acceptance_source"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tokens", 3), ["--tokens 3", "64 to"]),
        (("--draft-length", 0), ["--draft-length 0"]),
        (("--rounds", 0), ["--rounds 0"]),
        (("--context", 0), ["--context 0", "32 to"]),
        (("--context", 4096), ["--context 4096", "valid: up to 2,048"]),
        (("--text", "nowhere.txt"), ["--text nowhere.txt: cannot be read"]),
        (("--weights", "nowhere"), ["--weights nowhere", "a folder with *.safetensors"]),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, options, words):
    (tmp_path / "short.txt").write_text("x = 1")
    text = ("--text", tmp_path / "short.txt")
    command = ("profile", MODEL, "--weights", MODEL, *text, "-o", tmp_path / "a.npz")
    assert_refused(moec(*command, *options), *words)
    assert_refused(moec(*command), "short.txt: has", "at least 64")
    assert not (tmp_path / "a.npz").exists()
