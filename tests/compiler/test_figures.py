"""Every figure of a hardware file changes something: one that nothing reads is not in the schema."""

import functools
from pathlib import Path

import pytest
from moe_passes.ir.base import Context
from moe_passes.ir.dialects import context, parse
from moe_passes.ir.module import read_cost, top_level, write_machine
from moe_passes.ir.pipeline import default_pipeline, parse_pipeline, run_pipeline
from moe_passes.ir.round import read_round
from moe_passes.plan.round import add_up

from moe_compiler.compilation import read_profile
from moe_compiler.hardware.loader import load_target

BASE = ("memories.hb.capacity_gb=0.0003",)
LEFT_TO_PASSES = ("memories", "memories.hb.staging_gb")
STATED = [row["path"] for row in load_target("elmoe3d-4gb").figures() if row["path"] not in LEFT_TO_PASSES]
# A tiny model computes next to nothing: elements must be slow to matter.
CHANGES = {
    "links.aggregation.reduces": "true",
    "engines.elements.tops.attention": 0.01,
    "memories.hb.banks": 8,
    "engines.elements.tops.w8a8": 0.01,
    "engines.elements.tops.w4a8": 0.01,
}


@pytest.fixture(scope="module")
def result(compiled):
    """Run all passes on the raised tiny model for a machine; returns the IR without the machine, and the joules."""
    text = dict(compiled.snapshots)["raise-moe"]

    @functools.cache
    def run(*overrides):
        paths = {change.partition("=")[0] for change in overrides}
        kept = [change for change in BASE if change.partition("=")[0] not in paths]
        module = parse(text, "raised.mlir", context())
        for op in list(top_level(module)):
            if op.operation.name == "builtin.module":
                op.operation.erase()
        write_machine(module, load_target("elmoe3d-4gb", (*kept, *overrides)).machine())
        passes = (
            default_pipeline().removeprefix("raise-moe,").replace("schedule-round", "schedule-round{time-limit=0.1}")
        )
        run_pipeline(module, parse_pipeline(passes), Context(lambda module: read_profile(module, None)))
        round_, cost = read_round(module, "test"), read_cost(module)
        joules = cost.joules(add_up(round_.work), round_.schedule("test").makespan(round_.problem) * 1e-9)
        rest = [str(op) for op in top_level(module) if op.operation.name != "builtin.module"]
        return rest, joules, [str(module.operation.attributes[name]) for name in module.operation.attributes]

    return run


def test_the_same_machine_gives_the_same_result(result):
    assert result() == result.__wrapped__()


@pytest.mark.parametrize("path", STATED)
def test_a_figure_changes_some_output(result, path):
    figures = {row["path"]: row["value"] for row in load_target("elmoe3d-4gb", BASE).figures()}
    changed = CHANGES.get(path) or figures[path] * 0.6
    if path == "memories.external.capacity_gb":
        from moe_passes.plan.errors import InfeasibleError

        with pytest.raises(InfeasibleError, match="'external'"):
            result(f"{path}=0.0001")
        return
    assert result(f"{path}={changed}") != result(), f"nothing reads {path}"


def test_retired_figures_of_older_files_are_let_pass_and_cannot_be_set(tmp_path):
    from moe_passes.plan.errors import InputError

    source = (Path(__file__).parent.parent / "data" / "elmoe3d-8gb.schema-1.yaml").read_text()
    older = source.replace("  external:\n", "  external:\n    channels: 8\n    write_energy_pj_per_bit: 3.88\n")
    older = older.replace("  elements:\n", "  elements:\n    count: 16\n")
    (tmp_path / "older.yaml").write_text(older)
    assert load_target(str(tmp_path / "older.yaml")).machine() == load_target("elmoe3d-8gb").machine()
    with pytest.raises(InputError, match=r"no field 'engines.elements.count'"):
        load_target(str(tmp_path / "older.yaml"), ("engines.elements.count=4",))
