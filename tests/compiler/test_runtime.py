import io
import json
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import moe_compiler
from moe_compiler.runtime import compiled, linear, native, products
from moe_compiler.runtime.decoder import Decoder, decode, plain_round
from moe_compiler.runtime.hot_set import HotSetRule
from moe_compiler.runtime.kernels import CaughtLinear, Kernels, Step
from moe_compiler.runtime.linear import attend, multiply, pointwise, softmax
from moe_compiler.runtime.model import build
from moe_compiler.runtime.packing import Layout
from moe_compiler.runtime.plan import Plan, frozen
from moe_compiler.runtime.quantise import Packed, quantise, rounded
from moe_compiler.runtime.store import EngineRule
from tests.conftest import TINY, tiny_config

ARCHITECTURES = json.loads((Path(__file__).parents[1] / "architectures.json").read_text())


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_slices_put_together_are_the_weight_and_the_draft_error_is_half_a_step():
    weight = random(48, 100)
    packed = quantise(weight)
    assert packed.weights(is_slice=False).shape == weight.shape
    scale = packed.scale.double().repeat_interleave(32, dim=1)[:, :100]
    whole, sliced = packed.whole()[:, :100].double(), packed.sliced()[:, :100].double()
    assert torch.equal(packed.weights(is_slice=False).double(), whole * scale), "no digit is lost"
    assert ((whole * scale - weight.double()).abs() <= 0.51 * scale).all()
    # 16 m + 8 instead of 16 m + l, of 0 <= l < 16.
    assert (whole - sliced).min() >= -8
    assert (whole - sliced).max() <= 7
    assert torch.equal(sliced.remainder(16), torch.full_like(sliced, 8))


@pytest.mark.parametrize("is_slice", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(2, 77), (3, 20), (8, 130), (17, 128)])
def test_products_are_batch_invariant_to_the_last_bit(rows, columns, is_slice):
    packed, batch = quantise(random(65, columns)), random(rows, columns, seed=1)
    together = multiply(batch, packed, is_slice)
    for n in range(rows):
        assert torch.equal(together[n], multiply(batch[n : n + 1], packed, is_slice)[0])
    exact = batch.double() @ packed.weights(is_slice).double().T
    assert (together.double() - exact).abs().max() < 1e-5 * exact.abs().max()


def test_rounded_activations_are_whole_steps_within_half_a_step_and_batch_invariant():
    rows = torch.cat([random(5, 50, seed=3), torch.zeros(1, 50)])
    found = rounded(rows)
    assert found.shape == rows.shape
    for first, last in ((0, 32), (32, 50)):
        steps = rows[:5, first:last].abs().amax(dim=1, keepdim=True) / 127
        counts = found[:5, first:last] / steps
        assert (counts - counts.round()).abs().max() < 1e-4
        assert (counts.abs().amax(dim=1) - 127).abs().max() < 1e-4
        assert ((found - rows)[:5, first:last].abs() <= 0.5001 * steps).all()
    assert not found[5].any()
    assert rounded(rows[:0]).shape == (0, 50)
    broken = torch.where(torch.arange(50) == 3, torch.nan, rows)
    assert rounded(broken)[1].isnan().nonzero().flatten().tolist() == list(range(32))
    for row in range(len(rows)):
        assert torch.equal(rounded(rows[row : row + 1])[0], found[row])


@pytest.mark.parametrize("sinks", [None, random(4, seed=4)])
@pytest.mark.parametrize("window", [0, 8])
def test_attention_is_that_of_torch_and_batch_invariant_to_the_last_bit(window, sinks):
    """Six rows of two caches: each sees its own cache, up to itself, and at most the window; two heads share a key."""
    query, keys, values = random(6, 4, 32), random(2, 2, 40, 32, seed=1), random(2, 2, 40, 16, seed=2)
    caches, places = torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([0, 4, 5, 6, 30, 39])
    together = attend(query, (keys, values), (caches, places), window, 0.3, sinks)
    for n, (cache, place) in enumerate(zip(caches.tolist(), places.tolist(), strict=True)):
        alone = attend(query[n : n + 1], (keys, values), (caches[n : n + 1], places[n : n + 1]), window, 0.3, sinks)
        assert torch.equal(together[n], alone[0])
        seen = slice(max(0, place + 1 - window) if window else 0, place + 1)
        key, value = (part[cache, :, seen].double().repeat_interleave(2, 0) for part in (keys, values))
        scores = (query[n, :, None].double() @ key.transpose(1, 2))[:, 0] * 0.3
        scores = scores if sinks is None else torch.cat([scores, sinks[:, None].double()], dim=1)
        expected = torch.softmax(scores, dim=1)[:, None, : key.shape[1]] @ value
        assert (together[n] - expected[:, 0]).abs().max() < 1e-5


