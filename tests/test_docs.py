"""Every code block that README and docs show is run, as it stands there, where files of the names that it uses lie.

Commands run in a shell, Python with the names that a page says come from elsewhere, and JSON is parsed. Shipped models
are replaced by one of one small layer, long traces by short ones: the commands are what is tested.
"""

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from moe_compiler.runtime.huggingface import configuration
from tests.command import moec
from tests.conftest import tiny_config
from tests.passes.ir.test_foreign import STACKS

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")), "CONTRIBUTING.md")
COMMAND = re.compile(r"    (?:\.venv/bin/)?(moec|python|make|torch-mlir-opt|xdsl-opt) ")
SHIPPED = re.compile(r"(?<!like-)\b(qwen3-30b-a3b|mixtral-8x7b|olmoe-1b-7b)\b")
LONG = re.compile(r"\bsynthetic-\d+tokens")
SMALL = "folder-with-config-json"


def commands(page):
    """Return the commands of a page; what follows two blanks and a # is a remark, a \\ goes on in the next line."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    found = [line for line in text.splitlines() if COMMAND.match(line)]
    return [re.split(r"  +#", line.strip())[0].strip() for line in found]


def blocks(page):
    """Return the indented blocks of a page that are no commands; what is parted by an empty line is one block."""
    found, block = [], []
    for line in [*(ROOT / page).read_text().splitlines(), "end"]:
        if line.startswith("    ") or (not line.strip() and block):
            block.append(line[4:])
        elif block:
            found.append("\n".join(block).strip())
            block = []
    return [text for text in found if not COMMAND.match(f"    {text}") and not text.startswith("printf")]


def kind_of(block):
    """Say what a block is: JSON, Python, or what a command printed."""
    for kind, parse in (("json", json.loads), ("python", lambda text: compile(text, "block", "exec"))):
        with contextlib.suppress(ValueError, SyntaxError):
            parse(block)
            return kind
    return "output"


OUTPUTS = {"README.md": 1, "docs/run.md": 1}
"""Blocks that show what a command printed, by page."""


@pytest.fixture(scope="module")
def source(small, tmp_path_factory):
    """A folder with what the commands read, a compilation in `compiled` among it."""
    here = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "benchmarks", here / "benchmarks")
    shutil.copytree(ROOT / "examples", here / "examples")
    (here / SMALL).mkdir()
    (here / SMALL / "config.json").write_text(json.dumps(tiny_config("olmoe", num_hidden_layers=1)))
    (here / "folder-with-safetensors").mkdir()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(configuration(tiny_config("olmoe", num_hidden_layers=1))).save_pretrained(
        here / "folder-with-safetensors"
    )
    shutil.copy(ROOT / "targets" / "elmoe3d-8gb.yaml", here / "my-box.yaml")
    shutil.copy(__file__, here / "corpus.txt")
    for number, name in enumerate(("coding", "math", "new", "mine", "my-trace")):
        chosen = np.random.default_rng(number).random((400, 1, 16)).argsort(axis=2)[:, :, :4]
        np.savez(here / f"{name}.npz", experts=chosen)
    lines = [json.dumps({"experts": token.tolist()}) for token in chosen]
    (here / "routes.jsonl").write_text("\n".join(lines))
    np.savez(here / "load.npz", load=np.arange(1, 17)[None])
    (here / "theirs.mlir").write_text(STACKS)
    rows = [f"b{n},{n},{n + 3},{1 + n % 3}" for n in range(8)]
    (here / "buffers.csv").write_text("\n".join(["id,lower,upper,size", *rows]) + "\n")
    task = {"modes": [{"duration": 2, "uses": {"m": 1}}]}
    problem = {"schema": 1, "resources": {"m": 1}, "tasks": [{"id": 0, **task}, {"id": 1, **task, "after": [0]}]}
    (here / "problem.json").write_text(json.dumps(problem))
    shop = {"ft10": {"duration_matrix": [[3, 2], [2, 4]], "machines_matrix": [[0, 1], [1, 0]]}}
    (here / "benchmark_instances.json").write_text(json.dumps(shop))
    counts = {"accepted_lengths": [[1, 2, 3], [3, 2, 1]], "draft_configurations": [[4, 4, 0.3], [4, 8, 0.3]]}
    (here / "accepted.json").write_text(json.dumps(counts))
    compiled = f"compile {SMALL} --target elmoe3d-8gb --set memories.hb.capacity_gb=0.0003 --draft-length 2 -o compiled"
    assert run(f"moec {compiled}", here)[0] == 0
    return here


def run(command, here):
    """Run a command in a folder; ours in this process, which has loaded torch already. Returns code and errors."""
    words = shlex.split(command)
    if words[0].endswith("moec"):
        output = here / words[words.index(">") + 1] if ">" in words else None
        arguments = words[1 : words.index(">")] if output else words[1:]
        with contextlib.chdir(here):
            done = moec(*arguments)
        if output:
            output.write_text(done.stdout)
        return done.returncode, done.stderr
    path = f"{Path(sys.executable).parent}:{torch_mlir_binaries()}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, shell=True, cwd=here, capture_output=True, text=True, env=environment)
    return done.returncode, done.stderr


def torch_mlir_binaries():
    import torch_mlir

    return Path(torch_mlir.__path__[0]) / "_mlir_libs"


def test_commands_are_found():
    assert "make demo" in commands("README.md")
    assert sum(len(commands(page)) for page in PAGES) >= 30


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_every_command_runs(page, source, tmp_path):
    place = Path(shutil.copytree(source, tmp_path / "place", symlinks=True))
    if not any(command.endswith("-o out") for command in commands(page)):
        (place / "compiled").rename(place / "out")
    for command in commands(page):
        if command.startswith("make "):
            # `make test` runs this very test: here it is only looked at.
            assert run(f"make -n -C {ROOT} {command.removeprefix('make ')}", place)[0] == 0, command
            continue
        if "psplib" in command:
            continue  # Neither the package, which only benchmarks need, nor PSPLIB's files are here.
        small = LONG.sub("synthetic-600tokens", SHIPPED.sub(SMALL, command))
        code, errors = run(small, place)
        if "--device cuda" in command and not torch.cuda.is_available():
            assert (code, "there is no CUDA here" in errors) == (2, True), command
            continue
        assert code == 0, f"{page}: {command}\n{errors[-1500:]}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_every_other_block_is_sound(page, source, tmp_path, monkeypatch):
    """Python runs from top to bottom of a page; the names that it does not define stand here."""
    place = Path(shutil.copytree(source, tmp_path / "place", symlinks=True))
    kinds = [(kind_of(block), block) for block in blocks(page)]
    assert sum(kind == "output" for kind, _ in kinds) == OUTPUTS.get(page, 0)
    monkeypatch.chdir(place)
    given = {name: value for module in PREPARED for name, value in vars(importlib.import_module(module)).items()}
    given |= {"text": (place / "compiled" / "ir" / "05-lower-to-tasks.mlir").read_text(), "my_trace": None, "k": 4}
    given |= {"scores": np.random.default_rng(0).random((50, 1, 16)), "chosen": np.zeros((5, 1, 4), dtype=np.uint8)}
    for kind, block in kinds:
        if kind == "python":
            exec(compile(SHIPPED.sub(SMALL, block), page, "exec"), given)


PREPARED = ("moe_passes.ir.base", "moe_passes.ir.states")
"""Modules whose names the snippet of a pass takes for granted."""


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_every_benchmark_has_help(script, monkeypatch):
    if '__name__ == "__main__"' not in (ROOT / "benchmarks" / script).read_text():
        return
    told = io.StringIO()
    # In this process, which has loaded torch already; a script finds its neighbours as it does when it is started.
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    with contextlib.redirect_stdout(told), pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")
    assert not end.value.code
    assert told.getvalue().startswith("usage: ")
