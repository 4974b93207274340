from pathlib import Path

import pytest
from moe_passes.plan.errors import InputError

from moe_compiler.hardware.loader import load_target, shipped_targets

OLDER = Path(__file__).parent.parent / "data"


@pytest.fixture
def edit(tmp_path):
    """Copy a file of schema 1 with one text replaced; returns the path."""

    def change(old, new):
        text = (OLDER / "elmoe3d-8gb.schema-1.yaml").read_text()
        assert old in text
        path = tmp_path / "box.yaml"
        path.write_text(text.replace(old, new, 1))
        return str(path)

    return change


def test_targets_are_shipped_with_a_source_for_every_figure():
    assert {"elmoe3d-4gb", "elmoe3d-64gb", "elmoe3d-8gb", "xpu-lpddr5"} <= set(shipped_targets())
    for name in shipped_targets():
        loaded = load_target(name)
        assert loaded.target.name == name
        assert all(row["source"] != "not stated" for row in loaded.figures())


def test_si_values_of_elmoe3d_8gb():
    machine = load_target("elmoe3d-8gb").machine()
    assert machine.hb.capacity_bytes == 8 * 10**9
    # 32 banks of 51.2 GB/s at 97 % of peak.
    assert machine.hb.bytes_per_second == pytest.approx(32 * 51.2e9 * 0.97)
    assert machine.external.bytes_per_second == pytest.approx(102.4e9 * 0.99)
    # 0.43 pJ/bit is 3.44 pJ a byte.
    assert machine.hb.read_joules_per_byte == pytest.approx(3.44e-12)
    # 524 TOPS are 262 tera-MAC/s.
    assert machine.engine.w8a8_macs_per_second == pytest.approx(262e12)
    assert machine.aggregation.bytes_per_second == pytest.approx(32e9)


@pytest.mark.parametrize("name", ["elmoe3d-8gb", "xpu-lpddr5"])
def test_a_file_of_schema_1_is_the_same_machine_as_in_schema_2(name):
    older = load_target(str(OLDER / f"{name}.schema-1.yaml"))
    assert older.machine() == load_target(name).machine()
    assert older.tiers() == load_target(name).tiers()
    assert {"memories.external.bandwidth_gb_s", "engines.elements.w8a8_tops"} <= {r["path"] for r in older.figures()}


def test_attention_of_a_file_that_does_not_state_it_is_a_quarter_of_the_peak_at_four_times_the_energy(edit):
    def dropped(text):
        return load_target(edit(text, "")).machine().engine

    assert dropped("    attention_tops: 131\n").attention_macs_per_second == pytest.approx(131e12 / 2)
    assert dropped("    attention_energy_pj_per_mac: 0.8\n").attention_joules_per_mac == pytest.approx(0.8e-12)


def test_the_xpu_has_one_memory():
    assert load_target("xpu-lpddr5").machine().is_unified


def test_assumed_figures_of_the_scaled_target_are_marked():
    sources = {row["path"]: row["source"] for row in load_target("elmoe3d-64gb").figures()}
    for path in ("memories.hb.banks", "memories.external.capacity_gb", "links.aggregation.bandwidth_gb_s"):
        assert sources[path].startswith("assumed")


