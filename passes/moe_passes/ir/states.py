"""What a module can hold: passes say what they need and what they give in these terms.

From them follow which pipelines make sense, which passes a target needs at all, and the true reason why a pass cannot
run.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch_mlir import ir

from moe_passes.ir.dialects import sched
from moe_passes.ir.module import dispatch_plan, find, has_function, is_placed, top_level
from moe_passes.ir.phases import DRAFT, VERIFY
from moe_passes.ir.round import ROUND, round_operations
from moe_passes.plan.decisions import DraftPlan
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer


class State(ABC):
    """Something that a module holds or not; `what` is how messages call it."""

    what: ClassVar[str]

    @classmethod
    @abstractmethod
    def holds(cls, module: ir.Module) -> bool:
        """Say whether a module holds it."""


class Traced(State):
    """Both phases in the torch dialect."""

    what = "the traced phases @draft_step and @verify_step"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        return has_function(module, DRAFT) and has_function(module, VERIFY) and not Experts.holds(module)


class Foreign(State):
    """Functions of another compiler, and nothing that was found in them."""

    what = "functions of another compiler, in which nothing was found yet"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        has_functions = any(op.operation.name == "func.func" for op in top_level(module))
        return has_functions and not Traced.holds(module) and not Experts.holds(module)


class Phases(State):
    """Both phases in the moe dialect."""

    what = "the phases @draft_step and @verify_step in the moe dialect"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        return has_function(module, DRAFT) and has_function(module, VERIFY) and Experts.holds(module)


class Experts(State):
    """An expert store for each MoE layer."""

    what = "expert stores (moe.expert_store)"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        return bool(find(module, ExpertLayer))


class Drafted(State):
    """The draft plan, and what HB keeps of each expert."""

    what = "the draft plan and residency (moe.draft)"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        return bool(find(module, DraftPlan))


class Placed(State):
    """A place for every resident."""

    what = "the placement of resident experts"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        return Experts.holds(module) and all(is_placed(store) for store in find(module, ExpertLayer))


class Dispatched(State):
    """The dispatcher's plan."""

    what = "the dispatcher's plan (moe.dispatch)"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        return dispatch_plan(module) is not None


class Tasks(State):
    """A round as tasks."""

    what = "the tasks of a round (@round)"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        return has_function(module, ROUND)


class Scheduled(State):
    """A start and a mode for every task."""

    what = "the schedule of @round"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        return Tasks.holds(module) and not _has_open(module, "slot")


class Addressed(State):
    """An address for everything that is staged."""

    what = "staging addresses"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        return Tasks.holds(module) and not _has_open(module, "address")


class Steady(State):
    """What of the next round is loaded in the tail of this one."""

    what = "the steady state (sched.steady)"

    @classmethod
    def holds(cls, module: ir.Module) -> bool:
        """See `State`."""
        return Tasks.holds(module) and any(op.operation.name == "sched.steady" for op in round_operations(module))


def _has_open(module: ir.Module, name: str) -> bool:
    return any(
        name in op.attributes and isinstance(op.attributes[name].maybe_downcast(), sched.Open)
        for op in round_operations(module)
    )


def states_of(module: ir.Module) -> set[type[State]]:
    """Return all that a module holds."""
    if not any(True for _ in top_level(module)):
        return set()
    return {state for state in State.__subclasses__() if _holds(state, module)}


def _holds(state: type[State], module: ir.Module) -> bool:
    try:
        return state.holds(module)
    except InputError:
        # A module without a machine, say: whoever needs it will say so.
        return False
