"""Golden numbers of the cost model, derived by hand from the figures of targets/elmoe3d-8gb.yaml."""

from dataclasses import replace

import pytest
from moe_passes.estimate.analytic import AnalyticCost
from moe_passes.estimate.dense import DenseStep, dense_time, step_seconds
from moe_passes.plan.model import DensePart
from moe_passes.plan.round import Traffic, nanoseconds

from moe_compiler.hardware.loader import load_target


@pytest.fixture(scope="module")
def cost() -> AnalyticCost:
    return AnalyticCost(load_target("elmoe3d-8gb").machine())


def test_external_read(cost):
    """100 ns of the memory and 20 of the link + 2,506,752 B / (102.4 GB/s · 0.99) = 120 ns + 24,727.27 ns."""
    assert cost.external_read_seconds(2_506_752) == pytest.approx(24_847.27e-9, rel=1e-6)
    assert cost.external_read_seconds(2_506_752, share=0.5) == pytest.approx(120e-9 + 2 * 24_727.27e-9, rel=1e-6)


def test_local_read_leaves_room_for_loads(cost):
    """A bank gives 51.2 · 0.97 − 102.4 · 0.99 / 32 = 49.664 − 3.168 = 46.496 GB/s; 40 ns + 1 MB / 46.496 GB/s."""
    assert cost.local_read_seconds(1e6) == pytest.approx(40e-9 + 1e6 / 46.496e9)


def test_a_slow_hb_bounds_loads():
    """32 banks of 1 GB/s at 97 %: loads take half of 31.04 GB/s, reads get the other half."""
    slow = AnalyticCost(load_target("elmoe3d-8gb", ("memories.hb.bank_bandwidth_gb_s=1",)).machine())
    assert slow.external_read_seconds(1e9) == pytest.approx(120e-9 + 1 / 15.52)
    assert slow.stream_seconds(1e9) == pytest.approx(120e-9 + 1 / 101.376), "nothing is written"
    assert slow.local_read_seconds(1e6) == pytest.approx(40e-9 + 1e6 / 0.485e9)


def test_compute(cost):
    """524 TOPS are 262e12 MAC/s on 32 elements: one element does 8.1875e12; 4-bit slices at twice the rate."""
    assert cost.mac_seconds(8.1875e12, 8, 1, 1) == pytest.approx(1.0)
    assert cost.mac_seconds(8.1875e12, 4, 1, 99) == pytest.approx(0.5)
    assert cost.mac_seconds(8.1875e12, 8, 32, 1) == pytest.approx(1 / 32)


def test_a_product_of_few_tokens_may_be_slower():
    """26.2 TOPS up to 3 tokens that meet a weight, 262 up to 15, then the 524 of the format."""
    rates = ("engines.elements.tops_by_width.1=26.2", "engines.elements.tops_by_width.4=262")
    cost = AnalyticCost(load_target("elmoe3d-8gb", (*rates, "engines.elements.tops_by_width.16=9999")).machine())
    for tokens, slower in ((0.5, 20), (1, 20), (3.9, 20), (4, 2), (15, 2), (16, 1), (1000, 1)):
        assert cost.mac_seconds(8.1875e12, 8, 1, tokens) == pytest.approx(slower), tokens


def test_a_step_has_a_fixed_time_for_each_token():
    changes = ("engines.elements.step_overhead_us=100", "engines.elements.width_overhead_us=5")
    cost = AnalyticCost(load_target("elmoe3d-8gb", changes).machine())
    assert cost.fixed_seconds("step", 4) == pytest.approx(120e-6)
    assert cost.fixed_seconds("layer", 4) == 0
    part = DensePart(0, 1000, 1000)
    plain = AnalyticCost(load_target("elmoe3d-8gb").machine())
    step = DenseStep(2, 5, 0)
    added = step_seconds(cost, [part], step) - step_seconds(plain, [part], step)
    assert added == pytest.approx(100e-6 + 10 * 5e-6)


