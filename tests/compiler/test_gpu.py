"""Kernels of a GPU, interpreted where there is none; copies beside what is computed; and a run with both."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from moe_compiler.generation import Asked, Runner
from moe_compiler.runtime import gpu, linear, machine
from moe_compiler.runtime.decoder import Decoder
from moe_compiler.runtime.far import booked, pace_of, read
from moe_compiler.runtime.kernels import CaughtLinear, Kernels
from moe_compiler.runtime.model import build
from moe_compiler.runtime.packing import REST, SLICE
from moe_compiler.runtime.pinned import MOST_UNDER_WAY, Copier, Copies, PinnedMemory
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.processor import CPU
from moe_compiler.runtime.quantise import quantise
from moe_compiler.runtime.staging import WAITED_FOR, Staging
from moe_compiler.runtime.store_file import StoreFile
from tests.command import assert_refused
from tests.conftest import TINY, tiny_config
from tests.gpu import HERE, NoGpu
from tests.running import PROMPTS, run


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(HERE)


@pytest.mark.parametrize("is_slice", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(33, 77), (16, 320), (1, 32)])
def test_products_are_those_of_the_cpu_and_batch_invariant_to_the_last_bit(outputs, inputs, is_slice):
    """Of several blocks of outputs, the last one not full; of several blocks of columns; of a single one."""
    packed, batch = quantise(random(outputs, inputs).cpu()), random(3, inputs, seed=1)
    here = packed.to(HERE)
    together = gpu.multiply(batch, here, is_slice)
    expected = linear.multiply(batch.cpu(), packed, is_slice)
    assert (together.cpu() - expected).abs().max() < 1e-5 * expected.abs().max()
    for n in range(3):
        assert torch.equal(together[n], gpu.multiply(batch[n : n + 1], here, is_slice)[0])
    assert gpu.multiply(batch[:0], here, is_slice).shape == (0, outputs)


def test_what_cannot_be_multiplied_is_said():
    packed = quantise(random(4, 32).cpu())
    with pytest.raises(RuntimeError, match="rows of 31 are multiplied with a matrix of 32 inputs"):
        gpu.multiply(random(1, 31), packed.to(HERE), False)
    with pytest.raises(ValueError, match="only the most significant slice"):
        gpu.multiply(random(1, 32), replace(packed.to(HERE), low=None), False)


@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("window", [0, 1, 8])
def test_attention_is_that_of_the_cpu_and_batch_invariant_to_the_last_bit(window, with_sinks):
    """Rows of two caches, at the first position of one and beyond a block of them; two heads share a key."""
    query, keys, values = random(4, 4, 24), random(2, 2, 70, 24, seed=1), random(2, 2, 70, 16, seed=2)
    caches, places = torch.tensor([0, 1, 0, 1], device=HERE), torch.tensor([0, 6, 33, 69], device=HERE)
    sinks = random(4, seed=4) if with_sinks else None
    together = gpu.attend(query, (keys, values), (caches, places), window, 0.3, sinks)
    cpu_sinks = None if sinks is None else sinks.cpu()
    cache, rows = (keys.cpu(), values.cpu()), (caches.cpu(), places.cpu())
    assert (together.cpu() - linear.attend(query.cpu(), cache, rows, window, 0.3, cpu_sinks)).abs().max() < 1e-5
    for n in range(4):
        rows = caches[n : n + 1], places[n : n + 1]
        alone = gpu.attend(query[n : n + 1], (keys, values), rows, window, 0.3, sinks)
        assert torch.equal(together[n], alone[0])


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("columns", [1, 7, 64])
def test_a_softmax_is_that_of_the_cpu_also_where_nothing_may_be_chosen(columns):
    values = random(6, columns, seed=3)
    values[1, 0] = values[2] = -torch.inf
    found, expected = gpu.softmax(values).cpu(), linear.softmax(values.cpu())
    assert torch.allclose(found, expected, atol=1e-6, equal_nan=True)
    for n in range(6):
        assert torch.equal(gpu.softmax(values[n : n + 1])[0].cpu().nan_to_num(), found[n].nan_to_num())
    assert torch.equal(gpu.softmax(values.view(2, 3, columns)).cpu().nan_to_num(), found.view(2, 3, -1).nan_to_num())


def test_sums_and_means_of_rows_are_caught_and_nothing_else():
    """As models write them; each row gives what it gives alone."""
    caught = Kernels.__new__(Kernels)
    caught.processor = replace(CPU, functions=gpu.FUNCTIONS)
    values, half = random(3, 2500), random(3, 8).half()
    with CaughtLinear(caught):
        found = [values.mean(-1, keepdim=True), values.sum(dim=-1), torch.mean(values, dim=(1,)), values.sum(1, True)]
        alone = [values[1:2].mean(-1, keepdim=True), values[1].sum(dim=-1)[None]]
        others = [values.sum(0), values.sum(), values.mean(dim=(0, 1))]
        types = [half.sum(-1).dtype, values.sum(-1, dtype=torch.double).dtype]
        softmax = torch.softmax(values, -1)
    exact = values.double()
    expected = [exact.mean(-1, keepdim=True), exact.sum(-1), exact.mean(-1), exact.sum(-1, keepdim=True)]
    for ours, right in zip(found, expected, strict=True):
        assert ours.shape == right.shape
        assert ours.dtype == torch.float32
        assert torch.allclose(ours.double(), right, atol=1e-4)
    assert torch.equal(found[1], gpu.add(values)), "in our order"
    assert not torch.equal(found[1], values.sum(-1)), "which is another than torch's"
    assert torch.equal(found[0][1:2], alone[0])
    assert torch.equal(found[1][1:2], alone[1])
    assert torch.equal(softmax, gpu.softmax(values))
    assert torch.equal(others[0], values.sum(0))
    assert [part.dim() for part in others] == [1, 0, 0]
    assert types == [torch.float16, torch.float64]


COMPILED = """
import json, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from moe_compiler.runtime import gpu_kernels
INTEGERS = ("outputs", "half", "heads", "kv_heads", "capacity", "dim", "value_dim", "window", "columns")
KINDS = {
    "top": "*u8", "low": "*u8", "scale": "*fp16", "of": "*i64", "last": "*i64", "scaling": "fp32",
    **dict.fromkeys(("rows", "query", "keys", "values", "sinks", "result"), "*fp32"),
    **dict.fromkeys(INTEGERS, "i32"),
}
ALIGNED = {
    "multiply": {"top", "low", "scale", "outputs", "half"},
    "attend": {"keys", "values", "sinks", "heads", "kv_heads", "dim", "value_dim"},
    "softmax": {"columns"},
    "add": {"columns"},
}
CONSTANTS = {
    "multiply": [{"IS_SLICE": is_slice, "OUTPUTS": 16, "COLUMNS": 128} for is_slice in (False, True)],
    "attend": [{"HAS_SINKS": sinks, "PLACES": 32, "DIM": 128, "VALUE_DIM": 64} for sinks in (False, True)],
    "softmax": [{"COLUMNS": 128}],
    "add": [{"COLUMNS": 1024}],
}
# An argument that is 1 is a constant.
ONES = {"multiply": ("outputs",), "attend": ("heads", "kv_heads"), "softmax": ("columns",), "add": ("columns",)}
CONSTANTS = {
    name: values + [values[0] | dict.fromkeys(ONES[name], 1)] for name, values in CONSTANTS.items()
}
found = {}
for capability in (80, 90, 120):
    for name, constants in CONSTANTS.items():
        kernel = getattr(gpu_kernels, name)
        for values in constants:
            types = {
                argument: "constexpr" if argument in values else KINDS[argument] for argument in kernel.arg_names
            }
            aligned = ALIGNED[name] - {*values}
            known = {(n,): [["tt.divisibility", 16]] for n, part in enumerate(kernel.arg_names) if part in aligned}
            for attributes in ({}, known):
                source = ASTSource(fn=kernel, signature=types, constexprs=values, attrs=attributes)
                made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
                found[f"{name} {capability} {values} {len(attributes)}"] = len(made.asm["cubin"])
