"""Passes by name: ours, loaded when they are asked for, and what other packages bring as entry points."""

from inspect import isabstract
from typing import TYPE_CHECKING

from moe_passes.plan import plugins
from moe_passes.plan.errors import InputError

if TYPE_CHECKING:
    from moe_passes.ir.base import Pass

GROUP = "moe_passes.passes"
BUILT_IN = {
    "raise-moe": "moe_passes.ir.passes.raise_moe:RaiseMoe",
    "select-draft": "moe_passes.ir.passes.select_draft:SelectDraft",
    "partition-experts": "moe_passes.ir.passes.partition_experts:PartitionExperts",
    "choose-dispatch": "moe_passes.ir.passes.choose_dispatch:ChooseDispatch",
    "lower-to-tasks": "moe_passes.ir.passes.lower_to_tasks:LowerToTasks",
    "schedule-round": "moe_passes.ir.passes.schedule_round:ScheduleRound",
    "allocate-staging": "moe_passes.ir.passes.allocate_staging:AllocateStaging",
    "steady-state": "moe_passes.ir.passes.steady_state:SteadyState",
    "verify-plan": "moe_passes.ir.passes.verify_plan:VerifyPlan",
}
"""In the order of the default pipeline."""


def pass_names() -> list[str]:
    """Return all registered names, ours first."""
    return plugins.names(GROUP, BUILT_IN)


def load_pass(name: str) -> "type[Pass]":
    """Load a pass.

    Raises:
        InputError: unknown name, a name that two packages register, or what is registered is not a pass of that name.
    """
    # MLIR is loaded with the first pass: names alone are asked for without it.
    from moe_passes.ir.base import Pass

    found = plugins.load(GROUP, BUILT_IN, name, "pass")
    is_whole = getattr(found, "name", None) == name and not isabstract(found)
    if not (isinstance(found, type) and issubclass(found, Pass)) or not is_whole:
        raise InputError(f"pass '{name}': what is registered is not a moe_passes.ir.base.Pass of that name")
    return found