def test_threads_change_nothing(monkeypatch):
    packed, batch = quantise(random(300, 256)), random(3, 256, seed=1)
    query, cache = random(3, 4, 32), (random(1, 2, 40, 32, seed=1), random(1, 2, 40, 16, seed=2))
    rows = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 17, 39])
    found = []
    for least in (0, 2**40):
        monkeypatch.setattr(linear, "WORTH_THREADS", least)
        products = [multiply(batch, packed, is_slice) for is_slice in (False, True)]
        found.append([*products, attend(query, cache, rows, 0, 0.3, None)])
    assert all(torch.equal(alone, together) for alone, together in zip(*found, strict=True))


def test_a_matrix_of_many_blocks_is_multiplied_as_a_whole():
    packed, batch = quantise(random(700, 1024)), random(3, 1024, seed=1)
    exact = batch.double() @ packed.weights(is_slice=False).double().T
    assert (multiply(batch, packed, is_slice=False).double() - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("function", [torch.sigmoid, torch.nn.functional.silu, torch.exp, torch.tanh, torch.cos])
@pytest.mark.parametrize("columns", [1, 7, 64, 100])
def test_functions_of_values_are_batch_invariant_to_the_last_bit(function, columns):
    """Also where a tensor is so large that threads share it, and where rows are no whole vectors."""
    values = random(1200, columns, seed=2)
    together = pointwise(function, values)
    assert (together - function(values.double())).abs().max() < 1e-5
    for n in (0, 1, 5, 16, 17, 31, 600, 1199):
        assert torch.equal(together[n], pointwise(function, values[n : n + 1])[0])


@pytest.mark.parametrize("columns", [1, 7, 64, 100])
def test_a_softmax_is_that_of_torch_and_batch_invariant_to_the_last_bit(columns):
    """Also where an expert may not be chosen, and where none may."""
    values = random(400, columns, seed=3)
    values[1, 0] = values[2] = -torch.inf
    together = softmax(values)
    exact = values.double().softmax(-1)
    assert torch.allclose(together.double(), exact, atol=1e-6, equal_nan=True)
    for n in range(0, 400, 7):
        assert torch.equal(together[n].nan_to_num(), softmax(values[n])[None].nan_to_num()[0])
    assert torch.equal(softmax(values.view(5, 80, columns)).nan_to_num(), together.view(5, 80, columns).nan_to_num())


def test_a_scale_is_the_float_that_its_bits_mean():
    bits = np.arange(2**16, dtype=np.uint16)
    halves = bits.view(np.float16)
    found = np.array([products._float(half) for half in bits], dtype=np.float32)
    assert (found == halves.astype(np.float32))[np.isfinite(halves)].all()
    assert not np.isfinite(found[~np.isfinite(halves)]).any()


def test_every_kernel_is_compiled_before_a_run():
    linear.warm_up()
    kernels = (products.multiply, products.multiply_alone, compiled.softmax, compiled.attend, compiled.attend_alone)
    kernels += (native.serve, native.exchange, native.move)
    assert all(kernel.signatures for kernel in kernels)


def test_routers_of_all_kinds_are_caught_and_nothing_else(monkeypatch):
    """By keyword, as every model of transformers writes it: over the last dimension, to float32, of any size."""
    caught, kernels = [], Kernels.__new__(Kernels)
    ours = partial(linear.caught_softmax, lambda values: caught.append(values.shape) or values)
    monkeypatch.setitem(linear.FUNCTIONS, "softmax", ours)
    few, many, half = torch.zeros(3, 8), torch.zeros(300, 2**10), torch.zeros(3, 8, dtype=torch.float16)
    with CaughtLinear(kernels):
        torch.nn.functional.softmax(few, dim=-1)
        torch.softmax(few, dim=1)
        half.softmax(dim=-1, dtype=torch.float32)
        torch.softmax(many, dim=-1)
        assert len(caught) == 4
        few.softmax(dim=0)
        torch.softmax(half, dim=-1)
        torch.softmax(input=few, dim=-1)
        torch.softmax(few, -1, out=torch.zeros(3, 8))
        torch.softmax(few[:, :0], dim=-1)
        torch.softmax(few[0, 0], dim=-1)
    assert len(caught) == 4


@pytest.mark.parametrize(
    ("model_type", "changes"), [("qwen2_moe", {}), ("deepseek_v3", {}), ("qwen3_moe", {"num_experts": 512})]
)
def test_a_block_of_many_rows_gives_each_row_what_it_gives_alone(model_type, changes):
    model = build(tiny_config(model_type, **changes), None, seed=0)
    prompt = [(7 * n) % 100 + 1 for n in range(40)]
    logits = []
    for blocks in ([prompt], [[token] for token in prompt]):
        decoder = Decoder(model, Plan(), [prompt[:1]], 64)
        parts, done = [], 0
        for block in blocks:
            positions = torch.arange(done, done + len(block))[None]
            parts.append(decoder._run(torch.tensor([block]), Step(False, positions, [0]))[0])
            done += len(block)
        logits.append(torch.cat(parts))
        decoder.close()
    assert torch.equal(*logits)


@pytest.mark.parametrize("kind", ["qwen3_next", "granitemoehybrid", "lfm2_moe"])
def test_a_model_with_another_state_than_an_attention_cache_is_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind} cannot be run here"):
        Decoder(build(ARCHITECTURES[kind], None, 0), Plan(), [[1, 2]], 16)