def test_aggregation(cost):
    """8 tokens hear 32 banks, 2048 × 2 bytes each: 1,048,576 B / 32 GB/s + 20 ns = 32,788 ns."""
    assert cost.aggregate_seconds(8 * 32 * 2048 * 2) == pytest.approx(32_788e-9)


def test_dense_part(cost):
    """A 32 MB part with a 2-sequence KV cache of 1,024 × 1,024 × 2 B, 10 tokens that gather 4,096 elements each.

    Read: (32e6 + 2 · 2,097,152) / 32 B a bank at 46.496 GB/s + 40 ns = 24,365.69 ns; compute:
    10 · (32e6 / 262e12 + 1024 · 8192 / 65.5e12) = 2.5 µs, hidden; gather: 81,920 B / 32 GB/s + 20 ns = 2,580 ns.
    """
    part = DensePart(0, 32_000_000, 32_000_000, 4096, 1024, 0, 8192)
    time = dense_time(cost, part, DenseStep(2, 5, 1024))
    assert time.weight_and_kv_bytes == 36_194_304
    assert (time.macs, time.attention_macs) == (10 * 32_000_000, 10 * 1024 * 8192)
    assert time.link_bytes == 81_920
    read = 40e-9 + 36_194_304 / 32 / 46.496e9
    assert time.seconds == pytest.approx(read + 2_580e-9)


def test_a_slice_of_a_dense_part_takes_9_of_17_bytes_and_computes_twice_as_fast(cost):
    """16e6 · 9 / 17 rounds up to 8,470,589; attention stays in 8 bits."""
    part = DensePart(0, 16_000_000, 32_000_000, 4096, 1024, 0, 8192)
    assert part.read_bytes(8) == 16_000_000
    time = dense_time(cost, part, DenseStep(64, 1, 1024, bits=4))
    assert time.weight_and_kv_bytes == 8_470_589 + 64 * 2_097_152
    assert (time.sliced_macs, time.macs, time.attention_macs) == (64 * 32_000_000, 0, 64 * 1024 * 8192)
    fast = dense_time(cost, replace(part, kv_elements=0), DenseStep(4096, 1, 1024, bits=4))
    seconds = 4096 * (32_000_000 / 524e12 + 1024 * 8192 / 65.5e12)
    assert fast.seconds == pytest.approx(seconds + 4096 * 4096 * 2 / 32e9 + 20e-9, rel=1e-3)


def test_parts_of_a_cache_are_merged_and_copies_read_by_hand(cost):
    """One cache in 32 banks: each sends 4,096 elements of a token. In 8 of them: four copies, and 8 parts to merge.

    Two sequences fill 16 banks with 8 each, so two copies; four fill all. In one bank there is nothing to merge.
    """
    part = DensePart(0, 0, 0, 100, 512, 0, 0, kv_heads=1, merged_elements=4096)

    def found(batch, kv_banks):
        time = dense_time(cost, part, DenseStep(batch, 1, 1024, kv_banks=kv_banks))
        return time.weight_and_kv_bytes // 1_048_576, time.link_bytes // (2 * batch)

    assert found(1, 32) == found(1, 0) == (1, 100 + 32 * 4096)
    assert found(1, 8) == (4, 100 + 8 * 4096)
    assert found(2, 8) == (4, 100 + 8 * 4096), "two caches of 1 MB, twice each"
    assert found(4, 8) == (4, 100 + 8 * 4096)
    assert found(1, 1) == (32, 100)
    assert dense_time(cost, part, DenseStep(1, 1, 0)).link_bytes == 200, "where there is no context yet"
    assert replace(part, kv_heads=4).kv_copies(1, 32, 8) == 1


def test_a_window_bounds_the_cache():
    part = DensePart(0, 1, 1, 1, 100, 128, 1)
    assert part.kv_bytes(64) == 2 * 100 * 64
    assert part.kv_bytes(4096) == 2 * 100 * 128


def test_durations_are_rounded_up():
    assert nanoseconds(1.0000001e-6) == 1001
    assert nanoseconds(3e-9) == 3
    assert nanoseconds(0.0) == 0