print(json.dumps(found))
"""


def test_kernels_become_machine_code_of_three_generations_of_gpus(tmp_path):
    """An interpreter takes more than a compiler does. None of them needs a GPU."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", COMPILED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 54
    assert all(found.values())


def bytes_of(*values):
    return [torch.full((4096,), value, dtype=torch.uint8) for value in values]


def copies(data, room, size=4096):
    return Copies(((data, room),), size)


def test_the_most_urgent_copies_begin_first_and_few_at_a_time():
    device, sources, rooms = NoGpu(), bytes_of(*range(8)), bytes_of(*[99] * 8)
    copier = Copier(8, device, pace_of())
    asked = zip(sources, rooms, (9, 9, 9, 9, 7, 3, 8, 5), strict=True)
    places = [copier.submit(copies(source, room), urgency) for source, room, urgency in asked]
    assert len(device.under_way) == MOST_UNDER_WAY == 4
    assert copier.ended() == [], "nothing is there before somebody waits for it"
    copier.hurry(places[4], 4)
    assert copier.cancel(places[6])
    assert not copier.cancel(places[0]), "it has begun"
    ended = []
    while len(ended) < 7:
        copier.wait(1.0)
        ended += copier.ended()
    assert [outcome.place for outcome in ended] == [places[n] for n in (0, 1, 2, 3, 5, 4, 7)]
    assert all(first.end <= second.start for first, second in pairwise(ended))
    assert all(outcome.start <= outcome.end and outcome.error is None for outcome in ended)
    assert [int(room[0]) for room in rooms] == [0, 1, 2, 3, 4, 5, 99, 7]
    copier.submit(copies(sources[6], rooms[6]), 0)
    copier.close()
    assert int(rooms[6][0]) == 6, "what has begun ends"
    with pytest.raises(RuntimeError, match="closed"):
        copier.submit(copies(sources[6], rooms[6]), 0)


