"""The closed form of a step, by hand: 1 MB experts, 10 MB dense, a link of 10 MB/s, a near memory of 100 MB/s."""

import pytest
from moe_passes.estimate.step import Choices, Size, step_time
from moe_passes.plan.formats import FORMATS
from moe_passes.plan.tiers import Processor, Tier, Tiers, Way

MB = 1e6
FAST = ((16, 1e18),)
SIZE = Size(
    hidden=1000,
    layers=4,
    dense_weights=10_000_000,
    dense_bytes=10 * MB,
    embedding_bytes=5 * MB,
    kv_bytes=2 * MB,
    attention_macs=0,
    expert_weights=1_000_000,
    expert_bytes=1 * MB,
    sliced_expert_bytes=0.5 * MB,
    experts=40,
)


def machine(rates=FAST, far=None, step=0.0, layer=0.0, expert=0.0, levels=2):
    near = Tier("near", 1 << 40, 100 * MB, 0.0, Processor("gpu", rates, 100 * MB, step, layer, expert))
    tiers = [near, Tier("far", 1 << 40, 50 * MB, 0.0, far), Tier("deep", 1 << 40, 2 * MB, 0.5, None)][:levels]
    return Tiers("hand", tuple(tiers), (Way("link", 10 * MB, 0.25), Way("nvme", 4 * MB, 0.5))[: levels - 1])


def seconds(of, chosen, tokens=1, batch=1, loads=True):
    return step_time(of, SIZE, FORMATS["bf16"], tokens, batch, chosen, loads)


def test_what_is_near_is_read():
    """10 MB dense, 2 MB of cache, 8 experts: 20 MB at 100 MB/s."""
    time = seconds(machine(), Choices(8, 0, 0, 8, 0))
    assert time.seconds == pytest.approx(0.2)
    assert time.limited_by == "reading near"
    assert seconds(machine(), Choices(8, 0, 0, 8, 0), batch=3, tokens=3).seconds == pytest.approx(0.24)


def test_computation_counts_where_it_is_longer():
    """10 M dense and 8 M of 16 uses of 8 experts, each 1 M: 26 M multiply-accumulates at 10 M a second."""
    time = seconds(machine(((16, 1e7),)), Choices(8, 0, 0, 16, 0))
    assert time.seconds == pytest.approx(2.6)
    assert time.limited_by == "computing on gpu"


def test_loads_take_the_slowest_of_links_and_memories():
    """Two experts over a link of 10 MB/s with 0.25 s each; one from a disk of 2 MB/s, 0.25 + 0.5 + 0.5 s before it."""
    time = seconds(machine(), Choices(6, 2, 0, 8, 2))
    assert (time.load, time.near) == (pytest.approx(2 * (0.25 + 0.1)), pytest.approx(0.2))
    deep = seconds(machine(levels=3), Choices(7, 0, 1, 8, 1))
    assert deep.load == pytest.approx(0.25 + 0.5 + 0.5 + 0.5)
    assert deep.limited_by == "loading over link"


def test_the_far_engine_computes_where_experts_lie():
    """Four experts at 25 MB/s; four times 2 · 1,000 · 2 bytes over the link and twice its latency."""
    far = Processor("cpu", FAST, 25 * MB, layer_seconds=0.01, expert_seconds=0.001)
    time = seconds(machine(far=far), Choices(4, 4, 0, 8, 4), loads=False)
    assert time.near == pytest.approx(0.16)
    assert time.far == pytest.approx(4 / 25 + 4 * (4000 / (10 * MB) + 0.5))
    assert time.fixed == pytest.approx(4 * 0.01 + 4 * 0.001)
    assert time.limited_by == "computing where experts lie, far"


def test_fixed_times_are_of_step_layers_and_experts():
    time = seconds(machine(step=1.0, layer=0.1, expert=0.01), Choices(8, 0, 0, 8, 0))
    assert time.fixed == pytest.approx(1.0 + 4 * 0.1 + 8 * 0.01)
    assert time.limited_by == "fixed times"


def test_a_format_runs_at_the_rate_of_the_next_wider_weight():
    engine = Processor("gpu", ((4, 400.0), (8, 200.0), (16, 100.0)), 1.0)
    assert [engine.rate(bits) for bits in (3.5, 4, 4.5, 5, 8, 8.5, 16, 32)] == [400, 400, 400, 200, 200, 200, 100, 100]
