"""One compilation: model → IR → passes → plan → program and cost."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moe_passes.dialects import context
from moe_passes.dialects.module import append, find, only, read_machine, write_machine
from moe_passes.dialects.round import read_round
from moe_passes.errors import InputError
from moe_passes.instrumentation import SolverCall, peak_mib, watch_solver_calls
from moe_passes.lower_to_tasks.rewrite import read_plan
from moe_passes.pipeline import DEFAULT, WITHOUT_HB, Step, parse_pipeline, run_pipeline
from moe_passes.routing import RoutingTrace
from moe_passes.select_draft.rewrite import LONGEST_AUTO
from moe_passes.workload import AUTO_LENGTH, ExpertLayer, ProfileRecord, Workload
from torch_mlir import ir

import moe_compiler
from moe_compiler.cost.held_out import evaluate
from moe_compiler.emit.documents import cost_document, plan_document
from moe_compiler.emit.folder import write_folder
from moe_compiler.emit.program import program
from moe_compiler.emit.timeline import timeline
from moe_compiler.profile import files as profiles
from moe_compiler.profile import synthetic
from moe_compiler.target.loader import LoadedTarget, load_target
from moe_compiler.trace.graph import trace as trace_model
from moe_compiler.trace.models import ModelSource, load_model

LARGEST_BATCH = 4096
LARGEST_CONTEXT = 10_000_000
LONGEST_DRAFT = 64
DEFAULT_TIME_LIMIT = 10.0
PACKAGES = ("moe-compiler", "moe-passes", "torch", "torch-mlir", "transformers", "ortools", "numpy")

Progress = Callable[[str], None]


@dataclass
class Timer:
    """Wall seconds and peak memory of every step and solver call; goes to compile.json and nowhere else."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    solver_calls: list[SolverCall] = field(default_factory=list)

    @contextmanager
    def measure(self, name: str) -> Any:
        """Measure one step."""
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Record a step that took so many seconds."""
        self.steps.append({"step": name, "seconds": seconds, "peak_mib": peak_mib()})


class PassFailureError(Exception):
    """A pass failed on sound input: a bug. Carries the IR before it, the rest of the pipeline, and the profile."""

    def __init__(self, what: str, rest: str, text: str, profile: str | None) -> None:
        super().__init__(f"{what} failed")
        self.rest, self.text, self.profile = rest, text, profile


@dataclass(frozen=True)
class Compilation:
    """The result of a compilation.

    Attributes:
        module: the final MLIR module.
        plan: content of plan.json.
        cost: content of cost.json.
        snapshots: (name, IR text) after tracing and after every pass.
        record: content of compile.json.
        source: the model.
    """

    module: ir.Module
    plan: dict[str, Any]
    cost: dict[str, Any]
    snapshots: tuple[tuple[str, str], ...]
    record: dict[str, Any]
    source: ModelSource

    def files(self) -> dict[str, bytes]:
        """Return every output file by its path in the output folder."""
        result = {f"ir/{n:02d}-{name}.mlir": text.encode() for n, (name, text) in enumerate(self.snapshots)}
        for name, content in (("plan", self.plan), ("cost", self.cost), ("compile", self.record)):
            result[f"{name}.json"] = (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
        result["schedule.py"] = program(self.module, self.plan, self.cost, self.source).encode()
        result["timeline.perfetto-trace"] = timeline(read_round(self.module, "emit"), self.source.name)
        return result

    def save(self, folder: str | Path) -> None:
        """Write all files into a new folder, whole or not at all.

        Raises:
            InputError: the folder exists or cannot be written.
        """
        write_folder(Path(folder), self.files())


def compile(
    model: Any,
    target: str | Path,
    *,
    profile: str | Path | None = None,
    batch: int = 1,
    context: int = 1024,
    draft_length: int | str = "auto",
    pipeline: str | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    time_limit: float = DEFAULT_TIME_LIMIT,
    progress: Progress = lambda message: None,
) -> Compilation:
    """Compile a mixture-of-experts model for a hardware file.

    Args:
        model: a shipped name, a folder with a `config.json`, such a file, a transformers configuration, or a
            transformers `nn.Module`.
        target: a shipped name or the path of a hardware file.
        profile: a shipped profile or the path of an `.npz`; None for the model's real one, else a synthetic one.
        batch: sequences decoded together.
        context: tokens in the KV cache of each sequence.
        draft_length: γ, or `auto`.
        pipeline: textual pipeline; None for the default one.
        overrides: `PATH=VALUE` changes of single fields of the hardware file.
        seed: of every solver and of a synthetic profile.
        time_limit: solver budget in deterministic seconds.
        progress: told the name of every step.

    Raises:
        InputError: input that cannot be compiled; the message says what, where and what would be valid.
        InfeasibleError: the model does not fit the machine.
    """
    workload = request(batch, context, draft_length, seed, time_limit)
    target, profile = _text("target", target), None if profile is None else _text("profile", profile)
    _check_texts(pipeline, overrides)
    loaded = load_target(target, tuple(overrides))
    profiles.check_exists(profile)
    default = DEFAULT if loaded.target.memories.hb else WITHOUT_HB
    steps = parse_pipeline(default if pipeline is None else pipeline)
    _check_complete(steps, default)
    source = load_model(model)
    timer = Timer()
    with watch_solver_calls() as timer.solver_calls:
        with timer.measure("trace"):
            progress("trace")
            module = trace_model(source, batch, moe_context())
            append(module, workload)
            write_machine(module, loaded.machine())
        reader = ProfileReader(profile, source, workload)
        snapshots = _run(module, steps, reader, timer, progress)
        with timer.measure("held-out rounds"):
            progress("held-out rounds")
            held_out = evaluate(read_machine(module), read_plan(module), reader(module), seed)
    with timer.measure("emit"):
        plan, cost = plan_document(module), cost_document(module, held_out)
    record = _record(source, loaded, workload, profile, steps, timer)
    return Compilation(module, plan, cost, tuple(snapshots), record, source)


def _check_complete(steps: list[Step], default: str) -> None:
    """Refuse, before minutes of work, a pipeline that leaves out, repeats or reorders what a complete plan needs.

    verify-plan may be left out or repeated.
    """
    needed = [name for name in default.split(",") if name != "verify-plan"]
    names = [step.info.name for step in steps]
    foreign = [name for name in names if name not in default.split(",")]
    if foreign:
        raise InputError(f"pipeline: {foreign[0]} needs memory 'hb', and the target has none; valid: {default}")
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(
            f"pipeline: compile needs {missing[0]} for a complete plan; valid: for example {default} "
            "(`moec opt` runs parts of a pipeline)"
        )
    if [name for name in names if name in needed] != needed:
        raise InputError(f"pipeline: passes are repeated or out of order; valid: {default}")


def moe_context() -> ir.Context:
    """Return an MLIR context with our dialects."""
    return context()


def request(batch: int, context: int, draft_length: int | str, seed: int, time_limit: float) -> Workload:
    """Check the numbers of a request.

    Raises:
        InputError: a number is out of range.
    """
    _in_range("--batch", batch, 1, LARGEST_BATCH)
    _in_range("--context", context, 0, LARGEST_CONTEXT)
    _in_range("--seed", seed, 0, 2**31 - 1)
    if isinstance(time_limit, bool) or not isinstance(time_limit, int | float) or not 0 <= time_limit <= 1e6:
        raise InputError(f"--time-limit {time_limit}; valid: deterministic seconds from 0 to 1e6")
    length = AUTO_LENGTH
    if draft_length != "auto":
        written = str(draft_length)
        length = int(written) if written.isascii() and written.isdigit() and len(written) < 4 else -2
        if not 0 <= length <= LONGEST_DRAFT:
            raise InputError(f"--draft-length {draft_length}; valid: auto, or 0 to {LONGEST_DRAFT}")
    return Workload(batch, context, length, seed, float(time_limit))


def _text(name: str, value: str | Path) -> str:
    if not isinstance(value, str | Path):
        raise InputError(f"{name} is of type {type(value).__name__}; valid: a name or a path")
    return str(value)


def _check_texts(pipeline: str | None, overrides: Sequence[str]) -> None:
    if pipeline is not None and not isinstance(pipeline, str):
        raise InputError(f"pipeline is of type {type(pipeline).__name__}; valid: text")
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise InputError("overrides: valid: a list of PATH=VALUE texts")


def _in_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} {value}; valid: an integer from {low} to {high:,}")


class ProfileReader:
    """Gives passes the routing trace; chooses it, and writes `moe.profile`, once the model's shape is known."""

    def __init__(self, given: str | None, source: ModelSource, workload: Workload) -> None:
        self.given, self.source, self.workload = given, source, workload
        self.loaded: profiles.Profile | None = None

    def attach(self, module: ir.Module) -> None:
        """Choose the profile and record it in the module, if its expert stores are known and it is not there yet."""
        layers = [layer for _, layer in find(module, ExpertLayer)]
        if not layers or self.loaded is not None:
            return
        length = LONGEST_AUTO if self.workload.draft_length == AUTO_LENGTH else self.workload.draft_length
        tokens = synthetic.tokens_for(self.workload.batch, length + 1)
        self.loaded = profiles.choose(self.given, self.source.name, layers, tokens, self.workload.seed)
        append(module, self.loaded.record)

    def __call__(self, module: ir.Module) -> RoutingTrace:
        """Return the trace."""
        if self.loaded is None:
            raise InputError("a pass needs the routing trace before raise-moe has run")
        return self.loaded.trace