def test_copies_are_held_to_a_rate_whoever_makes_them(store):
    """Two of 4,096 bytes at 100 kB/s, asked for at once, come one after the other; and an expert at 1 MB/s, now."""

    class Eager(NoGpu):
        def copy(self, pairs, after):
            events = super().copy(pairs, after)
            self.catch_up(self.count)
            return events

    device, (source, room) = Eager(), bytes_of(1, 2)
    copier, begun = Copier(2, device, pace_of(100_000)), time.perf_counter_ns()
    copier.submit(copies(source, room), 0)
    copier.submit(copies(source, room), 0)
    assert copier.ended() == []
    copier.wait(0.001)
    assert copier.ended() == [], "it may return sooner"
    ended = []
    while len(ended) < 2:
        copier.wait(1.0)
        ended += copier.ended()
    assert begun <= ended[0].start
    assert ended[0].end == ended[1].start, "the time of one is not that of the other"
    assert [outcome.end - outcome.start for outcome in ended] == [40_960_000, 40_960_000]
    assert time.perf_counter_ns() >= ended[1].end
    memory = PinnedMemory(StoreFile(store, 1e6), device)
    into = {SLICE: memory.rooms(2**17)}
    begun = time.perf_counter_ns()
    read(memory, 0, 0, into)
    assert booked(pace_of(), 10**9) == (0, 0)
    assert time.perf_counter_ns() - begun >= memory.layouts[0].slice_bytes / 1e6 * 1e9
    memory.close()


def test_experts_in_pinned_memory_are_those_of_the_store(store):
    device, file = NoGpu(), StoreFile(store)
    memory = PinnedMemory(file, device)
    assert len(device.pinned) == 4
    for layer, expert in ((0, 0), (3, 15), (2, 7)):
        for ours, right in zip(memory.matrices(layer, expert), file.matrices(layer, expert), strict=True):
            assert torch.equal(ours.whole(), right.whole())
            assert torch.equal(ours.scale, right.scale)
    staging = Staging(memory, 4)
    staging.request([((1, expert), WAITED_FOR, (SLICE, REST)) for expert in range(4)])
    for expert in range(4):
        staging.wait_for_any([(1, expert)])
        pieces = staging.pieces((1, expert))
        layout = memory.layouts[1]
        found = layout.views(pieces[SLICE], pieces[REST])
        assert all(
            torch.equal(ours.whole(), right.whole())
            for ours, right in zip(found, file.matrices(1, expert), strict=True)
        )
        staging.used((1, expert))
    assert staging.traffic.most_slots == 4
    staging.close()
    memory.close()
    assert device.pinned == []
    file.close()


