"""Weights that are not those of the scheduled model are named, tensor by tensor."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from moe_compiler.runtime.checkpoint import _compress
from moe_compiler.runtime.huggingface import configuration
from moe_compiler.runtime.model import build
from moe_compiler.runtime.quantise import quantise
from tests.compiler.test_runtime import tiny_config

EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"
GATE = "model.layers.1.mlp.gate.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a small OLMoE's weights, as transformers saves them."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(configuration(tiny_config("olmoe"))).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def loaded(tensors, folder):
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return build(tiny_config("olmoe"), folder, 0)


def refusal(tensors, folder):
    with pytest.raises(ValueError, match="--weights") as error:
        loaded(tensors, folder)
    return str(error.value)


def test_a_complete_checkpoint_is_loaded(saved, tmp_path):
    model = loaded(saved, tmp_path)
    first, _ = model.far.matrices(1, 2)
    rows = len(saved[EXPERT])
    assert torch.equal(first.weights(is_slice=False)[-rows:], quantise(saved[EXPERT]).weights(is_slice=False))


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda t: {n: v for n, v in t.items() if n != EXPERT}, [f"missing: {EXPERT}"]),
        (
            lambda t: {n: v for n, v in t.items() if "layers.1.mlp.experts" not in n},
            ["missing: model.layers.1.mlp.experts.{0-15}.down_proj.weight"],
        ),
        (lambda t: {n: v for n, v in t.items() if n != GATE}, [f"missing: {GATE}"]),
        (lambda t: {**t, "model.extra": torch.zeros(2)}, ["unexpected: model.extra"]),
        (
            lambda t: {**t, EXPERT.replace(".2.", ".16."): t[EXPERT].clone()},
            ["unexpected: model.layers.1.mlp.experts.16.up_proj.weight"],
        ),
        (lambda t: {**t, EXPERT: t[EXPERT][:3].clone()}, ["shape [3, ", f"]: {EXPERT}"]),
        (lambda t: {**t, GATE: t[GATE][:3].clone()}, ["shape [3, ", f"]: {GATE}"]),
        (lambda t: {**t, GATE: t[GATE].to(torch.int8)}, [f"{GATE} holds I8"]),
        (lambda t: {**t, GATE: t[GATE] * torch.nan}, [f"{GATE} holds numbers that are not finite"]),
        (
            lambda t: {n.replace(".mlp.", ".block_sparse_moe."): v for n, v in t.items()},
            ["missing: model.layers.{0-", "unexpected: model.layers.{0-"],
        ),
    ],
)
def test_other_weights_are_named(saved, tmp_path, change, lines):
    message = refusal(change(saved), tmp_path)
    assert all(line in message for line in lines), message
    assert message.count("\n") <= 21


def test_files_that_are_no_weights_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be read"):
        build(tiny_config("olmoe"), tmp_path, 0)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match="is no regular file"):
        build(tiny_config("olmoe"), tmp_path, 0)


def test_the_emitted_program_ends_with_2(compiled, saved, tmp_path):
    compiled.save(tmp_path / "out")
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file({n: v for n, v in saved.items() if n != EXPERT}, folder / "model.safetensors")
    command = [sys.executable, tmp_path / "out" / "schedule.py", "--weights", folder, "--check"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "model.layers" in run.stderr
    assert "Traceback" not in run.stderr


def test_names_are_written_as_products():
    names = [f"a.{i}.b.{j}.c" for i in (0, 1, 2, 5) for j in (0, 1)]
    assert _compress(names) == ["a.{0-2,5}.b.{0-1}.c"]
    assert _compress([*names, "a.7.b.1.c", "d"]) == ["a.{0-2,5}.b.{0-1}.c", "a.7.b.1.c", "d"]
    assert _compress([]) == []
