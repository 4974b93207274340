"""Plans as flags and files of runtimes: what is written keeps just what the plan keeps, and what cannot be said is "
"refused."""

import json
import re
import shlex

import numpy as np
import pytest
import torch

from moe_compiler.formats.runtimes import share_of
from tests.command import assert_refused, moec
from tests.conftest import write_tiny

SMALL = ("--context", 64, "--time-limit", 0.2)
HOST = ("--target", "rtx3090-host", "--format", "gguf:q4_k_m", *SMALL)


@pytest.fixture(scope="module")
def compiled_as(small, tmp_path_factory):
    """Compile a tiny model in some way, each way once."""
    top, made = tmp_path_factory.mktemp("export"), {}
    write_tiny(top / "tiny")

    def folder(*options):
        if options not in made:
            made[options] = top / f"out{len(made)}"
            done = moec("compile", top / "tiny", *options, "-o", made[options])
            assert done.returncode == 0, done.stderr
        return made[options]

    return folder


def host(compiled_as, place, *more):
    return compiled_as(*HOST, "--place", place, "--draft-length", 0, *more)


def flags(folder, target, *options):
    """Return the words of the exported command, its comments, and their predicted rate."""
    done = moec("export", folder, "--to", target, *options)
    assert done.returncode == 0, done.stderr
    comments = [line for line in done.stdout.splitlines() if line.startswith("#")]
    [command] = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    cost = json.loads((folder / "cost.json").read_text())
    [rate] = re.findall(r"predicted: ([\d.e+]+) tokens/s", comments[0])
    assert float(rate) == pytest.approx(1 / cost["token"]["seconds"], rel=1e-3)
    assert comments[1].startswith("# flags: ")
    return shlex.split(command), comments


def on_cpu(words, layers):
    """Return the layers whose experts llama.cpp keeps on the CPU: the first pattern that matches a tensor decides."""
    first = int(words[words.index("--n-cpu-moe") + 1]) if "--n-cpu-moe" in words else 0
    patterns = [w.rpartition("=") for w in (words[words.index("-ot") + 1].split(",") if "-ot" in words else ())]
    found = []
    for layer in range(layers):
        for part in ("up", "down", "gate"):
            name = f"blk.{layer}.ffn_{part}_exps.weight"
            hit = next((where for pattern, _, where in patterns if re.search(pattern, name)), None)
            found += [layer] if layer < first or hit == "CPU" else []
    return sorted(set(found))


@pytest.mark.parametrize(("place", "layers"), [("all-near", []), ("experts=far", [0, 1, 2]), ("layers=1:far", [2])])
def test_llama_cpp_keeps_the_layers_of_the_plan(compiled_as, place, layers):
    folder = host(compiled_as, place)
    words, _ = flags(folder, "llama.cpp")
    plan = json.loads((folder / "plan.json").read_text())
    assert on_cpu(words, 3) == layers == [la["layer"] for la in plan["layers"] if set(la["residency"]) == {"none"}]
    assert words[words.index("--n-gpu-layers") + 1] == "999"
    dense = ["blk.2.attn_q.weight", "blk.2.ffn_gate_inp.weight"]
    assert not any("-ot" in words and re.search(words[words.index("-ot") + 1].split("=")[0], name) for name in dense)


def test_drafts_are_said_and_what_they_are_not(compiled_as, tmp_path):
    folder = compiled_as(*HOST, "--place", "all-near", "--draft-length", 3, "--alpha", 0.8)
    words, comments = flags(folder, "llama.cpp")
    assert words[words.index("--spec-draft-n-max") + 1] == "3"
    assert any("cannot draft with near experts" in line for line in comments)
    words, _ = flags(folder, "vllm")
    assert json.loads(words[words.index("--speculative-config") + 1])["num_speculative_tokens"] == 3
    words, _ = flags(folder, "sglang", "-o", tmp_path / "location.json")
    assert words[words.index("--speculative-num-draft-tokens") + 1] == "4"


def test_vllm_offloads_the_bytes_of_the_experts(compiled_as):
    folder = host(compiled_as, "experts=loaded")
    words, comments = flags(folder, "vllm")
    plan = json.loads((folder / "plan.json").read_text())
    size = sum(layer["expert_bytes"]["all"] * len(layer["residency"]) for layer in plan["layers"])
    assert float(words[words.index("--cpu-offload-gb") + 1]) == pytest.approx(size / 2**30, abs=0.006)
    assert words[words.index("--cpu-offload-params") + 1] == "experts"
    assert any("chosen or not" in line for line in comments)


