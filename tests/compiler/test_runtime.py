import json
import subprocess
import sys

import pytest
import torch

from moe_compiler.runtime.decoder import Decoder, decode, plain_round
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.quantise import linear, quantise
from moe_compiler.trace.executable import build
from tests.conftest import TINY, tiny_config


def test_slices_put_together_are_the_weight_and_the_draft_error_is_half_a_step():
    weight = torch.randn(48, 100, generator=torch.Generator().manual_seed(0))
    sliced = quantise(weight)
    assert sliced.msb.min() >= -8
    assert sliced.msb.max() <= 7
    scale = sliced.scale.double().repeat_interleave(32, dim=1)[:, :100]
    exact = sliced.verify_weights() * 2.0**-24
    assert torch.equal(exact, (16 * sliced.msb.double() + sliced.low.double()) * scale)
    assert ((exact - weight.double()).abs() <= 0.51 * scale).all()
    error = (sliced.verify_weights() - sliced.draft_weights()) * 2.0**-24 / scale
    assert error.min() >= -8
    assert error.max() <= 7
    assert torch.equal(sliced.verify_weights(), sliced.verify_weights().round())


@pytest.mark.parametrize("rows", [2, 3, 8, 17])
def test_linear_is_batch_invariant_to_the_last_bit(rows):
    generator = torch.Generator().manual_seed(1)
    weights = quantise(torch.randn(65, 77, generator=generator)).verify_weights()
    batch = torch.randn(rows, 77, generator=generator)
    together = linear(batch, weights)
    for n in range(rows):
        assert torch.equal(together[n], linear(batch[n : n + 1], weights)[0])


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        quantise(torch.tensor([[1.0, float("nan")]]))


def rounds(decoder):
    drafts = []
    for step in range(decoder.plan.draft_length):
        drafts.append(decoder.draft_step(step, drafts))
    new = decoder.verify_step(drafts)
    decoder.release_staging()
    return new


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_draft_and_verify_give_the_tokens_of_plain_greedy_decoding(model_type):
    model = build(tiny_config(model_type), None, seed=0)
    resident = {part.layer: list(range(0, part.experts, 2)) for part in model.experts}
    resident[model.experts[-1].layer] = []
    plan = Plan(batch=2, draft_length=3, draft_bits=4, staging_slots=6, resident=resident)
    prompts = [[1, 2, 3], [9, 8, 7]]
    speculative = Decoder(model, plan, prompts, 120)
    produced = decode(speculative, rounds, 24)
    plain = Decoder(model, plan, prompts, 120)
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
    decoder = Decoder(model, Plan(1, 4, 8, 4, resident), [[5]], 200)
    decode(decoder, rounds, 20)
    assert decoder.accepted == decoder.drafted > 0
    decoder.close()


def test_the_emitted_program_runs_and_agrees_with_plain_greedy_decoding(compiled, tmp_path):
    compiled.save(tmp_path / "out")
    assert compiled.plan["draft"]["length"] == 3
    assert 0 < compiled.plan["draft"]["expert_fraction"] < 1
    run = subprocess.run(
        [sys.executable, tmp_path / "out" / "schedule.py", "--tokens", "20", "--check", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["same_as_plain_greedy"] is True
    assert report["dispatched"] > 0, "every draft step of a layer with residents chooses replicas"
    assert report["dispatch_microseconds"] > 0
    assert report["drafted"] > 0
    assert report["loads"] > 0
    assert "synthetic" in report["weights"]


def test_the_emitted_program_refuses_bad_options(compiled, tmp_path):
    compiled.save(tmp_path / "out")
    for options, word in (
        (["--prompt", "x"], "--prompt"),
        (["--prompt", "500"], "0 to 127"),
        (["--weights", "no"], "--weights"),
    ):
        run = subprocess.run(
            [sys.executable, tmp_path / "out" / "schedule.py", *options], capture_output=True, text=True, check=False
        )
        assert run.returncode == 2
        assert word in run.stderr
        assert "Traceback" not in run.stderr