def test_what_cannot_be_pinned_is_undone(store):
    class Full(NoGpu):
        def pin(self, room):
            if len(self.pinned) == 2:
                raise MemoryError("no")
            super().pin(room)

    device = Full()
    with pytest.raises(MemoryError):
        PinnedMemory(StoreFile(store), device)
    assert device.pinned == []


@pytest.fixture
def interpreted(monkeypatch):
    """What `--device cuda` runs on, without a GPU."""
    device = NoGpu()
    processor = replace(CPU, kernel=gpu.KERNEL, multiply=gpu.multiply, attend=gpu.attend, functions=gpu.FUNCTIONS)
    made = machine.Machine(processor, lambda store: PinnedMemory(store, device), lambda: gpu.warm_up(HERE))
    monkeypatch.setattr(machine, "_cuda", lambda: made)
    # An interpreter takes as long for a large block as for a small one.
    monkeypatch.setattr(gpu, "OUTPUTS", 512)
    return device


@pytest.mark.skipif(HERE.type == "cuda", reason="kernels are not interpreted where there is a GPU")
def test_a_run_gives_the_tokens_of_decoding_one_at_a_time_and_those_of_the_cpu(folder, store, interpreted):
    runner = Runner.open(folder, store, device="cuda")
    found = runner.run(["x"], Asked(3, check=True))
    assert found["check"] == "equal"
    assert found["far"] == "copies from pinned memory"
    assert "Triton" in found["kernel"]
    assert found["bytes_loaded"] > 0
    assert len(interpreted.copied) > 0
    here = Runner.open(folder, store).run(["x"], Asked(3))
    assert [s["token_ids"] for s in found["sequences"]] == [s["token_ids"] for s in here["sequences"]]


@pytest.mark.parametrize("kind", TINY)
def test_models_need_nothing_that_depends_on_the_number_of_rows(kind):
    """But for what is caught: each of the architectures that are run computes a token without what is refused."""
    model = build(tiny_config(kind), None, seed=0)
    refusing = {name: gpu.FUNCTIONS[name] for name in gpu.REFUSED} | linear.FUNCTIONS
    decoder = Decoder(replace(model, processor=replace(CPU, functions=refusing)), Plan(), [[1, 2, 3]], 8)
    decoder.close()


def test_a_model_that_needs_what_depends_on_the_number_of_rows_is_refused():
    values, whole = random(2, 4), torch.ones(2, 4, dtype=torch.int64)
    kernels = Kernels.__new__(Kernels)
    kernels.processor = replace(CPU, functions=gpu.FUNCTIONS)
    with CaughtLinear(kernels):
        for function in (lambda: values @ values.T, lambda: values.norm(dim=-1), lambda: values.cumsum(-1)):
            with pytest.raises(RuntimeError, match=r"on a GPU, .* gives a row another result beside other rows"):
                function()
        assert whole.cumsum(-1)[0].tolist() == [1, 2, 3, 4]


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device gpu; valid: cpu, cuda"):
        machine.machine("gpu")


@pytest.mark.skipif(HERE.type == "cuda", reason="there is a GPU")
def test_where_there_is_no_gpu_that_is_said(folder, store):
    done = run(folder, store, "--device", "cuda")
    assert_refused(done, "--device cuda: there is no CUDA here", "valid: --device cpu")


@pytest.mark.skipif(HERE.type != "cuda", reason="needs a GPU")
def test_a_run_on_a_gpu_gives_the_tokens_of_decoding_one_at_a_time(folder, store):
    done = run(folder, store, "--device", "cuda", "--check", "--json", prompts=PROMPTS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["check"] == "equal"
    assert found["bytes_loaded"] > 0
