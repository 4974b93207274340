"""Candidates of select-draft are dispatched on rounds that are spread over all that judges."""

from unittest.mock import patch

from moe_passes.solve.draft import solver
from moe_passes.solve.draft.history import LONGER_TIMES
from moe_passes.tasks.judging import Bench

import moe_compiler
from tests.conftest import little_effort, write_tiny


def test_a_compile_settles_what_is_about_as_good_on_more_rounds(tmp_path):
    """Everything is near the best: plain decoding and drafts are dispatched once more, and the record holds."""
    asked = []

    def longer(bench, choice):
        asked.append(choice.setting.length)
        return bench.seconds(choice, LONGER_TIMES)

    with little_effort(), patch.object(solver, "NEAR", 10.0), patch.object(Bench, "longer_seconds", longer):
        made = moe_compiler.compile(
            str(write_tiny(tmp_path / "tiny-qwen3")),
            "elmoe3d-4gb",
            overrides=["memories.hb.capacity_gb=0.00026"],
            context=64,
            time_limit=1,
            profile="synthetic-800tokens-seed0",
        )
    assert 0 in asked
    assert any(asked)
    (record,) = [entry for entry in made.plan["solvers"] if entry["pass"] == "select-draft" and entry["unit"] == "s"]
    assert record["lower_bound"] <= record["objective"] <= record["greedy"]
