"""Reading everything that is decided before a round is known."""

from torch_mlir import ir

from moe_passes.ir.module import dispatch_plan, hot_set_rule, only, placed_layers
from moe_passes.ir.phases import read_stages
from moe_passes.plan.decisions import DraftPlan
from moe_passes.plan.model import ModelShape
from moe_passes.plan.request import Request
from moe_passes.tasks.dispatching import NOTHING_AHEAD
from moe_passes.tasks.problem import StaticPlan


def read_plan(module: ir.Module, needed_by: str) -> StaticPlan:
    """Read every static decision from the module; where the dispatcher's is open, nothing is loaded ahead, and
    where the hot set's is, residents stay as they are.

    Raises:
        InputError: a pass that decides has not run.
    """
    request, plan = only(module, Request, needed_by), only(module, DraftPlan, needed_by)
    draft, verify = read_stages(module, needed_by)
    return StaticPlan(
        batch=request.batch,
        context=request.context,
        length=plan.length,
        bits=plan.bits,
        hidden=only(module, ModelShape, needed_by).hidden,
        staging_bytes=plan.staging_bytes,
        draft=draft,
        verify=verify,
        layers=placed_layers(module, needed_by),
        dispatch=dispatch_plan(module) or NOTHING_AHEAD,
        hot_set=hot_set_rule(module),
        dense_bits=plan.dense_bits,
        kv_banks=plan.kv_banks,
    )