@pytest.mark.parametrize("kind", ["nemotron_h", "llama4_text", "dbrx"])
def test_a_model_whose_experts_are_of_another_kind_is_refused(kind):
    with pytest.raises(ValueError, match="cannot be run here"):
        Decoder(build(ARCHITECTURES[kind], None, 0), Plan(), [[1, 2]], 16)


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        quantise(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="no finite FP16"):
        quantise(torch.tensor([[1e7]]))


def test_without_low_nibbles_there_is_only_a_slice():
    packed = quantise(random(4, 32))
    half = Packed(packed.inputs, packed.top, packed.scale)
    with pytest.raises(ValueError, match="most significant slice"):
        half.whole()
    with pytest.raises(ValueError, match="most significant slice"):
        multiply(random(1, 32), half, is_slice=False)
    assert torch.equal(multiply(random(1, 32), half, True), multiply(random(1, 32), packed, True))


def rounds(length):
    """Rounds of so many draft steps that prefetch whatever is asked for."""

    def round_(decoder):
        decoder.begin_round()
        drafts = []
        for step in range(length):
            drafts.append(decoder.draft(step, drafts, least_permille=0))
        new = decoder.verify(drafts, EngineRule("free"))
        decoder.release_staging()
        return new

    return round_


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_draft_and_verify_give_the_tokens_of_plain_greedy_decoding(model_type):
    model = build(tiny_config(model_type), None, seed=0)
    resident = {part.layer: list(range(0, part.experts, 2)) for part in model.experts}
    resident[model.experts[-1].layer] = []
    rule = HotSetRule(64, 8, 1)
    plan = Plan(batch=2, draft_bits=4, dense_bits=4, staging_slots=6, resident=resident, hot_set=rule)
    prompts = [[1, 2, 3], [9, 8, 7]]
    speculative = Decoder(model, plan, prompts, 120)
    produced = decode(speculative, rounds(3), 24)
    plain = Decoder(model, frozen(plan), prompts, 120)
    assert produced == decode(plain, plain_round, 24)
    assert len({tuple(sequence) for sequence in produced}) == 2
    assert speculative.drafted > 0
    assert speculative.rounds < plain.rounds or speculative.accepted == 0
    speculative.close()
    plain.close()


def test_a_full_draft_is_always_accepted():
    # With every expert resident in 8 bits the draft is the target model: every token must be accepted.
    model = build(tiny_config("olmoe"), None, seed=3)
    resident = {part.layer: list(range(part.experts)) for part in model.experts}
    decoder = Decoder(model, Plan(draft_bits=8, staging_slots=4, resident=resident, whole=resident), [[5]], 200)
    decode(decoder, rounds(4), 20)
    assert decoder.accepted == decoder.drafted > 0
    decoder.close()


def test_the_emitted_program_runs_and_agrees_with_plain_greedy_decoding(compiled, tmp_path):
    compiled.save(tmp_path / "out")
    assert compiled.plan["draft"]["length"] == 3
    assert 0 < compiled.plan["draft"]["expert_fraction"] < 1
    run = run_program(tmp_path / "out", "--tokens", "20", "--check", "--json")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["same_as_plain_greedy"] is True
    assert report["dispatched"] > 0, "every draft step of a layer with residents chooses replicas"
    assert report["dispatch_microseconds"] > 0
    assert report["drafted"] > 0
    assert report["loads"] > 0
    assert "synthetic" in report["weights"]


