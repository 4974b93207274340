"""The documentation site: it is built without a warning, nothing of it is fetched, and what can be derived is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from moe_passes.ir.registry import pass_names

from moe_compiler.cli.commands import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / "mkdocs.yml", "-d", out]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_nothing_is_fetched(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?:)?//', page.read_text())
        assert not loaded, page


def test_every_pass_command_and_document_has_its_place(site):
    for name in pass_names():
        if (site / "reference" / "passes" / name).exists() or name in ("find-experts", "keep-popular"):
            assert f'<h1 id="{name}">' in (site / "reference" / "passes" / name / "index.html").read_text()
    commands = (site / "reference" / "commands" / "index.html").read_text()
    for name in COMMANDS:
        assert f'id="moec-{name}"' in commands
    formats = (site / "reference" / "formats" / "index.html").read_text()
    for words in ("PlanDocument of plan.json", "criterion", "joules_by_layer", "TieredTarget"):
        assert words in formats
    assert "moe.expert_store" in (site / "passes" / "index.html").read_text()
    assert "irdl.operation @expert_store" in re.sub(
        r"<[^>]+>", "", (site / "reference" / "dialects" / "index.html").read_text()
    )


def test_every_page_is_in_the_navigation(site):
    found = {path.stem for path in (ROOT / "docs").glob("*.md")}
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert {name for name in found if f"{name}.md" not in navigation} == set()