def test_ktransformers_keeps_just_the_experts_of_the_plan(compiled_as, tmp_path):
    """Its frequency strategy takes the most frequent of all layers together, as many as the ratio says."""
    folder, file = host(compiled_as, "near-share=0.5"), tmp_path / "stats.pt"
    words, _ = flags(folder, "ktransformers", "-o", file)
    assert words[words.index("--init-expert-location") + 1] == str(file)
    counts = torch.load(file, weights_only=True)["logical_count"].sum(dim=0).numpy()
    plan = json.loads((folder / "plan.json").read_text())
    near = {(la["layer"], e) for la in plan["layers"] for e, level in enumerate(la["residency"]) if level == "all"}
    assert "--kt-weight-path" in words, "without it, its other flags do nothing"
    number = int(counts.size * float(words[words.index("--kt-gpu-experts-ratio") + 1]))
    best = np.argsort(-counts, axis=None, kind="stable")[:number]
    assert {divmod(int(place), counts.shape[1]) for place in best} == near


@pytest.mark.parametrize("total", [1, 7, 48 * 128, 61 * 256])
def test_ktransformers_keeps_as_many_as_the_plan(total):
    assert [int(total * float(share_of(count, total))) for count in range(total + 1)] == list(range(total + 1))


def test_files_that_are_read_by_their_ending_have_it(compiled_as, tmp_path):
    assert_refused(
        moec("export", host(compiled_as, "all-near"), "--to", "sglang", "-o", tmp_path / "location"), "ends in .json"
    )
    assert_refused(
        moec("export", host(compiled_as, "near-share=0.5"), "--to", "ktransformers", "-o", tmp_path / "s"),
        "ends in .pt",
    )


def test_sglang_and_eplb_have_every_expert_in_its_slot(compiled_as, tmp_path):
    folder = host(compiled_as, "all-near")
    words, _ = flags(folder, "sglang", "-o", tmp_path / "location.json")
    assert words[words.index("--init-expert-location") + 1] == str(tmp_path / "location.json")
    rows = json.loads((tmp_path / "location.json").read_text())["physical_to_logical_map"]
    assert [sorted(row) for row in rows] == [list(range(16))] * 3
    done = moec("export", folder, "--to", "eplb", "-o", tmp_path / "triple.npz")
    assert done.returncode == 0, done.stderr
    triple = np.load(tmp_path / "triple.npz")
    assert (triple["physical_to_logical"] == np.array(rows)).all()
    assert (triple["counts"] == 1).all()


def test_anybody_can_read_which_experts_are_worth_keeping(compiled_as, tmp_path):
    folder = compiled_as(
        "--target", "elmoe3d-4gb", "--set", "memories.hb.capacity_gb=0.0003", "--draft-length", 3, *SMALL
    )
    done = moec("export", folder, "--to", "neutral", "-o", tmp_path / "experts.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "experts.json").read_text())
    plan, cost = (json.loads((folder / f"{name}.json").read_text()) for name in ("plan", "cost"))
    assert found["predicted_tokens_per_second"] == 1 / cost["token"]["seconds"]
    for entry, layer in zip(found["layers"], plan["layers"], strict=True):
        assert sorted(entry["ranked"]) == list(range(16))
        kept = [e for e, level in enumerate(layer["residency"]) if level != "none"]
        assert set(entry["ranked"][: len(kept)]) == set(kept) == {*entry["near_whole"], *entry["near_slice"]}
        rest = [layer["popularity"][e] for e in entry["ranked"][len(kept) :]]
        assert rest == sorted(rest, reverse=True)


def test_what_a_runtime_cannot_do_is_refused_with_what_could(compiled_as, tmp_path):
    sliced = compiled_as(
        "--target", "elmoe3d-4gb", "--set", "memories.hb.capacity_gb=0.00026", "--draft-length", 3, *SMALL
    )
    out = tmp_path / "file"
    for folder, target, words in (
        (sliced, "llama.cpp", ["near as a slice", "valid: compile with a --format without slices"]),
        (sliced, "ktransformers", ["near as a slice"]),
        (host(compiled_as, "near-share=0.5"), "llama.cpp", ["some experts near and some not", "--place layers=N:far"]),
        (host(compiled_as, "near-share=0.5"), "vllm", ["some experts near"]),
        (host(compiled_as, "layers=1:far"), "vllm", ["are not the first ones"]),
        (host(compiled_as, "experts=far"), "vllm", ["computes experts in the far memory"]),
        (host(compiled_as, "experts=loaded"), "llama.cpp", ["loads experts"]),
        (host(compiled_as, "experts=loaded"), "ktransformers", ["loads experts"]),
        (host(compiled_as, "cache=4"), "ktransformers", ["follows the routing"]),
        (host(compiled_as, "experts=far"), "sglang", ["--to sglang", "expert 0 is not resident"]),
    ):
        assert_refused(moec("export", folder, "--to", target, "-o", out), *words)
        assert not out.exists()
    near = host(compiled_as, "all-near")
    assert_refused(moec("export", near, "--to", "sglang"), "writes a file; valid: -o FILE")
    assert_refused(moec("export", near, "--to", "ollama"), "'ollama' is not one of")
    assert_refused(moec("export", tmp_path, "--to", "vllm"), "is no compile of ours")
    done = moec("export", near, "--to", "vllm", "-o", out)
    assert (done.stdout, done.returncode) == (f"written to {out}\n", 0)
    assert out.read_text().startswith("# predicted: ")