def test_set_overrides_one_field_and_is_recorded():
    loaded = load_target("elmoe3d-8gb", ("memories.hb.capacity_gb=4", "memories.hb.staging_gb = 0.5"))
    machine = loaded.machine()
    assert machine.hb.capacity_bytes == 4 * 10**9
    assert machine.hb.staging_bytes == 5 * 10**8
    assert machine.overrides == ("memories.hb.capacity_gb=4", "memories.hb.staging_gb=0.5")
    assert next(r for r in loaded.figures() if r["path"] == "memories.hb.capacity_gb")["source"] == "--set"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("banks: 32", "banks: many", ["box.yaml:9", "memories.hb.banks", "'many'", "integer"]),
        ("banks: 32", "banks: 0", ["box.yaml:9", "memories.hb.banks", "0", "integer from 1 to 4096"]),
        ("capacity_gb: 8", "capacity_mb: 8000", ["box.yaml:8", "capacity_mb", "did you mean 'capacity_gb'"]),
        ("banks: 32", "banks: 32\n    banks: 16", ["box.yaml:10", "given twice"]),
        ("efficiency: 0.97", "efficiency: .nan", ["box.yaml:11", "efficiency", "nan", "from 0.001 to 1"]),
        ("efficiency: 0.97", "efficiency: 1.5", ["box.yaml:11", "1.5", "from 0.001 to 1"]),
        ("staging_gb: auto", "staging_gb: -1", ["staging_gb", "-1", "auto"]),
        ("latency_ns: 40", "latency_ns: .inf", ["latency_ns", "inf", "from 0 to 1e+09 ns"]),
        ("schema: 1", "schema: 3", ["box.yaml:3", "schema", "3"]),
        ("links:", "linkz:", ["linkz", "did you mean 'links'"]),
        ("w8a8_tops: 524", "w8a8_tops: '524'", ["w8a8_tops", "'524'", "number"]),
        ("memories:", "memories: [", ["not valid YAML", "box.yaml"]),
        ("banks: 32", "banks: &x 32", ["box.yaml:9", "anchors"]),
        ("banks: 32", "banks: !!int 32", ["box.yaml:9", "tag"]),
        ("banks: 32", "banks: 032", ["box.yaml:9", "'032'"]),
        ("banks: 32", "banks: true", ["box.yaml:9", "true", "integer"]),
        ("banks: 32", "banks: 2001-01-01", ["box.yaml:9", "2001-01-01"]),
        ("banks: 32", "banks: " + "9" * 5000, ["box.yaml:9", "integer from 1 to 4096"]),
        ("banks: 32", "? [a]\n    : 32", ["a key must be a word"]),
        ("schema: 1", "---\nschema: 1\n---\na: 1", ["one document"]),
        ("schema: 1", "schema: 1\nx: " + "[" * 3000, ["nested at most"]),
    ],
)
def test_a_bad_file_is_refused_with_file_line_field_and_value(edit, old, new, words):
    with pytest.raises(InputError) as error:
        load_target(edit(old, new))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("memories.hb.capacity_gb=-4", ["--set", "memories.hb.capacity_gb", "-4", "from 1e-06 to 1e+09 GB"]),
        ("memories.hb.capcity_gb=4", ["did you mean 'memories.hb.capacity_gb'"]),
        ("memories.hb.banks=1.5", ["1.5", "integer"]),
        ("memories.hb.banks", ["PATH=VALUE"]),
        ("=3", ["PATH=VALUE"]),
        ("memories.hb.capacity_gb=", ["PATH=VALUE"]),
        ("memories.hb=3", ["no field"]),
        ("memories.hb.source=x", ["no field"]),
        ("memories.hb.capacity_gb=nan", ["nan"]),
        ("memories.hb.capacity_gb=1e-30", ["from 1e-06"]),
        ("memories.hb.capacity_gb=[[[", ["from 1e-06"]),
        ("engines.elements.tops.w8a8=-1", ["--set engines.elements.tops.w8a8=-1", "value -1"]),
        ("engines.elements.tops.int8=1", ["--set engines.elements.tops.int8=1", "'int8'", "as w8a8, or attention"]),
        ("engines.elements.w8a8_tops=1", ["did you mean 'engines.elements.tops.w8a8'"]),
        ("engines.elements.memory.x=1", ["no field"]),
        ("engines.elements.tops=3", ["no field", "engines.elements.tops."]),
    ],
)
def test_a_bad_override_is_refused(assignment, words):
    with pytest.raises(InputError) as error:
        load_target("elmoe3d-8gb", (assignment,))
    for word in words:
        assert word in str(error.value)


def test_numbers_may_be_written_as_people_write_them():
    assert load_target("elmoe3d-8gb", ("memories.hb.capacity_gb=1e1",)).machine().hb.capacity_bytes == 10**10
    assert load_target("elmoe3d-8gb", ("memories.hb.capacity_gb=2.5",)).machine().hb.capacity_bytes == 25 * 10**8


def test_one_field_is_overridden_once():
    with pytest.raises(InputError, match="given twice"):
        load_target("elmoe3d-8gb", ("memories.hb.banks=4", "memories.hb.banks=8"))


def test_overriding_hb_of_a_machine_without_it():
    with pytest.raises(InputError, match=r"no field 'memories.hb.banks'; did you mean 'memories.external.banks'"):
        load_target("xpu-lpddr5", ("memories.hb.banks=4",))
    with pytest.raises(InputError, match=r"xpu-lpddr5.schema-1 has no 'memories.hb'"):
        load_target(str(OLDER / "xpu-lpddr5.schema-1.yaml"), ("memories.hb.banks=4",))


def test_unknown_names_and_files():
    with pytest.raises(InputError, match="did you mean 'elmoe3d-8gb'"):
        load_target("elmoe3d-8g")
    with pytest.raises(InputError, match="no such hardware file"):
        load_target("boxes/mine.yaml")
    with pytest.raises(InputError, match="unknown target"):
        load_target("?")


def test_empty_and_binary_files(tmp_path):
    for name, content in (("a.yaml", b""), ("b.yaml", b"\xff\xfe\x00"), ("c.yaml", b"3")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_target(str(path))