def run_program(folder, *options):
    """Run an emitted program in this process: starting another takes ten times as long as what it does."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["schedule.py", *options])
        try:
            runpy.run_path(str(folder / "schedule.py"), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(options, code, out.getvalue(), err.getvalue())


def test_the_emitted_program_spells_the_round_out_and_is_short(compiled, tmp_path):
    compiled.save(tmp_path / "out")
    text = (tmp_path / "out" / "schedule.py").read_text()
    assert len(text.splitlines()) < 200
    assert len(text.encode()) < 12_000
    dispatch = compiled.plan["dispatch"]
    for line in (
        f"DRAFT_LENGTH = {compiled.plan['draft']['length']}",
        f"SURE_PERMILLE = {dispatch['sure_permille']}",
        f"LEAST_PERMILLE = {dispatch['least_permille']}",
        f'ORDER = "{dispatch["order"]}"',
        f'ENGINE = "{dispatch["engine"]}"',
        "decoder.prefetch_sure(SURE_PERMILLE, ORDER)",
        "decoder.draft(step, drafts, LEAST_PERMILLE, ORDER)",
        "decoder.verify(drafts, EngineRule(ENGINE, MOST_FAR_TOKENS, LATE))",
        f'LATE = "{dispatch["late"]}"',
        f"MOST_FAR_TOKENS = {dispatch['most_far_tokens']}",
        f"Residents follow the last {compiled.plan['hot_set']['window_tokens']} tokens",
        "decoder.carry(CARRIED)",
    ):
        assert line in text


def test_the_replay_runs_the_scheduled_round_in_its_order_at_its_addresses(compiled, tmp_path):
    compiled.save(tmp_path / "out")
    run = run_program(tmp_path / "out", "--replay", "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    kinds = [task["kind"] for task in compiled.plan["round"]["tasks"]]
    assert report["loads"] == kinds.count("load") > 0
    assert report["computations"] == len(kinds) - kinds.count("load")
    assert report["same_as_planned"] is True
    assert report["bytes_without_room"] == 0


def change_plan(folder, name, change):
    with np.load(folder / "plan.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays[name] = change(arrays[name].copy())
    np.savez(folder / "plan.npz", **arrays)


def test_the_replay_says_where_execution_left_the_plan(compiled, tmp_path):
    """Two slices that are alive together are sent to one address: what lies there first is overwritten."""
    compiled.save(tmp_path / "out")

    def all_at_zero(staged):
        staged[:, 3] = 0
        staged[:, 1] = staged[:, 0]
        return staged

    change_plan(tmp_path / "out", "staged", all_at_zero)
    run = run_program(tmp_path / "out", "--replay", "--json")
    assert run.returncode == 5, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["same_as_planned"] is False
    assert any("overwritten in staging" in note for note in report["departures"])


def test_the_replay_notices_an_order_that_cannot_be_kept(compiled, tmp_path):
    """The head of verify is planned first of all: the model computes it last."""
    compiled.save(tmp_path / "out")

    def head_first(tasks):
        tasks[-1, 5] = -1
        return tasks

    change_plan(tmp_path / "out", "tasks", head_first)
    report = json.loads(run_program(tmp_path / "out", "--replay", "--json").stdout)
    assert any("order of computations differs" in note for note in report["departures"])


def test_packed_experts_lie_in_whole_pages_and_are_found_there():
    matrices = (quantise(random(6, 70)), quantise(random(33, 5)))
    layout = Layout.of(matrices)
    # Inputs are rounded up to 96 and 32: 6 · 48 + 33 · 16 bytes of nibbles, 6 · 3 + 33 scales of two bytes.
    assert (layout.slice_bytes, layout.rest_bytes) == (816 + 102, 816)
    piece, rest = layout.pack(matrices)
    assert len(piece) == len(rest) == 4096
    for found, expected in zip(layout.views(piece, rest), matrices, strict=True):
        assert torch.equal(found.weights(is_slice=False), expected.weights(is_slice=False))
    for found, expected in zip(layout.views(piece), matrices, strict=True):
        assert torch.equal(found.weights(is_slice=True), expected.weights(is_slice=True))


def test_an_emitted_program_needs_the_runtime_alone(compiled, tmp_path):
    """With our other packages, MLIR and OR-Tools out of reach, the program still runs."""
    compiled.save(tmp_path / "out")
    blocked = ("moe_passes", "torch_mlir", "ortools", "networkx", "click", "pydantic", "perfetto")
    ours = (
        "api",
        "backend",
        "cli",
        "compilation",
        "documents",
        "evaluate",
        "formats",
        "frontend",
        "hardware",
        "traces",
    )
    names = (*blocked, *(f"moe_compiler.{name}" for name in ours))
    code = f"""
