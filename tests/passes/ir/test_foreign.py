"""Routed experts in functions of other compilers."""

import subprocess
import sys
from pathlib import Path

import pytest
from moe_passes.ir.dialects import context, parse
from moe_passes.ir.foreign import find_layers
from moe_passes.ir.module import expert_stores, function, read_machine, replicas_of, residency_of
from moe_passes.routing.traces import popularity

from moe_compiler.compilation import read_profile
from tests.command import assert_refused, moec

EXAMPLES = Path(__file__).parents[3] / "examples"
STACKS = """
!ids = !torch.vtensor<[6,2],si64>
!flat = !torch.vtensor<[12],si64>
!up = !torch.vtensor<[4,12,8],f32>
!down = !torch.vtensor<[4,8,12],f32>
!list = !torch.list<vtensor>
func.func @step(%x: !torch.vtensor<[6,8],f32>, %up: !up, %down: !down,
                %scores: !torch.vtensor<[6,4],f32>) -> !torch.vtensor<[6,8],f32> {
  %two = torch.constant.int 2
  %last = torch.constant.int -1
  %yes = torch.constant.bool true
  %v, %i = torch.aten.topk %scores, %two, %last, %yes, %yes
    : !torch.vtensor<[6,4],f32>, !torch.int, !torch.int, !torch.bool, !torch.bool -> !torch.vtensor<[6,2],f32>, !ids
  %n = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %flat = torch.aten.view %i, %n : !ids, !torch.list<int> -> !flat
  %l = torch.prim.ListConstruct %flat : (!flat) -> !list
  %cast = torch.operator "torch.cast"(%up) : (!up) -> !up
  %a = torch.aten.index.Tensor_hacked_twin %cast, %l : !up, !list -> !torch.vtensor<[12,12,8],f32>
  %b = torch.aten.index.Tensor_hacked_twin %down, %l : !down, !list -> !torch.vtensor<[12,8,12],f32>
  return %x : !torch.vtensor<[6,8],f32>
}
"""


def test_stacks_that_one_routing_looks_up_are_one_layer():
    module = parse(STACKS, "stacks", context())
    [layer] = find_layers(function(module, "step", "test"))
    assert (layer.experts, layer.top_k, layer.hidden, layer.parameters) == (4, 2, 8, 2 * 12 * 8)
    assert layer.stacks == [(4, 12, 8), (4, 8, 12)]


def test_another_compilers_module_is_placed_and_handed_back(tmp_path):
    """The example as its docstring says: torch-mlir wrote it, and torch-mlir reads it again, its function untouched."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "other_compilers" / "torch_mlir_moe.py", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    theirs, placed, back = ((tmp_path / f"{name}.mlir").read_text() for name in ("theirs", "placed", "back"))
    body = [line.strip() for line in theirs.splitlines() if "torch.aten" in line]
    assert len(body) > 50
    for text in (placed, back):
        found = [line.partition(" loc(")[0].strip() for line in text.splitlines() if "torch.aten" in line]
        assert found == body
    module = parse(placed, "placed", context())
    stores = expert_stores(module, "test")
    assert [(layer.experts, layer.top_k, layer.parameters) for _, layer in stores] == [(8, 2, 3 * 64 * 96)] * 2
    banks = read_machine(module).hb.banks
    copies = [copy for store in stores for replicas in replicas_of(module, store) for copy in replicas]
    assert copies
    assert all(0 <= bank < banks for copy in copies for bank in copy)
    kept = sum(layer.whole_bytes for store in stores for _, layer in [store] for r in replicas_of(module, store) if r)
    assert kept <= 300_000
    assert "@layer0" in done.stdout


def test_other_peoples_modules_that_hold_no_experts_or_no_machine_are_refused(tmp_path):
    (tmp_path / "plain.mlir").write_text("func.func @f(%a: i32) -> i32 { return %a : i32 }")
    (tmp_path / "stacks.mlir").write_text(STACKS)
    machine = ("--target", "elmoe3d-4gb")
    plain, stacks = tmp_path / "plain.mlir", tmp_path / "stacks.mlir"
    assert_refused(moec("opt", plain, "-p", "find-experts", *machine), "@f: no routed experts were found")
    assert_refused(moec("opt", stacks, "-p", "keep-popular", *machine), "needs expert stores")
    assert_refused(moec("opt", stacks, "-p", "find-experts,keep-popular"), "moe.request")
    assert_refused(moec("opt", stacks, "-p", "find-experts,keep-popular{reserve=2}", *machine), "a share from 0 to 1")
    made = moec("opt", stacks, "-p", "find-experts,keep-popular", *machine, "-o", tmp_path / "made.mlir")
    assert made.returncode == 0, made.stderr
    (tmp_path / "named.mlir").write_text(STACKS.replace("@step", "@moe.forward"))
    assert moec("opt", tmp_path / "named.mlir", "-p", "find-experts", *machine).returncode == 0, "a name is not ours"
    for bits in ("expert-bits=-3", "expert-bits=nan", "msb-bits=9"):
        assert_refused(moec("opt", stacks, "-p", f"find-experts{{{bits}}}", *machine), "msb-bits", "≤ 64")
    (tmp_path / "open.mlir").write_text(STACKS.replace("vtensor<[4,12,8],f32>", "vtensor<[?,12,8],f32>"))
    assert_refused(moec("opt", tmp_path / "open.mlir", "-p", "find-experts", *machine), "[?, 12, 8]")
    (tmp_path / "all.mlir").write_text(STACKS.replace("[6,2],si64", "[6,4],si64"))
    assert_refused(moec("opt", tmp_path / "all.mlir", "-p", "find-experts", *machine), "4 of 4 experts")
    body = STACKS[STACKS.index("func.func") :]
    (tmp_path / "two.mlir").write_text(STACKS + body.replace("@step", "@prefill"))
    assert_refused(
        moec("opt", tmp_path / "two.mlir", "-p", "find-experts", *machine), "@step and @prefill", "function="
    )
    one = moec("opt", tmp_path / "two.mlir", "-p", "find-experts{function=prefill}", *machine)
    assert one.stdout.count("moe.expert_store") == 1, one.stderr
    again = moec("opt", tmp_path / "made.mlir", "-p", "partition-experts", *machine)
    assert_refused(again, "names a machine and a request already")


@pytest.mark.parametrize(("reserve", "kept"), [(0.0, 4), (0.5, 2), (1.0, 0)])
def test_the_most_popular_experts_that_fit_are_kept(reserve, kept, tmp_path):
    """Of 204 bytes each, in what is not reserved of 1,000 bytes."""
    (tmp_path / "stacks.mlir").write_text(STACKS)
    room = ("--target", "elmoe3d-4gb", "--set", "memories.hb.capacity_gb=0.000001")
    passes = f"find-experts,keep-popular{{reserve={reserve}}}"
    done = moec("opt", tmp_path / "stacks.mlir", "-p", passes, *room)
    assert done.returncode == 0, done.stderr
    module = parse(done.stdout, "kept", context())
    [store] = expert_stores(module, "test")
    levels = residency_of(store, "test")
    assert store[1].whole_bytes == 204
    assert (levels > 0).sum() == kept
    counts = popularity(read_profile(module, None))[0]
    assert set(counts[levels > 0]) >= set(sorted(counts)[4 - kept :])
