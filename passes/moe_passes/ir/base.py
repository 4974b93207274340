"""What a pass is: a frozen dataclass whose fields are its options, with what it needs and gives as types."""

import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from torch_mlir import ir

from moe_passes.estimate.cost import CostModel
from moe_passes.ir.module import read_cost
from moe_passes.ir.states import State
from moe_passes.plan.errors import InputError
from moe_passes.routing.traces import RoutingTrace

TraceSource = Callable[[ir.Module], RoutingTrace]
"""Gives the routing trace that a module's `moe.profile` names."""
CostSource = Callable[[ir.Module], CostModel]
"""Gives the cost model of a module's machine."""


def no_trace(module: ir.Module) -> RoutingTrace:
    """Refuse: a pipeline was run without a routing trace.

    Raises:
        InputError: always.
    """
    raise InputError("a pass needs the routing trace, and none was given")


@dataclass(frozen=True)
class Context:
    """What passes ask for besides the module.

    Attributes:
        trace: the routing trace.
        cost: the cost model; by default the one that the request names, for the machine of the module.
    """

    trace: TraceSource = no_trace
    cost: CostSource = read_cost


@dataclass(frozen=True)
class Option:
    """An option of a pass as text.

    Attributes:
        name: as written in a pipeline.
        field: of the dataclass.
        values: what it takes, for people.
        help: what it does.
        type: Python type of its value.
    """

    name: str
    field: str
    values: str
    help: str
    type: type


def option(default: Any, values: str, help_: str) -> Any:
    """Declare a field of a pass that can be set in a pipeline."""
    return field(default=default, metadata={"values": values, "help": help_})


@dataclass(frozen=True)
class Pass(ABC):
    """A pass. Its docstring says what it does.

    Attributes:
        name: in pipelines.
        needs: what a module must hold for it.
        gives: what a module holds after it.
        drops: what it makes open again.
        again: whether it may run on a module that holds what it gives.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[type[State], ...]] = ()
    gives: ClassVar[tuple[type[State], ...]] = ()
    drops: ClassVar[tuple[type[State], ...]] = ()
    again: ClassVar[bool] = False

    @abstractmethod
    def run(self, module: ir.Module, context: Context) -> None:
        """Change the module in place.

        Raises:
            InputError: the module cannot be compiled as it stands.
        """

    @classmethod
    def summary(cls) -> str:
        """Say in one line what the pass does."""
        return (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """Return its options."""
        hints = typing.get_type_hints(cls)
        return tuple(
            Option(
                f.name.replace("_", "-"),
                f.name,
                f.metadata.get("values", "VALUE"),
                f.metadata.get("help", ""),
                _plain(hints[f.name]),
            )
            for f in fields(cls)
        )

    @classmethod
    def of(cls, given: dict[str, str]) -> "Pass":
        """Make the pass with options as text, names and values as written.

        Raises:
            InputError: a value is not of its type, or the pass refuses it.
        """
        values = {}
        for entry in cls.options():
            if entry.name in given:
                values[entry.field] = _parsed(cls.name, entry, given[entry.name])
        return cls(**values)

    def __str__(self) -> str:
        """Write the pass as in a pipeline, defaults left out."""
        shown = [
            f"{f.name.replace('_', '-')}={getattr(self, f.name)}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name + (f"{{{' '.join(shown)}}}" if shown else "")


def _plain(hint: Any) -> type:
    """Return the type of an option that may be None."""
    arguments = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind: type = next(argument for argument in arguments if argument is not type(None))
    return kind


def _parsed(pass_name: str, entry: Option, text: str) -> Any:
    wrong = InputError(f"{pass_name}: option {entry.name}={text}; valid: {entry.values}")
    if entry.type is bool:
        if text not in ("true", "false"):
            raise wrong
        return text == "true"
    if entry.type is int and not (text.isascii() and text.lstrip("-").isdigit() and len(text) < 20):
        raise wrong
    try:
        return entry.type(text)
    except ValueError:
        raise wrong from None