import runpy, sys
for name in {names!r}:
    sys.modules[name] = None
sys.argv = ["schedule.py", "--tokens", "4", "--check"]
runpy.run_path({str(tmp_path / "out" / "schedule.py")!r}, run_name="__main__")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "same_as_plain_greedy: True" in run.stdout


def test_the_emitted_program_refuses_bad_options(compiled, tmp_path):
    compiled.save(tmp_path / "out")
    for options, word in (
        (["--prompt", "x"], "--prompt"),
        (["--prompt", "500"], "0 to 127"),
        (["--weights", "no"], "--weights"),
    ):
        run = run_program(tmp_path / "out", *options)
        assert run.returncode == 2
        assert word in run.stderr
        assert "Traceback" not in run.stderr


def test_a_program_without_its_plan_says_so(compiled, tmp_path):
    compiled.save(tmp_path / "out")
    (tmp_path / "out" / "plan.npz").write_bytes(b"no archive")
    run = run_program(tmp_path / "out")
    assert run.returncode == 2
    assert "plan.npz: is not the plan of this program" in run.stderr


def test_what_lies_far_is_computed_there_and_what_is_kept_whole_is_not_loaded(tiny, tmp_path):
    """A quarter of the experts is near, whole; loads over a slow link take longer than the CPU beside the DRAM."""
    source = str(tiny(num_hidden_layers=2))
    model = moe_compiler.compile(
        source,
        "rtx3090-host",
        overrides=[
            "memories.vram.capacity_gb=0.00034",
            "engines.cpu.expert_overhead_us=0",
            "engines.cpu.layer_overhead_us=0",
            "links.pcie.bandwidth_gb_s=1",
        ],
        draft_length=1,
        context=32,
    )
    assert model.plan["dispatch"]["most_far_tokens"] > 0
    levels = {level for layer in model.plan["layers"] for level in layer["residency"]}
    assert "all" in levels
    model.save(tmp_path / "out")
    for options in (("--replay",), ("--tokens", "16", "--check")):
        run = run_program(tmp_path / "out", *options, "--json")
        assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["same_as_plain_greedy"] is True
    assert report["computed_far"] > 0


def test_experts_that_are_kept_whole_are_never_loaded():
    model = build(tiny_config("olmoe"), None, seed=3)
    resident = {part.layer: list(range(part.experts)) for part in model.experts}
    whole = {layer: experts[::2] for layer, experts in resident.items()}
    decoder = Decoder(model, Plan(draft_bits=4, staging_slots=4, resident=resident, whole=whole), [[5]], 200)
    produced = decode(decoder, rounds(3), 12)
    assert decoder.store.loads
    assert all(expert % 2 for _, expert in decoder.store.loads)
    plain = Decoder(model, Plan(resident={}), [[5]], 200)
    assert decode(plain, plain_round, 12) == produced
    for of in (decoder, plain):
        of.close()


def test_what_few_tokens_need_is_computed_where_it_lies():
    model = build(tiny_config("olmoe"), None, seed=3)
    decoder = Decoder(model, Plan(resident={}, staging_slots=2), [[5]], 200)
    decoder.store.loads.clear()
    decoder.verify([], EngineRule(most_far_tokens=1))
    assert decoder.store.computed_far > 0
    assert decoder.store.loads == []
    decoder.verify([])
    assert decoder.store.loads, "and loaded where nothing may be computed far"
    decoder.close()


def test_what_streams_past_is_read_and_not_staged(monkeypatch):
    """Every expert that is needed comes once, in the step that needs it, and takes no slot."""
    model = build(tiny_config("olmoe"), None, seed=3)
    decoder = Decoder(model, Plan(resident={}, staging_slots=4), [[5]], 200)
    decoder.store.loads.clear()
    monkeypatch.setattr(decoder.store.staging, "request", None)
    decoder.verify([], EngineRule(late="stream"))
    assert len(decoder.store.loads) == len(set(decoder.store.loads)) == sum(part.top_k for part in model.experts)
    assert decoder.store.computed_far == 0
    decoder.close()


def test_streaming_changes_no_token():
    model = build(tiny_config("olmoe"), None, seed=3)
    decoders = [Decoder(model, Plan(resident={}, staging_slots=1), [[5]], 200) for _ in range(2)]
    for decoder, late in zip(decoders, ("load", "stream"), strict=True):
        for _ in range(4):
            decoder.verify([], EngineRule(late=late))
            decoder.release_staging()
        decoder.close()
    assert decoders[0].tokens == decoders[1].tokens
