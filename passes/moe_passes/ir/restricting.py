"""Writing the draft into `@draft_step`: routing restricted to residents, and the slice that experts compute with."""

from torch_mlir import ir

from moe_passes.ir.dialects import model as ops
from moe_passes.ir.module import function
from moe_passes.ir.phases import DRAFT
from moe_passes.ir.records import symbol_ref, to_attribute


def restrict_draft(module: ir.Module, slice_: str, needed_by: str) -> None:
    """Put a `moe.restrict` before the experts of every layer of the draft, and say what they compute with.

    Raises:
        InputError: there is no draft step.
    """
    block = function(module, DRAFT, needed_by).regions[0].blocks[0]
    for op in [op for op in block if op.operation.name == ops.ExpertsOp.OPERATION_NAME]:
        routing = op.operation.operands[1]
        with module.context, op.location:
            restricted = ops.RestrictOp(
                routing,
                store=symbol_ref(op.attributes["store"].value),
                result=routing.type,
                ip=ir.InsertionPoint(op),
            )
            op.operation.operands[1] = restricted.operation.results[0]
            op.attributes["slice"] = to_attribute(slice_)
