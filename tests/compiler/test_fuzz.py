"""A minute of damaged input: whatever a stranger's file or command line holds ends with a result or one plain refusal.

Seeds are fixed. Every batch runs in a process of its own: MLIR is C++, and a crash there must fail a test, not end all.
"""

import json
import multiprocessing
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from moe_compiler.cli.commands import cli
from moe_compiler.hardware.loader import shipped_targets
from tests.command import moec
from tests.conftest import tiny_config

ALLOWED = (0, 2, 3, 4)
FILECHECK = Path(__file__).parents[1] / "filecheck"
SHIPPED = Path(__file__).parents[2] / "targets"
BATCHES = 2

NASTY = (
    "", " ", "\n", "-1", "0", "1e400", "-0.0", "nan", "inf", "1_000", "9223372036854775808", "18446744073709551616",
    "0.1", "true", "null", "None", "[]", "{}", '""', "'", '"', "\\", "\u0000", "\u2028", "é", "\U0001f9ea", "&a", "*a",
    "!!python/object/apply:os.system", "<<: *a", "[" * 2000, "{" * 2000, "(" * 2000, "[/b]", "%s", "../..", "x" * 5000,
    "array<", "tensor<9999999999999x", "#moe.", "@", "^bb0", "loc(", "//", "#",
)  # fmt: skip
VALUES = (None, True, -1, 0, 3, 2**31, 2**63, 2**200, 0.5, -0.5, 1e308, "", "x", "8", [], {}, [[]], [1, 2], {"a": 1})


def damaged_text(random_: random.Random, text: str) -> str:
    """Cut, copy, exchange or replace spans."""
    for _ in range(random_.randint(1, 4)):
        first = random_.randrange(len(text) + 1)
        last = min(len(text), first + int(random_.expovariate(0.1)))
        other = random_.randrange(len(text) + 1)
        kind = random_.randrange(4)
        if kind == 0:
            text = text[:first] + text[last:]
        elif kind == 1:
            text = text[:other] + text[first:last] + text[other:]
        elif kind == 2:
            text = text[:first] + random_.choice(NASTY) + text[last:]
        else:
            words = text.split(" ")
            words[random_.randrange(len(words))] = random_.choice(NASTY)
            text = " ".join(words)
    return text


def damaged_tree(random_: random.Random, tree: object) -> object:
    """Exchange some values of a JSON document, rename a key, or leave one out."""
    tree = json.loads(json.dumps(tree))
    for _ in range(random_.randint(1, 3)):
        node, here = tree, []
        while isinstance(node, dict | list) and node:
            key = random_.choice(sorted(node)) if isinstance(node, dict) else random_.randrange(len(node))
            here.append((node, key))
            node = node[key]
            if random_.random() < 0.15:
                break
        if not here:
            break
        parent, key = here[-1]
        kind = random_.randrange(4)
        if kind == 0 and isinstance(parent, dict):
            parent[f"{key}x"] = parent.pop(key)
        elif kind == 1:
            del parent[key]
        else:
            parent[key] = random_.choice(VALUES)
    return tree


def batch(maker: str, seed: int, count: int, folder: Path, queue: multiprocessing.Queue) -> None:
    """Run inputs of a kind; what ended otherwise than it may goes to the queue."""
    random_, bad = random.Random(f"{maker} {seed}"), []
    for number in range(count):
        words, content = MAKERS[maker](random_, folder)
        code = moec(*words).returncode
        if code not in ALLOWED:
            bad.append((seed, number, code, words, content[:300]))
    queue.put(bad)


def yaml_input(random_: random.Random, folder: Path) -> tuple[list[str], str]:
    text = damaged_text(random_, (SHIPPED / f"{random_.choice(list(shipped_targets()))}.yaml").read_text())
    (folder / "machine.yaml").write_text(text, encoding="utf-8", errors="replace")
    return ["target", "show", str(folder / "machine.yaml")], text


MODES = [{"duration": 2, "uses": {"m": 1}}, {"duration": 0.5, "uses": {"m": 1, "r": 2}}]
SCHEDULES = (
    {
        "schema": 1,
        "resources": {"m": 1, "r": 3},
        "tasks": [{"id": n, "modes": MODES, "after": [n - 1] if n % 2 else []} for n in range(6)],
        "buffers": [{"resource": "r", "amount": 1, "from": 0, "to": 3}],
    },
    {
        "schema": 1,
        "resources": {"m": 2},
        "tasks": [
            {"id": "a", "modes": MODES[:1], "release": 1, "deadline": 9, "tail": 2},
            {"id": "b", "modes": [{"duration": 0, "uses": {}}], "after": ["a"]},
        ],
    },
)


