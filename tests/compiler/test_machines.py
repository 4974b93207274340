"""Every legal hardware file gives a right plan: random machines, from one trace of a tiny model.

`verify-plan` ends each pipeline, so a plan that our own passes get wrong stops the compile (exit 70).
"""

import json
import random

import pytest
from moe_passes.plan.errors import InputError

import moe_compiler
from moe_compiler.evaluate import held_out
from tests.compiler.test_runtime import run_program

MACHINES, PARTS = 60, 6
TOLERANCE = 1e-6
"""Durations are whole nanoseconds, rooflines are not."""


TRACE = "synthetic-400tokens-seed0"


def overrides(seed: int) -> list[str]:
    """Draw a machine: bandwidths over four decades, few or many banks, more or less room than the model needs."""
    choose = random.Random(seed)
    banks = choose.choice((1, 2, 3, 4, 8, 16, 32))
    values = {
        "memories.hb.banks": banks,
        "memories.hb.bank_bandwidth_gb_s": 10 ** choose.uniform(-1, 3),
        "memories.hb.efficiency": choose.choice((0.2, 0.97, 1.0)),
        "memories.hb.capacity_gb": choose.choice((0.0003, 0.0004, 0.0006, 0.002, 1.0)),
        "memories.external.bandwidth_gb_s": 10 ** choose.uniform(-1, 3),
        "memories.external.efficiency": choose.choice((0.5, 0.99)),
        "memories.external.latency_ns": choose.choice((0, 100, 10_000)),
        "engines.elements.tops.w8a8": 10 ** choose.uniform(-2, 3),
        "engines.elements.tops.w4a8": 10 ** choose.uniform(-2, 3),
        "links.aggregation.bandwidth_gb_s": 10 ** choose.uniform(-1, 4),
        "links.aggregation.latency_ns": choose.choice((0, 20, 5000)),
        "links.streamline.bandwidth_gb_s": 10 ** choose.uniform(-1, 4),
        "links.streamline.sharing": choose.choice(("exclusive", "shared")),
    }
    return [f"{path}={value}" for path, value in values.items()]


def host_overrides(seed: int) -> list[str]:
    """Draw a host whose far memory has an engine; experts of the tiny model take 13 kB."""
    choose = random.Random(seed)
    values = {
        "memories.vram.bandwidth_gb_s": 10 ** choose.uniform(-1, 3),
        "memories.vram.capacity_gb": choose.choice((0.0003, 0.0004, 0.0006, 0.002, 1.0)),
        "memories.dram.bandwidth_gb_s": 10 ** choose.uniform(-1, 3),
        "memories.dram.latency_ns": choose.choice((0, 100, 10_000)),
        "links.pcie.bandwidth_gb_s": 10 ** choose.uniform(-2, 2),
        "links.pcie.latency_ns": choose.choice((0, 2000)),
        "engines.cpu.layer_overhead_us": choose.choice((0, 0, 1)),
        "engines.cpu.expert_overhead_us": choose.choice((0, 5)),
        "engines.gpu.step_overhead_us": choose.choice((0, 500)),
        "engines.gpu.width_overhead_us": choose.choice((0, 10)),
        "engines.gpu.tops_by_width.1": choose.choice((0.001, 100)),
        "links.pcie.sharing": choose.choice(("exclusive", "shared")),
        "links.pcie.duplex": choose.choice(("half", "full")),
        "engines.gpu.unit": "apu",
        "engines.cpu.unit": choose.choice(("apu", "cpu")),
    }
    return [f"{path}={value}" for path, value in values.items()]


@pytest.mark.parametrize("part", range(PARTS))
def test_every_legal_machine_gets_a_right_plan(part, tiny, monkeypatch):
    monkeypatch.setattr(held_out, "ROUNDS", 1)
    monkeypatch.setattr(held_out, "TOKENS", 1)
    model = str(tiny(num_hidden_layers=2))
    compiled, refused, far = 0, [], 0
    for seed in range(part, MACHINES, PARTS):
        choose = random.Random(seed)
        length, batch = choose.choice((0, 1, 1, 2, 2, 2, 3, "auto")), choose.choice((1, 1, 3))
        is_host = seed // PARTS % 2
        try:
            made = moe_compiler.compile(
                model,
                "rtx3090-host" if is_host else "elmoe3d-4gb",
                overrides=host_overrides(seed) if is_host else overrides(seed),
                draft_length=length,
                batch=batch,
                context=64,
                profile=TRACE,
                time_limit=0.02,
            )
        except InputError as error:
            refused.append(str(error))
            continue
        compiled += 1
        far += made.plan["dispatch"]["most_far_tokens"] > 0
        round_ = made.cost["round"]
        assert round_["lower_bound_seconds"] <= round_["seconds"], seed
        training = made.cost["training_round"]
        assert training["lower_bound_seconds"] <= training["seconds"] <= training["greedy_seconds"], seed
        for name, seconds in made.cost["roofline_seconds"].items():
            assert seconds * (1 - TOLERANCE) - 1e-9 <= round_["seconds"], (seed, name)
    assert compiled >= MACHINES // PARTS // 2
    assert far, "some compute where experts lie"
    assert all("does not fit" in text or "staging" in text for text in refused), refused


def test_experts_stream_past_where_that_is_sooner(tiny, tmp_path):
    """Over a slow link, the partial sums of what would be staged take longer than loads."""
    made = moe_compiler.compile(
        str(tiny(num_hidden_layers=2)),
        "elmoe3d-4gb",
        overrides=["memories.hb.capacity_gb=0.0003", "links.aggregation.bandwidth_gb_s=0.1"],
        draft_length=0,
        batch=3,
        context=64,
        profile=TRACE,
        time_limit=0.02,
    )
    assert made.plan["dispatch"]["late"] == "stream"
    made.save(tmp_path / "out")
    run = run_program(tmp_path / "out", "--tokens", "8", "--check", "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(run.stdout)["same_as_plain_greedy"] is True
    replayed = run_program(tmp_path / "out", "--replay")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
