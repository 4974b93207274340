"""Pipelines: as text, their sense, and running them in MLIR's pass manager.

A pipeline is written `name{option=value other=value},name`. Names are our passes, those of other packages (entry points
of the group `moe_passes.passes`), or any pass of MLIR that takes a module (`cse`, `canonicalize`, …). Passes change a
module in place; MLIR's pass manager runs them, verifies the module after each, prints and times.
"""

import re
import sys
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch_mlir import ir
from torch_mlir.passmanager import PassManager

from moe_passes.ir.base import Context, Pass
from moe_passes.ir.module import text_of
from moe_passes.ir.registry import BUILT_IN, load_pass, pass_names
from moe_passes.ir.states import (
    Addressed,
    Dispatched,
    Drafted,
    Placed,
    Scheduled,
    State,
    Steady,
    Tasks,
    Traced,
    states_of,
)
from moe_passes.plan.errors import InputError
from moe_passes.plan.names import nearest

COMPLETE: tuple[type[State], ...] = (Drafted, Placed, Dispatched, Tasks, Scheduled, Addressed, Steady)
"""What a module must hold to be a complete plan."""
_STEP = re.compile(r"\s*([A-Za-z0-9_-]+)\s*(?:\{([^{}]*)\})?\s*(,|$)")


@dataclass(frozen=True)
class MlirPass:
    """A pass of MLIR itself, with its options as written."""

    name: str
    options: str = ""

    def __str__(self) -> str:
        return self.name + (f"{{{self.options}}}" if self.options else "")


Step = Pass | MlirPass


STARTING: frozenset[type[State]] = frozenset({Traced})
"""What a traced module holds."""


def default_pipeline() -> str:
    """Return the pipeline that makes a complete plan: of our passes, in order, those whose needs can be met."""
    held, names = set(STARTING), []
    for name in BUILT_IN:
        kind = load_pass(name)
        if set(kind.needs) <= held:
            names.append(name)
            held |= set(kind.gives)
    return ",".join(names)


def parse_pipeline(text: str) -> list[Step]:
    """Parse a textual pipeline.

    Raises:
        InputError: malformed text, an unknown pass or option, with the nearest valid name.
    """
    steps: list[Step] = []
    position = 0
    if not text.strip():
        raise InputError(f"pipeline is empty; valid: for example {default_pipeline()}")
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise InputError(
                f"pipeline: cannot read '{text[position:]}' at character {position}; "
                "valid: name{option=value other=value},name"
            )
        name, inside, separator = match.groups()
        steps.append(_step(name, inside or ""))
        position = match.end()
        if separator == "," and position >= len(text):
            raise InputError(f"pipeline: '{text}' ends with a comma")
    return steps


def _step(name: str, inside: str) -> Step:
    if name in pass_names():
        kind = load_pass(name)
        return kind.of(_options(kind, inside))
    options = " ".join(inside.split())
    written = str(MlirPass(name, options))
    with ir.Context() as ctx:
        for form in (written, name):
            try:
                PassManager.parse(f"builtin.module({form})", ctx)
            except ValueError:
                continue
            if form != written:
                raise InputError(f"pipeline: {name}: MLIR refuses the options '{options}'")
            return MlirPass(name, options)
    valid = [*pass_names(), "cse", "canonicalize"]
    raise InputError(f"pipeline: unknown pass '{name}'{nearest(name, valid)}, or a pass of MLIR that takes a module")


def _options(kind: type[Pass], text: str) -> dict[str, str]:
    result: dict[str, str] = {}
    valid = [option.name for option in kind.options()]
    for part in text.split():
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise InputError(f"pipeline: {kind.name}: option '{part}'; valid: option=value")
        if name not in valid:
            raise InputError(f"pipeline: {kind.name}: unknown option '{name}'{nearest(name, valid)}")
        if name in result:
            raise InputError(f"pipeline: {kind.name}: option '{name}' is given twice")
        result[name] = value
    return result


def written(steps: Iterable[Step]) -> str:
    """Write a pipeline as text."""
    return ",".join(str(step) for step in steps)


def check_pipeline(steps: Sequence[Step], held: Set[type[State]], goal: Sequence[type[State]] = ()) -> None:
    """Refuse a pipeline that cannot work, before anything runs, with the true reason.

    Args:
        steps: the pipeline.
        held: what the module holds at the start.
        goal: what it must hold at the end.

    Raises:
        InputError: a pass needs what nothing before it gives, repeats what is done, or the goal is not reached.
    """
    held = set(held)
    for place, step in enumerate(steps):
        if isinstance(step, Pass):
            refuse(step, held, {other.name for other in steps[place + 1 :]})
            held = (held - set(step.drops)) | set(step.gives)
    for state in goal:
        if state not in held:
            raise InputError(f"pipeline: {state.what} is missing at the end; valid: add {_giver(state)}")