def read_profile(module: ir.Module, given: str | None) -> RoutingTrace:
    """Load the trace that a module names (`moec opt`), or the file that is given for it.

    Raises:
        InputError: it cannot be loaded, or is not the one that the module was compiled against.
    """
    record = only(module, ProfileRecord, "the routing trace")
    layers = [layer for _, layer in find(module, ExpertLayer)]
    loaded = profiles.load(given or record.name, layers)
    if loaded.record.sha256 != record.sha256:
        raise InputError(
            f"profile {given or record.name}: SHA-256 {loaded.record.sha256[:16]}… is not that of the module's "
            f"profile '{record.name}', {record.sha256[:16]}…"
        )
    return loaded.trace


def _run(
    module: ir.Module, steps: list[Step], reader: ProfileReader, timer: Timer, progress: Progress
) -> list[tuple[str, str]]:
    snapshots = [("trace", str(module))]
    started = 0.0

    def before(step: Step, module: ir.Module) -> None:
        nonlocal started
        progress(step.info.name)
        started = time.perf_counter()

    def after(step: Step, module: ir.Module) -> None:
        reader.attach(module)
        timer.add(step.info.name, time.perf_counter() - started)
        snapshots.append((step.info.name, str(module)))

    try:
        run_pipeline(module, steps, reader, before, after)
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        failed = steps[len(snapshots) - 1]
        rest = ",".join(str(step) for step in steps[len(snapshots) - 1 :])
        raise PassFailureError(f"pass {failed.info.name}", rest, snapshots[-1][1], reader.given) from error
    return snapshots


def _record(
    source: ModelSource,
    loaded: LoadedTarget,
    workload: Workload,
    profile: str | None,
    steps: list[Step],
    timer: Timer,
) -> dict[str, Any]:
    return {
        "schema": 1,
        "command": sys.argv,
        "model": source.name,
        "target": str(loaded.path),
        "overrides": list(loaded.overrides),
        "profile": profile,
        "request": asdict(workload),
        "pipeline": ",".join(str(step) for step in steps),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
        "compiler": moe_compiler.__version__,
        "steps": timer.steps,
        "solver_calls": [_call(call) for call in timer.solver_calls],
        "total_seconds": sum(step["seconds"] for step in timer.steps),
        "peak_mib": max(step["peak_mib"] for step in timer.steps),
    }


def _call(call: SolverCall) -> dict[str, Any]:
    return {
        "pass": call.pass_name,
        "instance": call.instance,
        "seconds": call.seconds,
        "peak_mib": call.peak_mib,
    }
