"""FileCheck tests of single passes on hand-written modules: `tests/filecheck/*.mlir`.

`// RUN:` is the pipeline (`not` before it: the module is refused, and the message is checked), `// MACHINE:` the
hardware file with changes of its fields, `// PROFILE:` the synthetic routing trace.
"""

import re
from pathlib import Path

import pytest
from moe_passes.ir.base import Context
from moe_passes.ir.dialects import context, parse
from moe_passes.ir.module import append, find, write_machine
from moe_passes.ir.pipeline import parse_pipeline, run_pipeline
from moe_passes.ir.registry import BUILT_IN
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer

from moe_compiler.hardware.loader import load_target
from moe_compiler.traces.files import load
from tests.passes.ir.test_ir import filecheck

FILES = sorted((Path(__file__).parents[2] / "filecheck").glob("*.mlir"))


def directive(text, name):
    found = re.search(rf"^// {name}: (.*)$", text, re.MULTILINE)
    return found.group(1).split() if found else []


def run(text):
    """Run a file's pipeline; returns the IR, or why it was refused."""
    refused, *names = ["", *directive(text, "RUN")] if "not" not in directive(text, "RUN") else directive(text, "RUN")
    machine, *overrides = directive(text, "MACHINE")
    module = parse(text, "test.mlir", context())
    write_machine(module, load_target(machine, tuple(overrides)).machine())
    loaded = [load(name, [layer for _, layer in find(module, ExpertLayer)]) for name in directive(text, "PROFILE")]
    for profile in loaded:
        append(module, profile.record)
    try:
        run_pipeline(module, parse_pipeline(" ".join(names)), Context(lambda module: loaded[0].trace))
    except InputError as error:
        return str(error) if refused else f"refused: {error}"
    return "not refused" if refused else str(module)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file(file, tmp_path):
    text = file.read_text()
    filecheck(run(text), text, tmp_path)


def test_every_pass_has_a_file():
    pipelines = {name.partition("{")[0] for file in FILES for name in directive(file.read_text(), "RUN")}
    assert set(BUILT_IN) <= pipelines
