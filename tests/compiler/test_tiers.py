"""Hardware files of schema 2."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from moe_passes.estimate.analytic import AnalyticCost
from moe_passes.plan.errors import InputError

from moe_compiler.hardware.loader import load_target, shipped_targets, template

FILE = """\
schema: 2
name: desktop
description: a test
memories:
  vram: {capacity_gb: 16, bandwidth_gb_s: 960, efficiency: 0.9, latency_ns: 500}
  dram: {capacity_gb: 96, bandwidth_gb_s: 77, efficiency: 0.8, latency_ns: 100}
  ssd: {capacity_gb: 2000, bandwidth_gb_s: 7, efficiency: 0.9, latency_ns: 80000}
engines:
  gpu: {memory: vram, tops: {w4a16: 112, w8a16: 56}, step_overhead_us: 500, layer_overhead_us: 60,
        expert_overhead_us: 4}
  cpu: {memory: dram, tops: {w8a16: 1.5, w16a16: 1.0}, bandwidth_gb_s: 50}
links:
  pcie: {from: dram, to: vram, bandwidth_gb_s: 50, latency_ns: 2000}
  nvme: {from: ssd, to: dram, bandwidth_gb_s: 7, latency_ns: 10000}
power: {static_w: 60}
"""


@pytest.fixture
def write(tmp_path):
    def written(text=FILE, **changes):
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "box.yaml").write_text(text)
        return str(tmp_path / "box.yaml")

    return written


def load(write, old, new):
    text = FILE
    assert old in text
    return load_target(write(text.replace(old, new)))


def test_a_file_becomes_a_chain_from_near_to_deep(write):
    tiers = load_target(write()).tiers()
    assert [tier.name for tier in tiers.tiers] == ["vram", "dram", "ssd"]
    assert [way.name for way in tiers.ways] == ["pcie", "nvme"]
    gpu, cpu = tiers.tiers[0].engine, tiers.tiers[1].engine
    assert (gpu.step_seconds, gpu.layer_seconds, gpu.expert_seconds) == pytest.approx((5e-4, 6e-5, 4e-6))
    assert (gpu.rate(4), gpu.rate(8.5)) == (56e12, 28e12)
    assert (gpu.bytes_per_second, cpu.bytes_per_second) == (0.9 * 960e9, 50e9)
    # A load from the disk: latencies of both links and of the disk, then the disk's 6.3 GB/s.
    assert tiers.load_seconds(2, 6.3e9) == pytest.approx(2e-6 + 1e-5 + 8e-5 + 1.0)


def test_overrides_and_figures(write):
    loaded = load_target(write(), ("memories.vram.capacity_gb=24", "engines.gpu.layer_overhead_us=0"))
    assert loaded.tiers().near.capacity_bytes == 24_000_000_000
    sources = {row["path"]: row["source"] for row in loaded.figures()}
    assert sources["memories.vram.capacity_gb"] == "--set"
    assert "links.pcie.from" not in sources
    with pytest.raises(InputError, match=r"did you mean 'memories\.vram\.capacity_gb'"):
        load_target(write(), ("memories.vram.capacity=24",))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("memory: vram", "memory: vrm", r"box.yaml:9: engines.gpu.memory: value 'vrm': valid: a memory of this file"),
        ("from: dram", "from: dream", "links.pcie.from: value 'dream'"),
        ("from: dram, to: vram", "from: dram, to: ssd", "lead in a circle"),
        (
            "  pcie: {from: dram, to: vram,",
            "  pcie: {from: ssd, to: vram,",
            "vram and dram are both nearest|chain of at",
        ),
        ("  pcie: {from: dram, to: vram, bandwidth_gb_s: 50, latency_ns: 2000}\n", "", "both nearest"),
        ("bandwidth_gb_s: 960, ", "", "bandwidth_gb_s, or banks and bank_bandwidth_gb_s"),
        ("bandwidth_gb_s: 960", "banks: 4, bandwidth_gb_s: 960, bank_bandwidth_gb_s: 2", "or banks and"),
        ("from: dram, to: vram", "from: dram", "from and to, or within, or across"),
        ("w4a16: 112", "int4: 112", "engines.gpu.tops"),
        ("capacity_gb: 16", "capacity_gb: -16", "memories.vram.capacity_gb: value -16"),
        ("capacity_gb: 16", "capacity_gb: 16, devices: 4", "across: vram"),
        ("latency_ns: 500", "latency: 500", "unknown field"),
        ("power: {static_w: 60}", "powers: {static_w: 60}", "powers: unknown field"),
        ("  cpu: {memory: dram", "  cpu: {memory: vram", "engines.cpu.memory: value 'vram', as engines.gpu.memory"),
        (
            "power: {",
            "  second: {from: dram, to: vram, bandwidth_gb_s: 50, latency_ns: 2000}\npower: {",
            "links.second.from: value 'dram', as links.pcie.from",
        ),
        ("{memory: vram,", "{memory: vram, streams: [{memory: ssd, link: nvme}],", "valid: 'vram' or 'dram'"),
        ("{memory: vram,", "{memory: vram, streams: [{memory: dram, link: nvme}],", "valid: a link from 'dram'"),
        ("{memory: vram,", "{memory: vram, streams: [{memory: dram, link: usb}],", "value 'usb': valid: a link"),
        ("tops: {w8a16: 1.5", "tops_by_width: {0: 3}, tops: {w8a16: 1.5", "tops_by_width.0"),
        ("latency_ns: 2000}", "latency_ns: 2000, sharing: some}", "sharing: value 'some'"),
    ],
)
def test_what_is_no_machine_is_refused(write, old, new, words):
    with pytest.raises(InputError, match=words):
        load(write, old, new)


@pytest.mark.parametrize("name", sorted(shipped_targets()))
def test_every_figure_of_a_shipped_file_has_its_source(name):
    loaded = load_target(name)
    assert [row["path"] for row in loaded.figures() if row["source"] == "not stated"] == []
    assert loaded.tiers().near.engine is not None


@pytest.mark.parametrize("kind", ["gpu-host", "unified", "hb", "cpu-ssd"])
def test_a_template_is_a_valid_file_whose_figures_have_notes(tmp_path, kind):
    (tmp_path / "my.yaml").write_text(template(kind))
    loaded = load_target(str(tmp_path / "my.yaml"))
    assert [row["path"] for row in loaded.figures() if row["source"] == "not stated"] == []
    assert loaded.machine().engine.w8a8_macs_per_second > 0


def test_the_hybrid_bonded_template_is_the_shipped_machine():
    assert replace(_hb_machine(), name="elmoe3d-8gb") == load_target("elmoe3d-8gb").machine()


def _hb_machine():
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "hb.yaml").write_text(template("hb"))
        return load_target(str(Path(folder) / "hb.yaml")).machine()


def test_an_unknown_template_is_refused():
    with pytest.raises(InputError, match="no template 'gpu'"):
        template("gpu")


def test_what_passes_know_of_a_machine_with_one_memory():
    """It is near and holds everything: reads have all of its bandwidth, and there is no far memory."""
    machine = load_target("strix-halo-128gb").machine()
    assert machine.is_unified
    assert (machine.hb.name, machine.hb.given, machine.hb.banks) == ("hb", "unified", 1)
    cost = AnalyticCost(machine)
    assert (cost.space().is_unified, cost.space().far_bytes) == (True, 0)
    assert cost.local_read_seconds(256e9 * 0.83) == pytest.approx(1 + 300e-9)
    assert not load_target("rtx3090-host").machine().is_unified


def test_what_passes_know_of_an_engine_of_the_far_memory():
    """A CPU beside 204.8 GB/s of DRAM, of which 0.8 are reached; what it sends and hears crosses PCIe twice."""
    machine = load_target("rtx3090-host").machine()
    engine, cost = machine.far_engine, AnalyticCost(machine)
    assert (engine.name, engine.bytes_per_second) == ("cpu", pytest.approx(0.8 * 204.8e9))
    assert cost.far_seconds(0.8 * 204.8e9, 0, 1, False) == pytest.approx(1 + engine.expert_seconds)
    loads = machine.streamline.bytes_per_second
    beside = 0.8 * 204.8e9 - loads
    assert cost.far_seconds(beside, 0, 1, True) == pytest.approx(1 + engine.expert_seconds)
    assert cost.far_seconds(0, engine.macs_per_second, 1, False) == pytest.approx(1 + engine.expert_seconds)
    assert cost.send_seconds(loads) == pytest.approx(
        2 * (1 + machine.streamline.latency_seconds) + engine.layer_seconds
    )
    nowhere = AnalyticCost(load_target("elmoe3d-8gb").machine())
    assert nowhere.far_seconds(1, 1, 1, False) is None
    assert not nowhere.rates().computes_far
    assert cost.rates().computes_far


def test_what_passes_know_of_a_machine_of_two_levels(write):
    """Without the disk: a near memory of one bank, loads over the link, partial sums for nothing."""
    content = yaml.safe_load(FILE)
    del content["memories"]["ssd"], content["links"]["nvme"]
    machine = load_target(write(yaml.safe_dump(content))).machine()
    assert (machine.hb.banks, machine.hb.bytes_per_second) == (1, pytest.approx(0.9 * 960e9))
    assert machine.engine.layer_seconds == pytest.approx(6e-5)
    assert machine.streamline.bytes_per_second == 50e9
    assert machine.deep is None
    with_disk = load_target(write()).machine()
    assert replace(with_disk, deep=None, deep_link=None) == machine
    assert (with_disk.deep.given, with_disk.deep_link.given) == ("ssd", "nvme")
    cost = AnalyticCost(with_disk)
    rate = min(with_disk.deep.bytes_per_second, with_disk.deep_link.bytes_per_second)
    assert cost.deep_seconds(rate) == pytest.approx(1 + 80e-6 + 10e-6)
    assert AnalyticCost(machine).deep_seconds(rate) == 0
    assert (cost.space().deep_bytes, cost.space().deep_name) == (2 * 10**12, "ssd")


def test_what_passes_know_of_a_link_and_of_an_engine_beside_it(write):
    """Shared, half duplex, streamed past, slower for few tokens, and the same silicon: each as the file says."""
    plain = load_target(write()).machine()
    assert (plain.engine.streams, plain.streamline.shared, plain.streamline.half_duplex) == (0, 0, 0)
    assert plain.far_engine.same_unit == 0
    content = yaml.safe_load(FILE)
    content["engines"]["gpu"] |= {
        "streams": [{"memory": "dram", "link": "pcie"}],
        "unit": "apu",
        "tops_by_width": {16: 100, 1: 2},
        "width_overhead_us": 7,
    }
    content["engines"]["cpu"]["unit"] = "apu"
    content["links"]["pcie"] |= {"sharing": "shared", "duplex": "half"}
    machine = load_target(write(yaml.safe_dump(content))).machine()
    assert (machine.engine.streams, machine.streamline.shared, machine.streamline.half_duplex) == (1, 1, 1)
    assert machine.far_engine.same_unit == 1
    assert (machine.engine.widths, machine.engine.width_macs_per_second) == ((1, 16), (10**12, 50 * 10**12))
    assert machine.engine.width_seconds == pytest.approx(7e-6)
    near = load_target(write(yaml.safe_dump(content))).tiers().near.engine
    assert (near.rate(4, 1), near.rate(4, 15), near.rate(4, 16), near.rate(4)) == (1e12, 1e12, 50e12, 50e12)


def test_an_engine_reads_its_memory_with_its_own_bandwidth(write):
    content = yaml.safe_load(FILE)
    content["engines"]["gpu"]["bandwidth_gb_s"] = 500
    assert load_target(write(yaml.safe_dump(content))).machine().hb.bytes_per_second == pytest.approx(500e9)


def test_an_engine_whose_own_memory_streams_past_reads_no_faster_than_the_link():
    """As the second engine that is the same silicon: the xPU of a chip with a near memory, spelt out."""
    text = template("hb").replace(
        """    streams:                    # they also compute on weights that pass by, without storing them
      - memory: external
        link: streamline
""",
        "    unit: die\n",
    )
    content = yaml.safe_load(text)
    content["engines"]["xpu"] = {
        "memory": "external",
        "unit": "die",
        "tops": {"w8a8": 524},
        "streams": [{"memory": "external", "link": "streamline"}],
    }
    content["links"]["streamline"]["bandwidth_gb_s"] = 64
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "hb.yaml").write_text(yaml.safe_dump(content))
        machine = load_target(str(Path(folder) / "hb.yaml")).machine()
    assert (machine.far_engine.name, machine.far_engine.same_unit) == ("xpu", 1)
    assert machine.far_engine.bytes_per_second == 64e9
    assert machine.engine.streams == 0


def test_the_order_of_memories_is_shown(write):
    first = load_target(write()).figures()[0]
    assert (first["path"], first["value"]) == ("memories", "vram <- dram <- ssd")