def refuse(step: Pass, held: Set[type[State]], later: Set[str] = frozenset()) -> None:
    """Refuse a pass that cannot run on what is held.

    Raises:
        InputError: with the true reason.
    """
    missing = [state for state in step.needs if state not in held]
    for state in missing:
        if not _giver(state) and state not in step.drops:
            raise InputError(f"pipeline: {step.name} needs {state.what}, and there is none")
    if step.gives and not step.again and set(step.gives) <= held:
        raise InputError(
            f"pipeline: {step.name} has already run: {', '.join(s.what for s in step.gives)} is there; valid: once, "
            "or on an earlier snapshot"
        )
    for state in missing:
        giver = _giver(state)
        if not giver:
            raise InputError(f"pipeline: {step.name} needs {state.what}, and there is none")
        how = f"{giver} stands after it; valid: before it" if giver in later else f"valid: run {giver} first"
        raise InputError(f"pipeline: {step.name} needs {state.what}; {how}")


def _giver(state: type[State]) -> str:
    """Return the pass of ours that gives something."""
    return next((name for name in BUILT_IN if state in load_pass(name).gives), "")


Observer = Callable[[Step, ir.Module], None]


def _nothing(step: Step, module: ir.Module) -> None:
    pass


@dataclass(frozen=True)
class Instrumentation:
    """What is printed, timed and watched while a pipeline runs; no answer depends on it.

    Attributes:
        before: told before each pass.
        after: told after each pass.
        print_before: names of passes before which the IR is printed to stderr.
        print_after: likewise, after them.
        print_after_all: print the IR after every pass.
        print_after_change: print it after every pass that changed it.
        timing: print how long each pass took, as MLIR does.
        verify_each: verify the module after every pass.
    """

    before: Observer = _nothing
    after: Observer = _nothing
    print_before: tuple[str, ...] = ()
    print_after: tuple[str, ...] = ()
    print_after_all: bool = False
    print_after_change: bool = False
    timing: bool = False
    verify_each: bool = True


def run_pipeline(
    module: ir.Module,
    steps: Sequence[Step],
    context: Context | None = None,
    watch: Instrumentation | None = None,
) -> None:
    """Run passes one after another in MLIR's pass manager.

    Raises:
        InputError: a pass refused its input, or the pipeline makes no sense for this module.
        AssertionError: a pass made a module that does not verify.
    """
    run = _Run(module, context or Context(), watch or Instrumentation())
    names = [step.name for step in steps]
    for name in (*run.watch.print_before, *run.watch.print_after):
        if name not in names:
            raise InputError(f"--print-ir-before/after {name}: not in the pipeline; valid: {', '.join(names)}")
    check_pipeline(steps, states_of(module))
    run.all(steps)


class _Run:
    """One run of a pipeline."""

    def __init__(self, module: ir.Module, context: Context, watch: Instrumentation) -> None:
        self.module, self.context, self.watch = module, context, watch
        self.failure: BaseException | None = None
        self.current: Step | None = None
        self.text = ""

    def all(self, steps: Sequence[Step]) -> None:
        """Run the whole pipeline."""
        watch = self.watch
        with self.module.context:
            manager = PassManager("builtin.module")
            for step in steps:
                self._add(manager, step)
            manager.enable_verifier(watch.verify_each)
            if watch.timing:
                manager.enable_timing()
            try:
                manager.run(self.module.operation)
            except ir.MLIRError as error:
                if self.failure is not None:
                    raise self.failure from None
                raise AssertionError(f"{self.current} made a module that does not verify: {error}") from error

    def _add(self, manager: PassManager, step: Step) -> None:
        if isinstance(step, Pass):
            manager.add(self._guarded(lambda: self._run(step)), name=type(step).__name__, argument=step.name)
            return
        manager.add(self._guarded(lambda: self._begin(step)), name=f"before {step.name}")
        manager.add(str(step))
        manager.add(self._guarded(lambda: self._end(step)), name=f"after {step.name}")

    def _run(self, step: Pass) -> None:
        self._begin(step)
        refuse(step, states_of(self.module))
        step.run(self.module, self.context)
        self._end(step)

    def _begin(self, step: Step) -> None:
        self.current = step
        self.watch.before(step, self.module)
        if step.name in self.watch.print_before:
            self._print(step, "Before")
        if self.watch.print_after_change:
            self.text = text_of(self.module)

    def _end(self, step: Step) -> None:
        is_changed = self.watch.print_after_change and text_of(self.module) != self.text
        if step.name in self.watch.print_after or self.watch.print_after_all or is_changed:
            self._print(step, "After")
        self.watch.after(step, self.module)

    def _print(self, step: Step, when: str) -> None:
        kind = type(step).__name__ if isinstance(step, Pass) else step.name
        print(f"// -----// IR Dump {when} {kind} ({step.name}) //----- //\n{text_of(self.module)}", file=sys.stderr)

    def _guarded(self, action: Callable[[], None]) -> Callable[[Any, Any], None]:
        """Keep what an action raises: MLIR knows only that a pass failed."""

        def run(operation: Any, external: Any) -> None:
            try:
                action()
            except BaseException as error:
                self.failure = error
                external.signal_pass_failure()

        return run
