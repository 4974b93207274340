"""Reading `@draft_step` and `@verify_step`: their operations, and what feeds what."""

from torch_mlir import ir

from moe_passes.ir.module import find, function, line_of, only, plain_body
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import DensePart, ExpertLayer, ModelShape
from moe_passes.plan.phase import DENSE, OPERATIONS, Operation, Phase
from moe_passes.plan.request import Request
from moe_passes.tasks.stages import Stage, stages

DRAFT, VERIFY = "draft_step", "verify_step"


def read_stages(module: ir.Module, needed_by: str) -> tuple[tuple[Stage, ...], tuple[Stage, ...]]:
    """Return the stages of a draft step and of the verify step.

    Raises:
        InputError: a phase is missing, or its dataflow makes no sense.
    """
    return stages(read_phase(module, DRAFT, needed_by)), stages(read_phase(module, VERIFY, needed_by))


def read_phase(module: ir.Module, name: str, needed_by: str) -> Phase:
    """Read a phase.

    Raises:
        InputError: it is missing, holds operations of another dialect, is of layers or stores that do not exist, or
            does not return logits of a head.
    """
    model, batch = only(module, ModelShape, needed_by), only(module, Request, needed_by).batch
    layers = model.layers
    stores = {layer.name: layer for _, layer in find(module, ExpertLayer)}
    numbers: dict[ir.Value, int] = {}
    operations: list[Operation] = []
    body = function(module, name, needed_by)
    plain_body(body, 1, f"{needed_by}: @{name}")
    tokens = f"!moe.tokens<{batch} : i64, {_width(name)} : i64>"
    given = str(body.regions[0].blocks[0].arguments[0].type)
    if given != tokens:
        raise InputError(f"{needed_by}: @{name} takes {given}; valid: {tokens}")
    for op in body.regions[0].blocks[0]:
        kind = op.operation.name.removeprefix("moe.")
        if op.operation.name == "func.return":
            return Phase(name, tuple(operations), _result(op, numbers, operations, f"{needed_by}: @{name}"))
        if kind not in OPERATIONS:
            raise InputError(f"{needed_by}: @{name} holds '{op.operation.name}'; run raise-moe first")
        operations.append(_operation(op, kind, numbers, layers, stores, f"{needed_by}: @{name}"))
        _check_type(op, name, model, batch, f"{needed_by}: @{name}")
        numbers[op.operation.results[0]] = len(operations) - 1
    raise InputError(f"{needed_by}: @{name} returns nothing")


def _operation(
    op: ir.OpView,
    kind: str,
    numbers: dict[ir.Value, int],
    layers: int,
    stores: dict[str, ExpertLayer],
    where: str,
) -> Operation:
    line = line_of(op)
    operands = tuple(numbers[value] for value in op.operation.operands if value in numbers)
    if len(operands) != len(op.operation.operands) - (kind == "embed"):
        raise InputError(f"{where}: a {kind} takes an argument of the function; valid: what operations before it give")
    part, store, slice_ = None, "", "whole"
    if kind in DENSE:
        layer = op.attributes["layer"].value if "layer" in op.attributes else layers
        if layer > layers or (kind != "head" and layer == layers):
            raise InputError(f"{where}: a {kind} is of layer {layer}; the model has {layers} layers")
        names = [name for name in DensePart.__dataclass_fields__ if name != "layer" and name in op.attributes]
        part = DensePart(layer, **{name: op.attributes[name].value for name in names})
    if kind in ("restrict", "experts"):
        store = op.attributes["store"].value
        if store not in stores:
            raise InputError(f"{where}: a {kind} refers to @{store}, which does not exist")
    if kind == "experts":
        slice_ = op.attributes["slice"].value
    return Operation(kind, operands, part, store, slice_, line)


def _width(phase: str) -> int:
    """Return the tokens of a sequence in a step; verify's are known after select-draft, and −1 in types."""
    return 1 if phase == DRAFT else -1


def _check_type(op: ir.OpView, phase: str, model: ModelShape, batch: int, where: str) -> None:
    """Rows and widths are those of the request and the model."""
    found = str(op.operation.results[0].type)
    valid = f"!moe.hidden<{batch} : i64, {_width(phase)} : i64, {model.hidden} : i64>"
    if found.startswith("!moe.logits"):
        valid = f"!moe.logits<{model.vocabulary} : i64>"
    if not found.startswith("!moe.routing") and found != valid:
        raise InputError(f"{where}: '{op.operation.name}' gives {found}; valid: {valid}")


def _result(op: ir.OpView, numbers: dict[ir.Value, int], operations: list[Operation], where: str) -> int:
    values = list(op.operation.operands)
    if len(values) != 1 or values[0] not in numbers or operations[numbers[values[0]]].kind != "head":
        raise InputError(f"{where} does not return the logits of a head")
    return numbers[values[0]]
