"""The registry of passes, pipelines as text, and running them with instrumentation.

A pipeline is written `name{option=value other=value},name`, as in xDSL. Passes change a module in place; the runner
verifies it after each one and tells observers, who may print, time or keep it.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch_mlir import ir

from moe_passes.allocate_staging import rewrite as allocate_staging
from moe_passes.errors import InputError
from moe_passes.lower_to_tasks import rewrite as lower_to_tasks
from moe_passes.partition_experts import rewrite as partition_experts
from moe_passes.raise_moe import rewrite as raise_moe
from moe_passes.routing import RoutingTrace
from moe_passes.schedule_round import rewrite as schedule_round
from moe_passes.schedule_round.problem import MOST_WORKERS
from moe_passes.select_draft import rewrite as select_draft
from moe_passes.verify_plan import rewrite as verify_plan

TraceSource = Callable[[ir.Module], RoutingTrace]
"""Gives the routing trace that a module's `moe.profile` names."""
Runner = Callable[[ir.Module, TraceSource, dict[str, str]], None]


@dataclass(frozen=True)
class Option:
    """An option of a pass."""

    name: str
    values: str
    help: str


@dataclass(frozen=True)
class PassInfo:
    """A pass: its name, what it does, its options, and how to run it."""

    name: str
    summary: str
    reads: str
    writes: str
    run: Runner
    options: tuple[Option, ...] = ()


@dataclass(frozen=True)
class Step:
    """One pass of a pipeline with its options."""

    info: PassInfo
    options: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = " ".join(f"{name}={value}" for name, value in self.options.items())
        return self.info.name + (f"{{{inside}}}" if inside else "")


def _schedule(module: ir.Module, trace: TraceSource, options: dict[str, str]) -> None:
    text = options.get("time-limit")
    schedule_round.run(module, None if text is None else _seconds(text), _workers(options.get("workers", "1")))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise InputError(f"schedule-round: option time-limit={text}; valid: seconds from 0 to 1e6")
    return value


def _workers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 3 or not 1 <= int(text) <= MOST_WORKERS:
        raise InputError(f"schedule-round: option workers={text}; valid: an integer from 1 to {MOST_WORKERS}")
    return int(text)


PASSES: tuple[PassInfo, ...] = (
    PassInfo(
        raise_moe.NAME,
        "recognise routers, experts, attention and dense parts in a traced decoder",
        "@draft_step and @verify_step in the torch dialect",
        "the same functions in the moe dialect, moe.expert_store",
        lambda module, trace, options: raise_moe.run(module),
    ),
    PassInfo(
        select_draft.NAME,
        "choose resident experts, slice bits, staging size and draft length",
        "moe.expert_store, the routing trace",
        "residency on moe.expert_store, moe.draft, moe.solver",
        lambda module, trace, options: select_draft.run(module, trace(module)),
    ),
    PassInfo(
        partition_experts.NAME,
        "shard, replicate and place resident experts over the banks",
        "residency, the routing trace",
        "replicas on moe.expert_store, moe.solver",
        lambda module, trace, options: partition_experts.run(
            module, trace(module), options.get("placer", partition_experts.SEARCH)
        ),
        (Option("placer", "NAME", "search (default), or a baseline: contiguous, lpt, eplb, shard-4, …"),),
    ),
    PassInfo(
        lower_to_tasks.NAME,
        "choose the dispatcher's plan; build one training round as a scheduling problem",
        "residency, replicas, moe.draft, the routing trace",
        "moe.dispatch, needed_permille on moe.expert_store, @round in the sched dialect",
        lambda module, trace, options: lower_to_tasks.run(module, trace(module)),
    ),
    PassInfo(
        schedule_round.NAME,
        "choose start times and modes: list scheduling, justification, CP-SAT windows, with a proved bound",
        "@round",
        "start_ns and mode on sched.task, moe.solver",
        _schedule,
        (
            Option("time-limit", "SECONDS", "deterministic solver seconds; default: the request's"),
            Option("workers", "N", "workers of CP-SAT; default: 1"),
        ),
    ),
    PassInfo(
        allocate_staging.NAME,
        "give every staged slice an address",
        "the schedule of @round",
        "offset_bytes on sched.buffer, moe.solver",
        lambda module, trace, options: allocate_staging.run(module),
    ),
    PassInfo(
        verify_plan.NAME,
        "check the complete plan independently",
        "@round with all decisions",
        "nothing",
        lambda module, trace, options: verify_plan.run(module),
    ),
)
REGISTRY = {info.name: info for info in PASSES}
DEFAULT = ",".join(REGISTRY)
WITHOUT_HB = ",".join(name for name in REGISTRY if name not in (partition_experts.NAME, allocate_staging.NAME))
"""The default pipeline of a machine without HB: there is nothing to place and nothing to stage."""

_STEP = re.compile(r"\s*([A-Za-z0-9_-]+)\s*(?:\{([^{}]*)\})?\s*(,|$)")


def parse_pipeline(text: str) -> list[Step]:
    """Parse a textual pipeline.

    Raises:
        InputError: malformed text, an unknown pass or option, with the nearest valid name.
    """
    steps, position = [], 0
    if not text.strip():
        raise InputError(f"pipeline is empty; valid: for example {DEFAULT}")
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise InputError(
                f"pipeline: cannot read '{text[position:]}' at character {position}; "
                "valid: name{option=value other=value},name"
            )
        name, inside, separator = match.groups()
        if name not in REGISTRY:
            raise InputError(f"pipeline: unknown pass '{name}'{_nearest(name, list(REGISTRY))}")
        steps.append(Step(REGISTRY[name], _options(REGISTRY[name], inside or "")))
        position = match.end()
        if separator == "," and position >= len(text):
            raise InputError(f"pipeline: '{text}' ends with a comma")
    return steps


def _options(info: PassInfo, text: str) -> dict[str, str]:
    result: dict[str, str] = {}
    valid = [option.name for option in info.options]
    for part in text.split():
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise InputError(f"pipeline: {info.name}: option '{part}'; valid: option=value")
        if name not in valid:
            raise InputError(f"pipeline: {info.name}: unknown option '{name}'{_nearest(name, valid)}")
        if name in result:
            raise InputError(f"pipeline: {info.name}: option '{name}' is given twice")
        result[name] = value
    return result


def _nearest(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return f"{hint} valid: {', '.join(valid) if valid else 'none'}"


Observer = Callable[[Step, ir.Module], None]


def run_pipeline(
    module: ir.Module,
    steps: Sequence[Step],
    trace: TraceSource,
    before: Observer = lambda step, module: None,
    after: Observer = lambda step, module: None,
) -> None:
    """Run passes one after another, verify the module after each, and tell the observers.

    Raises:
        InputError: a pass refused its input.
        AssertionError: a pass made a module that does not verify.
    """
    for step in steps:
        before(step, module)
        step.info.run(module, trace, step.options)
        try:
            module.operation.verify()
        except ir.MLIRError as error:
            raise AssertionError(f"{step.info.name} made a module that does not verify: {error}") from error
        after(step, module)
