"""This machine as a hardware file: that it is one, and that its fixed times are those of whole steps."""

from types import SimpleNamespace

import numpy as np
import pytest

from moe_compiler import calibration
from moe_compiler.hardware.loader import load_target
from moe_compiler.runtime.staging import Traffic
from tests.command import assert_refused, moec


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr(calibration, "MATRIX", (256, 256))
    monkeypatch.setattr(calibration, "COLD_BYTES", 2**18)
    monkeypatch.setattr(calibration, "LEAST_SECONDS", 0.005)
    monkeypatch.setattr(calibration, "COPIED_BYTES", 2**20)
    monkeypatch.setattr(calibration, "DISK_BYTES", 2**23)
    monkeypatch.setattr(calibration, "SHAPES", ((1, 1), (2, 1), (1, 2), (2, 2)))
    monkeypatch.setattr(calibration, "STEPS", 2)


@pytest.mark.usefixtures("_quick")
def test_what_is_measured_is_a_hardware_file_with_sources(tmp_path):
    done = moec("calibrate", "-o", tmp_path / "host.yaml")
    assert done.returncode == 0, done.stderr
    loaded = load_target(str(tmp_path / "host.yaml"))
    assert loaded.target.name == "host"
    assert [row["path"] for row in loaded.figures() if row["source"] == "not stated"] == []
    tiers = loaded.tiers()
    assert [tier.name for tier in tiers.tiers] == ["dram", "disk"]
    engine = tiers.near.engine
    assert engine.rate(8, 1) > 0 < engine.rate(4, 64)
    assert 0 < tiers.tiers[1].bytes_per_second < 1e12
    assert [path.name for path in tmp_path.iterdir()] == ["host.yaml"], "what was read is gone"


def test_fixed_times_are_found_again(monkeypatch):
    """Steps of 2 ms, 3 ms a layer, 0.5 ms an expert and 0.1 ms a token, beside products."""

    def steps(layers, experts, macs):
        for tokens in (1, 4):
            computed = layers * experts * (1 + tokens) / 2
            fixed = 2e-3 + 3e-3 * layers + 5e-4 * computed + 1e-4 * tokens
            yield calibration.Step(fixed + 1e-3 * computed, 1e-3 * computed, layers, computed, tokens)

    monkeypatch.setattr(calibration, "_steps", steps)
    fixed, misfit = calibration._fixed({})
    assert fixed == pytest.approx((2e-3, 3e-3, 5e-4, 1e-4))
    assert misfit < 1e-9


def test_no_fixed_time_is_negative(monkeypatch):
    def steps(layers, experts, macs):
        yield calibration.Step(1e-3 * layers - 1e-5 * layers * experts, 0.0, layers, layers * experts, 1)

    monkeypatch.setattr(calibration, "_steps", steps)
    fixed, misfit = calibration._fixed({})
    assert min(fixed) >= 0
    assert 0 < misfit < np.inf


def test_steps_that_are_timed_are_what_they_are_said_to_be(monkeypatch):
    """A plain step computes what a token chooses; one of 16 tokens more, but not 16 times as many experts."""
    monkeypatch.setattr(calibration, "STEPS", 2)
    rates = {(bits, width): 1e9 for bits in (4, 8) for width in calibration.WIDTHS}
    steps = dict(zip(calibration.KINDS, calibration._steps(2, 4, rates), strict=True))
    assert [kind for kind in steps if not kind[2]] == [(1, 8, False), (4, 8, False), (16, 8, False)]
    plain, few, many, draft = (steps[kind] for kind in ((1, 8, True), (4, 8, True), (16, 8, True), (1, 4, True)))
    assert all(steps[tokens, 8, False].experts == steps[tokens, 8, True].experts for tokens in (1, 4, 16))
    assert (plain.experts, plain.tokens, draft.experts, draft.tokens) == (8, 1, 8, 1)
    assert 8 < few.experts < many.experts <= 2 * 16
    assert (few.tokens, many.tokens) == (4, 16)
    assert plain.product_seconds == pytest.approx(draft.product_seconds)
    assert many.product_seconds == pytest.approx(16 * plain.product_seconds)
    assert all(step.layers == 2 and step.seconds > 0 for step in (plain, few, many, draft))


def test_what_a_step_waits_for_loads_is_not_fixed(monkeypatch):
    """Steps that are said to wait for 1,000 s each take so much less than nothing."""
    decoder = SimpleNamespace(store=SimpleNamespace(staging=SimpleNamespace(traffic=Traffic())))
    monkeypatch.setattr(calibration, "_one", lambda d, *_: d.store.staging.traffic.add(None, 0, 0.0, 1000.0))
    assert calibration._median_seconds(decoder, 1, False) == pytest.approx(-1000, abs=1)


def test_experts_of_timed_steps_are_near_or_loaded(monkeypatch):
    decoders = []
    monkeypatch.setattr(calibration, "_median_seconds", lambda decoder, *_: decoders.append(decoder) or 1.0)
    monkeypatch.setattr(calibration, "_count_experts", lambda decoder: [calibration.STEPS + 1])
    calibration._steps(1, 1, {(bits, width): 1e9 for bits in (4, 8) for width in calibration.WIDTHS})
    kept = [(decoder.store.is_whole((0, 3)), decoder.store.staging.slots > 0) for decoder in decoders]
    assert kept == [(is_near, not is_near) for _, _, is_near in calibration.KINDS]


def test_the_latency_of_loads_is_of_loads_beyond_their_bytes(monkeypatch, tmp_path):
    """Loads of 7 ms each, of experts of 3 matrices of 256 x 128 bytes with two bytes of scale to 32 of them."""
    monkeypatch.setattr(calibration, "STEPS", 3)
    add = Traffic.add
    monkeypatch.setattr(Traffic, "add", lambda self, key, size, *_: add(self, key, size, 0.007 if key else 0.0))
    size = 3 * 256 * 128 * (1 + 2 / 32)
    assert calibration._load_latency(tmp_path, 1e15) == pytest.approx(0.007)
    assert calibration._load_latency(tmp_path, size / 0.002) == pytest.approx(0.005, rel=0.02)
    assert calibration._load_latency(tmp_path, 1.0) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_none_is_refused(tmp_path):
    assert_refused(moec("calibrate", "-o", tmp_path / "no" / "host.yaml"), "no/host.yaml")
    assert_refused(moec("calibrate", "-o", tmp_path / "host.yaml", "--disk", tmp_path / "no"), "--disk")
