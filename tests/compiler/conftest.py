import json

import pytest

from tests.command import moec
from tests.conftest import little_effort
from tests.running import MODEL


@pytest.fixture(scope="module", autouse=True)
def _small(small):
    """Everything that runs in the process of these tests makes little effort; what they start as a program does not."""


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """The trained model of examples, packed."""
    path = tmp_path_factory.mktemp("store") / "tiny-moe.store"
    done = moec("pack", MODEL, "--weights", MODEL, "-o", path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"store": str(path), "bytes": path.stat().st_size}
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A compile for three sequences, three drafted tokens, and a near memory of less than the model."""
    path = tmp_path_factory.mktemp("run") / "out"
    options = ("--batch", 3, "--draft-length", 3, "--context", 256, "--alpha", 0.8, "--time-limit", 0.5)
    capacity = ("--set", "memories.hb.capacity_gb=0.0037")
    with little_effort():
        done = moec("compile", MODEL, "--target", "elmoe3d-8gb", *capacity, *options, "-o", path)
    assert done.returncode == 0, done.stderr
    plan = json.loads((path / "plan.json").read_text())
    assert 0 < plan["draft"]["expert_fraction"] < 1
    return path
