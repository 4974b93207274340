"""Our dialects and passes in xDSL, by its entry point `xdsl.universe`: `xdsl-opt -p partition-experts plan.mlir`.

A pass takes the module as text (`moec opt -p strip-debuginfo` prints it without the locations that xDSL cannot read),
runs in MLIR on it, and puts what comes out in its place. The dialects are made of our own IRDL definition, so that they
cannot drift from it: xDSL knows names, operands, results and attributes; our verifiers check the rest when a pass runs.
"""

import io
from collections.abc import Callable
from dataclasses import field, make_dataclass
from functools import cache
from typing import Any, ClassVar

from xdsl.context import Context
from xdsl.dialects import builtin, func
from xdsl.dialects import irdl as irdl_dialect
from xdsl.ir import Attribute, Dialect, Operation, ParametrizedAttribute, TypeAttribute
from xdsl.irdl import IRDLOperation, irdl_attr_definition, irdl_op_definition, var_operand_def, var_result_def
from xdsl.parser import Parser
from xdsl.passes import ModulePass
from xdsl.printer import Printer
from xdsl.universe import Universe
from xdsl.utils.exceptions import PassFailedException

from moe_passes.ir.registry import BUILT_IN, load_pass
from moe_passes.plan.errors import InputError
from moe_passes.routing import sources

HINTS: dict[type, Any] = {int: int | None, float: float | int | None, str: str | None, bool: bool | None}
"""What xDSL takes for an option of ours of some type."""
PROFILE = "profile"
"""The option of every pass that names the file of the routing trace."""


class OurPass(ModulePass):  # type: ignore[misc]  # xDSL is read without its types
    """A pass of ours as xDSL calls it; options are its fields, none of them set by default."""

    ours: ClassVar[str]

    def apply(self, ctx: Context, op: builtin.ModuleOp) -> None:
        """Run the pass in MLIR, and put what it makes in place of the module's content.

        Raises:
            PassFailedException: the pass refused its input; with its message.
        """
        options = {name.replace("_", "-"): value for name, value in vars(self).items() if value is not None}
        profile = options.pop(PROFILE, None)
        try:
            text = _run(self.ours, {name: _text(value) for name, value in options.items()}, profile, _printed(op))
        except InputError as error:
            raise PassFailedException(str(error)) from None
        made = Parser(ctx, text).parse_module()
        op.attributes = made.attributes
        op.detach_region(op.body)
        op.add_region(made.detach_region(made.body))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _printed(op: builtin.ModuleOp) -> str:
    stream = io.StringIO()
    Printer(stream, print_generic_format=True).print_op(op)
    return stream.getvalue()


def _run(name: str, options: dict[str, str], profile: str | None, text: str) -> str:
    """Run a pass on a module as text."""
    from moe_passes.ir.base import Context as PassContext
    from moe_passes.ir.dialects import context, parse
    from moe_passes.ir.pipeline import run_pipeline

    module = parse(text, "module", context())
    run_pipeline(module, [load_pass(name).of(options)], PassContext(lambda asked: sources.read(asked, profile)))
    return str(module)


def _pass(name: str) -> Callable[[], type[ModulePass]]:
    @cache
    def made() -> type[ModulePass]:
        kind = load_pass(name)
        options = [(option.field, HINTS[option.type], field(default=None)) for option in kind.options()]
        options.append((PROFILE, str | None, field(default=None)))
        described = {"name": name, "ours": name, "__doc__": kind.__doc__}
        return make_dataclass(kind.__name__, options, bases=(OurPass,), namespace=described, frozen=True)

    return made


@cache
def _definitions() -> dict[str, irdl_dialect.DialectOp]:
    """Return our IRDL definition of each dialect."""
    from moe_passes.ir.dialects import irdl

    context = Context()
    for known in (builtin.Builtin, func.Func, irdl_dialect.IRDL):
        context.load_dialect(known)
    module = Parser(context, irdl()).parse_module()
    return {op.sym_name.data: op for op in module.ops if isinstance(op, irdl_dialect.DialectOp)}


def _dialect(name: str) -> Callable[[], Dialect]:
    @cache
    def made() -> Dialect:
        body = list(_definitions()[name].body.ops)
        operations = [_operation(name, op) for op in body if isinstance(op, irdl_dialect.OperationOp)]
        attributes = [_attribute(name, op, ()) for op in body if isinstance(op, irdl_dialect.AttributeOp)]
        types = [_attribute(name, op, (TypeAttribute,)) for op in body if isinstance(op, irdl_dialect.TypeOp)]
        return Dialect(name, operations, [*attributes, *types])

    return made


def _operation(dialect: str, of: irdl_dialect.OperationOp) -> type[Operation]:
    """Make an operation with any operands, results and attributes: our verifiers know which."""
    members = {"name": f"{dialect}.{of.sym_name.data}", "parts": var_operand_def(), "made": var_result_def()}
    made: type[Operation] = irdl_op_definition(type(_camel(of.sym_name.data, "Op"), (IRDLOperation,), members))
    return made


def _attribute(
    dialect: str, of: irdl_dialect.AttributeOp | irdl_dialect.TypeOp, more: tuple[type, ...]
) -> type[Attribute]:
    """Make an attribute or a type with its parameters by name."""
    found = [op for op in of.body.ops if isinstance(op, irdl_dialect.ParametersOp)]
    names = [name.data for op in found for name in op.names]
    members = {"name": f"{dialect}.{of.sym_name.data}", "__annotations__": dict.fromkeys(names, Attribute)}
    suffix = "Type" if more else "Attr"
    kind = type(_camel(of.sym_name.data, suffix), (ParametrizedAttribute, *more), members)
    made: type[Attribute] = irdl_attr_definition(kind)
    return made


def _camel(name: str, suffix: str) -> str:
    return "".join(part.capitalize() for part in name.split("_")) + suffix


UNIVERSE = Universe(
    all_dialects={name: _dialect(name) for name in ("moe", "sched")},
    all_passes={name: _pass(name) for name in BUILT_IN},
)
"""What xDSL finds."""