def json_input(random_: random.Random, folder: Path) -> tuple[list[str], str]:
    text = json.dumps(damaged_tree(random_, SCHEDULES[random_.randrange(len(SCHEDULES))]))
    if random_.random() < 0.3:
        text = damaged_text(random_, text)
    (folder / "problem.json").write_text(text, encoding="utf-8", errors="replace")
    return ["schedule", str(folder / "problem.json"), "--time-limit", "0.1", "--json"], text


def csv_input(random_: random.Random, folder: Path) -> tuple[list[str], str]:
    rows = [f"b{n},{n},{n + 3},{1 + n % 3},{n}" for n in range(8)]
    text = damaged_text(random_, "\n".join(["id,lower,upper,size,offset", *rows]) + "\n")
    (folder / "buffers.csv").write_text(text, encoding="utf-8", errors="replace")
    capacity = random_.choice(["1", "6", "40", "0", "-3", "9223372036854775807", "x"])
    return ["allocate", str(folder / "buffers.csv"), "--capacity", capacity, "--time-limit", "0.1", "--json"], text


def archive_input(random_: random.Random, folder: Path) -> tuple[list[str], str]:
    path = folder / "triple.npz"
    plan = {"schema": 1, "banks": 2, "layers": [{"layer": 0, "residency": ["all"] * 2, "placement": [[[0]], [[1]]]}]}
    shape = tuple(random_.choice([0, 1, 2, 3, 1000]) for _ in range(random_.randint(0, 4)))
    kind = random_.choice(["<i8", "<f8", "<U3", "|b1", "<c16", "|V4", "<i2"])
    name = random_.choice(["experts", "physical_to_logical", "counts", "x"])
    np.savez(path, **{name: np.zeros(shape, dtype=kind)})
    if random_.random() < 0.5:
        content = bytearray(path.read_bytes())
        for _ in range(random_.randint(1, 20)):
            content[random_.randrange(len(content))] = random_.randrange(256)
        path.write_bytes(bytes(content[: random_.randrange(1, len(content) + 1)]))
    elif random_.random() < 0.2:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("experts.npy", random_.randbytes(200))
    (folder / "plan.json").write_text(json.dumps(damaged_tree(random_, plan)), encoding="utf-8")
    if random_.random() < 0.5:
        form = random_.choice(["eplb", "expert-location", "vllm-ascend"])
        return ["placement", "export", str(folder / "plan.json"), "--format", form, "-o", str(folder / "out")], form
    options = random_.choice([["--trace"], ["--trace", "synthetic-600tokens-seed0", "--previous"]])
    machine = [
        "--model",
        str(folder),
        "--target",
        "elmoe3d-8gb",
        "--baseline",
        "shard-2",
        "--set",
        "memories.hb.banks=2",
    ]
    (folder / "config.json").write_text(json.dumps(tiny_config("olmoe", num_hidden_layers=1)))
    return ["partition", *options, str(path), *machine], f"{name} {shape} {kind}"


def mlir_input(random_: random.Random, folder: Path) -> tuple[list[str], str]:
    text = damaged_text(random_, random_.choice(sorted(FILECHECK.glob("*.mlir"))).read_text())
    (folder / "text.mlir").write_text(text, encoding="utf-8", errors="replace")
    path = str(folder / "text.mlir")
    passes = random_.choice(["verify-plan", "lower-to-tasks", "raise-moe", "steady-state", "canonicalize"])
    return random_.choice([["show", path], ["opt", path, "-p", passes]]), text


def words_input(random_: random.Random, folder: Path) -> tuple[list[str], str]:
    vocabulary = [
        *cli.commands, "show", "export", "check", "--json", "--help", "-o", str(folder / "o"), "-p", "--set", "a=b",
        "--target", "elmoe3d-8gb", "--model", "nobody", "--seed", "--batch", "--time-limit", "--capacity", "--format",
        "eplb", "--op", str(folder), "/dev/null", *NASTY[:30],
    ]  # fmt: skip
    words = [random_.choice(vocabulary).replace("\0", "") for _ in range(random_.randint(1, 7))]
    return words, " ".join(words)


MAKERS = {
    "yaml": yaml_input,
    "json": json_input,
    "csv": csv_input,
    "archive": archive_input,
    "mlir": mlir_input,
    "words": words_input,
}
COUNTS = {"yaml": 200, "json": 60, "csv": 60, "archive": 12, "mlir": 150, "words": 200}


@pytest.mark.parametrize("seed", range(BATCHES))
@pytest.mark.parametrize("maker", MAKERS)
def test_damaged_input_is_a_result_or_a_refusal(maker, seed, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=batch, args=(maker, seed, COUNTS[maker], tmp_path, queue))
    process.start()
    process.join(300)
    assert process.exitcode == 0, "the process ended on its own: a crash in native code"
    assert queue.get(timeout=10) == []