def test_a_slow_link_bounds_loads():
    """The streamline link carries 50 GB/s, external memory 101.376: loads run at 50.

    Reads leave room for that: 49.664 − 50 / 32 = 48.1015 GB/s a bank.
    """
    slow = AnalyticCost(load_target("elmoe3d-8gb", ("links.streamline.bandwidth_gb_s=50",)).machine())
    assert slow.external_read_seconds(1e9) == pytest.approx(120e-9 + 1 / 50)
    assert slow.local_read_seconds(1e6) == pytest.approx(40e-9 + 1e6 / 48.1015e9)


def test_streaming(cost):
    """1.01376 MB at 102.4 · 0.99 GB/s, which is less than the link's 128, are 10 µs, and 120 ns."""
    assert cost.stream_seconds(1_013_760) == pytest.approx(10_120e-9)


def test_nothing_takes_no_time(cost):
    for seconds in (cost.local_read_seconds, cost.external_read_seconds, cost.aggregate_seconds, cost.stream_seconds):
        assert seconds(0) == 0.0


TRAFFIC = Traffic(1_000, 2_000, 3_000, 4_000, 5_000, 6_000)
"""Bytes read from and written to HB, from external memory, over the link; MACs with 4 bits and with 8."""


def test_energy_part_by_part(cost):
    """Picojoules a bit: HB 0.43, external memory 3.88, either link 0.1; a MAC: 0.1 with 4 bits, 0.2 with 8; 3 W static.

    What comes from external memory crosses the streamline link.
    """
    assert cost.joules(TRAFFIC, 2e-6) == pytest.approx(
        {
            "hb_read": 1_000 * 8 * 0.43e-12,
            "hb_write": 2_000 * 8 * 0.43e-12,
            "external_read": 3_000 * 8 * 3.88e-12,
            "elements": 5_000 * 0.1e-12 + 6_000 * 0.2e-12,
            "aggregation_link": 4_000 * 8 * 0.1e-12,
            "streamline_link": 3_000 * 8 * 0.1e-12,
            "static": 6e-6,
        }
    )


def test_writes_have_their_own_energy():
    dear = AnalyticCost(load_target("elmoe3d-8gb", ("memories.hb.write_energy_pj_per_bit=1",)).machine())
    assert dear.joules(TRAFFIC, 0.0)["hb_write"] == pytest.approx(2_000 * 8e-12)
    assert dear.joules(TRAFFIC, 0.0)["hb_read"] == pytest.approx(1_000 * 8 * 0.43e-12)


def test_where_one_memory_is_all_reads_have_its_bandwidth_and_pass_by_over_its_link():
    """The xPU: 102.4 · 0.99 GB/s after 100 + 20 ns; 3.88 + 0.1 pJ a bit; nothing is gathered over a link."""
    plain = AnalyticCost(load_target("xpu-lpddr5").machine())
    assert plain.local_read_seconds(101.376e9) == pytest.approx(1 + 120e-9)
    narrow = AnalyticCost(load_target("xpu-lpddr5", ("links.streamline.bandwidth_gb_s=50",)).machine())
    assert narrow.local_read_seconds(50e9) == pytest.approx(1 + 120e-9)
    assert plain.joules(TRAFFIC, 0.0)["hb_read"] == pytest.approx(1_000 * 8 * 3.98e-12)
    part = DensePart(0, 32_000_000, 32_000_000, 4096, 1024, 0, 8192)
    time = dense_time(plain, part, DenseStep(2, 5, 1024))
    assert time.seconds == pytest.approx(plain.local_read_seconds(36_194_304), rel=1e-6)


def test_a_step_is_the_sum_of_its_parts(cost):
    parts = [DensePart(n, 1_000_000 * (n + 1), 1_000_000, 64, 16, 0, 8) for n in range(3)]
    expected = sum(dense_time(cost, part, DenseStep(2, 3, 100)).seconds for part in parts)
    assert step_seconds(cost, parts, DenseStep(2, 3, 100)) == pytest.approx(expected)
