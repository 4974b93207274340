"""One file of each version of each format: it is read, or says what to do.

`tests/data/versions`: what versions of this project wrote. A new version of a format brings a file of the old one here.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from moe_passes.ir.dialects import VERSION, context, parse
from moe_passes.plan.errors import InputError

from moe_compiler.documents.folder import read
from moe_compiler.documents.measured import MeasuredDocument
from moe_compiler.hardware.loader import load_target
from moe_compiler.runtime.store_file import StoreFile
from moe_compiler.traces.files import SCHEMA as PROFILE_SCHEMA
from tests.command import assert_refused, moec
from tests.conftest import write_tiny

DATA = Path(__file__).parent / "data"
VERSIONS = DATA / "versions"
TARGETS = Path(__file__).parent.parent / "targets"


def dialects():
    return sorted(int(path.stem.partition("-")[2]) for path in VERSIONS.glob("dialect-*.mlir"))


@pytest.mark.parametrize("version", dialects())
def test_a_dialect_of_this_version_is_read_and_an_older_one_says_what_to_do(version):
    path = VERSIONS / f"dialect-{version}.mlir"
    if version == VERSION:
        parse(path.read_text(), path.name, context())
        return
    with pytest.raises(InputError, match=rf"IR of version {version}; valid: .*moe.version = {VERSION} .*moec compile"):
        parse(path.read_text(), path.name, context())
    assert_refused(moec("opt", path, "-p", "cse"), f"of version {version}")


def test_there_is_a_file_of_every_version_of_the_dialect():
    assert dialects() == list(range(3, VERSION + 1)), "versions 1 and 2 wrote no module that stands by itself"


@pytest.fixture
def compiled(tmp_path):
    """What a version before there were accounts, held-out rounds and reports wrote."""
    return Path(shutil.copytree(VERSIONS / "compile-1", tmp_path / "out"))


def test_a_compile_of_before_accounts_is_shown_compared_reported_and_exported(compiled, tmp_path):
    assert "token" in moec("show", compiled).stdout
    assert moec("diff", compiled, compiled).stdout.splitlines()[-1] == "nothing differs"
    for command in (["show", compiled / "plan.json"], ["show", compiled / "cost.json", "--json"]):
        assert moec(*command).returncode == 0
    done = moec("export", compiled, "--to", "neutral", "-o", tmp_path / "experts.json")
    assert done.returncode == 0, done.stderr
    assert_refused(moec("explain", compiled), "held_out.json", "earlier version", "compile again")
    assert_refused(moec("report", compiled), "held_out.json", "earlier version", "compile again")
    assert not (compiled / "report.html").exists()


def test_plans_and_costs_of_other_versions_say_what_to_do(compiled):
    for name in ("plan", "cost", "compile"):
        content = json.loads((VERSIONS / "compile-1" / f"{name}.json").read_text())
        assert content["schema"] == 1
        (compiled / f"{name}.json").write_text(json.dumps(content | {"schema": 2}))
        assert_refused(moec("show", compiled / f"{name}.json"), "is of schema 2; valid: 1; compile again")


def test_a_store_of_this_version_is_read_and_another_says_what_to_do(tmp_path):
    store = StoreFile(VERSIONS / "store-1.store")
    assert len(store.entries.experts[0]["pieces"]) == 4
    assert all(packed.top.numel() for packed in store.matrices(0, 3))
    store.close()
    content = bytearray((VERSIONS / "store-1.store").read_bytes())
    content[8] = 2
    (tmp_path / "two.store").write_bytes(content)
    assert_refused(moec("show", tmp_path / "two.store"), "is of version 2; valid: 1; pack the model again")


@pytest.mark.parametrize("schema", [None, PROFILE_SCHEMA, PROFILE_SCHEMA + 1])
def test_profiles_say_their_version_and_those_of_before_are_read(schema, tmp_path, small):
    write_tiny(tmp_path / "tiny")
    random = np.random.default_rng(0)
    chosen = random.random((400, 3, 16)).argsort(axis=2)[:, :, :4].astype(np.uint8)
    stated = {} if schema is None else {"schema": np.array(schema)}
    np.savez_compressed(tmp_path / "p.npz", experts=chosen, **stated)
    options = ("--target", "elmoe3d-4gb", "--context", 64, "--draft-length", 1, "--time-limit", 0.2)
    done = moec("compile", tmp_path / "tiny", *options, "--profile", tmp_path / "p.npz", "-o", tmp_path / "out")
    if schema is not None and schema > PROFILE_SCHEMA:
        assert_refused(done, f"is of schema {schema}; valid: {PROFILE_SCHEMA}")
    else:
        assert done.returncode == 0, done.stderr


def test_hardware_files_of_both_schemas_are_read():
    for path in (*DATA.glob("*.schema-1.yaml"), *TARGETS.glob("*.yaml")):
        load_target(str(path)).machine()
    found = {yaml.safe_load(path.read_text())["schema"] for path in (*DATA.glob("*.yaml"), *TARGETS.glob("*.yaml"))}
    assert found == {1, 2}


def test_a_hardware_file_of_another_schema_says_what_to_do(tmp_path):
    text = (TARGETS / "rtx3090-host.yaml").read_text()
    (tmp_path / "box.yaml").write_text(re.sub(r"^schema: \d+", "schema: 3", text, flags=re.MULTILINE))
    assert_refused(moec("target", "check", tmp_path / "box.yaml"), "schema", "3", "valid")


def test_a_measurement_of_before_activation_bits_was_of_float32():
    path = VERSIONS / "measured-1.json"
    assert "activation_bits" not in json.loads(path.read_text())
    assert read(path, MeasuredDocument).activation_bits == 32
    assert "token" in moec("show", path).stdout
