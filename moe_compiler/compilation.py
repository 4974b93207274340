"""One compilation: model → IR → passes → plan → program and cost."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_passes.estimate.registry import check_cost_model
from moe_passes.instrumentation import SolverCall, peak_mib, watch_solver_calls
from moe_passes.plan.errors import InputError, WrongPlanError
from moe_passes.plan.known import known_as
from moe_passes.plan.model import ExpertLayer, ModelShape
from moe_passes.plan.place import parse_place
from moe_passes.plan.request import (
    BATCH,
    CONTEXT,
    PROMPT_TOKENS,
    SEED,
    MeasuredAcceptance,
    ProfileRecord,
    Request,
    check_draft_length,
    check_seconds,
)
from moe_passes.routing.traces import RoutingTrace, popularity, relabelled

from moe_compiler.documents.base import to_json
from moe_compiler.documents.record import Arguments, CompileDocument, Step
from moe_compiler.documents.record import SolverCall as SolverCallEntry
from moe_compiler.frontend.models import ModelSource, load_model, shipped_models
from moe_compiler.hardware.loader import LoadedTarget, load_target, shipped_targets
from moe_compiler.paths import sha256_of, whole
from moe_compiler.traces import acceptance as acceptances
from moe_compiler.traces import files as profiles
from moe_compiler.traces import synthetic
from moe_compiler.traces.like import MEASURED, MIDDLE

if TYPE_CHECKING:
    from moe_passes.ir import pipeline as pipelines
    from torch_mlir import ir

DEFAULT_TIME_LIMIT = 10.0
DEFAULT_COST_MODEL = "analytic"
PACKAGES = ("moe-compiler", "moe-passes", "torch", "torch-mlir", "transformers", "ortools", "numpy")

Progress = Callable[[str], None]


@dataclass
class Timer:
    """Wall seconds and peak memory of every step and solver call; goes to compile.json and nowhere else."""

    started: float = field(default_factory=time.perf_counter)
    steps: list[Step] = field(default_factory=list)
    solver_calls: list[SolverCall] = field(default_factory=list)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure one step."""
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Record a step that took so many seconds."""
        self.steps.append(Step(step=name, seconds=seconds, peak_mib=peak_mib()))


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
        held_out: content of held_out.json.
    """

    module: "ir.Module"
    plan: dict[str, Any]
    cost: dict[str, Any]
    held_out: dict[str, Any]
    snapshots: tuple[tuple[str, str], ...]
    record: dict[str, Any]
    source: ModelSource

    def files(self) -> dict[str, bytes]:
        """Return every output file by its path in the output folder."""
        from moe_passes.ir.round import read_round

        from moe_compiler.backend.model_explorer import model_explorer
        from moe_compiler.backend.program import program
        from moe_compiler.backend.timeline import timeline

        result = {f"ir/{n:02d}-{name}.mlir": text.encode() for n, (name, text) in enumerate(self.snapshots)}
        for name, content in (("plan", self.plan), ("cost", self.cost), ("compile", self.record)):
            result[f"{name}.json"] = to_json(content).encode()
        result["held_out.json"] = to_json(self.held_out, indent=None).encode()
        if self.source.captured is None:
            # Of a captured graph there is no configuration that a program could build the model from.
            result |= program(self.module, self.plan, self.cost, self.source.config)
        round_ = read_round(self.module, "emit")
        result["timeline.perfetto-trace"] = timeline(round_, self.source.name)
        return result | model_explorer(self.module, round_)

    def save(self, folder: str | Path, finish: Callable[[Path], None] | None = None) -> None:
        """Write all files into a new folder, whole or not at all.

        Args:
            folder: to make.
            finish: adds to the folder before it is there under its name.

        Raises:
            InputError: the folder exists or cannot be written.
        """
        from moe_compiler.backend.folder import write_folder

        write_folder(Path(folder), self.files(), finish)


def compile(
    model: Any,
    target: str | Path,
    *,
    format: str | None = None,
    place: str | None = None,
    profile: str | Path | None = None,
    batch: int = 1,
    context: int = 1024,
    draft_length: int | str = "auto",
    pipeline: str | None = None,
    overrides: Sequence[str] = (),
    alpha: float | None = None,
    accepted_lengths: str | Path | None = None,
    prompt_tokens: int | None = None,
    seed: int = 0,
    time_limit: float = DEFAULT_TIME_LIMIT,
    cost_model: str = DEFAULT_COST_MODEL,
    progress: Progress = lambda message: None,
) -> Compilation:
    """Compile a mixture-of-experts model for a hardware file.

    Args:
        model: a shipped name, a folder with a `config.json`, such a file, a transformers configuration, or a
            transformers `nn.Module`.
        target: a shipped name or the path of a hardware file.
        format: of the weights (docs/estimate.md); None for what the configuration says.
        place: where experts are to lie (docs/estimate.md); None for where they are found best.
        profile: the path of an `.npz`, or the name of a synthetic one; None for a synthetic one.
        batch: sequences decoded together.
        context: tokens in the KV cache of each sequence.
        draft_length: γ, or `auto`.
        pipeline: textual pipeline; None for the default one.
        overrides: `PATH=VALUE` changes of single fields of the hardware file.
        alpha: measured acceptance rate: accepted over drafted tokens, at γ (or at 6 drafted tokens where γ is open).
        accepted_lengths: a file with counts of accepted tokens by draft configuration (docs/profiles.md).
        prompt_tokens: length of a prompt whose time to the first token is estimated; None for no such estimate.
        seed: of every solver and of a synthetic profile.
        time_limit: solver budget in deterministic seconds.
        cost_model: registered name of the model that answers for the machine.
        progress: told the name of every step.

    Raises:
        InputError: input that cannot be compiled; the message says what, where and what would be valid.
        InfeasibleError: the model does not fit the machine.
    """
    asked = request(batch, context, draft_length, seed, time_limit, cost_model)
    if place is not None:
        asked = replace(asked, place=parse_place(_text("place", place)).text)
    target, profile = _text("target", target), None if profile is None else _text("profile", profile)
    _check_texts(pipeline, overrides)
    lengths = None if accepted_lengths is None else _text("accepted_lengths", accepted_lengths)
    if prompt_tokens is not None:
        PROMPT_TOKENS.check("--prompt-tokens", prompt_tokens)
    measured = _measured(alpha, lengths, asked)
    loaded = load_target(target, tuple(overrides))
    profiles.check_exists(profile)
    source = load_model(model, None if format is None else _text("format", format))
    reader = ProfileReader(profile, source, asked, measured)
    arguments = Arguments(
        model=whole(str(model), shipped_models()) if isinstance(model, str | Path) else None,
        target=whole(target, shipped_targets()),
        format=format,
        place=place,
        profile=None if profile is None else _given(profile),
        batch=batch,
        context=context,
        draft_length=draft_length,
        pipeline=pipeline,
        overrides=list(overrides),
        alpha=alpha,
        accepted_lengths=None if lengths is None else whole(lengths),
        prompt_tokens=prompt_tokens,
        seed=seed,
        time_limit=float(time_limit),
        cost_model=cost_model,
    )
    return _compile(loaded, reader, arguments, progress)


def _measured(alpha: float | None, accepted_lengths: str | None, asked: Request) -> tuple[MeasuredAcceptance, ...]:
    """Read what was measured of drafts; nothing where nothing is given.

    Raises:
        InputError: both are given, or one is malformed.
    """
    if alpha is not None and accepted_lengths is not None:
        raise InputError("--alpha and --accepted-lengths: valid: one of them")
    if alpha is not None:
        return (acceptances.of_rate(alpha, asked.draft_length),)
    return acceptances.of_file(accepted_lengths) if accepted_lengths is not None else ()


def _compile(loaded: LoadedTarget, reader: "ProfileReader", arguments: Arguments, progress: Progress) -> Compilation:
    """Compile what has been found to be there; torch and MLIR are loaded only now."""
    from moe_passes.ir.dialects import context as mlir_context
    from moe_passes.ir.module import append, read_cost, write_machine
    from moe_passes.ir.pipeline import COMPLETE, STARTING, check_pipeline, default_pipeline, parse_pipeline
    from moe_passes.ir.static import read_plan
    from moe_passes.tasks.prefill import prefill

    from moe_compiler.backend.documents import Evaluated, cost_document, plan_document
    from moe_compiler.backend.rounds import held_out_document
    from moe_compiler.evaluate.held_out import evaluate, mean_seconds

    source, asked, timer = reader.source, reader.asked, Timer()
    pipeline, prompt_tokens = arguments.pipeline, arguments.prompt_tokens
    machine = loaded.machine()
    steps = parse_pipeline(default_pipeline() if pipeline is None else pipeline)
    check_pipeline(steps, STARTING, COMPLETE)
    with watch_solver_calls() as timer.solver_calls:
        with timer.measure("trace"):
            progress("trace")
            from moe_compiler.frontend.graph import trace

            module = trace(source, asked.batch, mlir_context())
            append(module, asked)
            write_machine(module, machine)
        snapshots = _run(module, steps, reader, timer, progress)
        with timer.measure("held-out rounds"):
            progress("held-out rounds")
            cost, static = read_cost(module), read_plan(module, "held-out rounds")
            held_out = evaluate(cost, static, reader(module), asked.seed)
            others = tuple(mean_seconds(cost, static, trace) for trace in reader.others())
            prompt = prefill(cost, static, reader(module), prompt_tokens) if prompt_tokens else None
    evaluated = Evaluated(held_out, others, prompt)
    with timer.measure("emit"):
        plan, estimate = plan_document(module).content(), cost_document(module, cost, evaluated)
        rounds = held_out_document(held_out, estimate).content()
    record = _record(source, loaded, asked, arguments, steps, timer)
    return Compilation(module, plan, estimate.content(), rounds, tuple(snapshots), record, source)


def describe(module: "ir.Module", target: str, overrides: Sequence[str], batch: int, context: int, seed: int) -> None:
    """Put a machine and a request into a module of another compiler.

    Raises:
        InputError: it has them, or the hardware file is malformed.
    """
    from moe_passes.ir.module import append, find, stamp, write_machine

    if find(module, Request):
        raise InputError("--target: the module names a machine and a request already; valid: without it")
    loaded = load_target(target, tuple(overrides))
    asked = request(batch, context, "auto", seed, DEFAULT_TIME_LIMIT)
    stamp(module)
    append(module, asked)
    write_machine(module, loaded.machine())


def request(
    batch: int,
    context: int,
    draft_length: int | str,
    seed: int,
    time_limit: float,
    cost_model: str = DEFAULT_COST_MODEL,
) -> Request:
    """Check a request.

    Raises:
        InputError: a number is out of range, or no cost model of that name is registered.
    """
    check_cost_model(_text("cost_model", cost_model))
    return Request(
        BATCH.check("--batch", batch),
        CONTEXT.check("--context", context),
        check_draft_length("--draft-length", draft_length),
        SEED.check("--seed", seed),
        check_seconds("--time-limit", time_limit),
        cost_model,
    )


def _given(profile: str) -> str:
    """Return the whole path of a profile; a synthetic one is a name, whatever files there are."""
    return profile if synthetic.parse_name(profile) else whole(profile)


def _text(name: str, value: str | Path) -> str:
    if not isinstance(value, str | Path):
        raise InputError(f"{name} is of type {type(value).__name__}; valid: a name or a path")
    return str(value)


def _check_texts(pipeline: str | None, overrides: Sequence[str]) -> None:
    if pipeline is not None and not isinstance(pipeline, str):
        raise InputError(f"pipeline is of type {type(pipeline).__name__}; valid: text")
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise InputError("overrides: valid: a list of PATH=VALUE texts")


class ProfileReader:
    """Gives passes the routing trace; chooses it, and writes `moe.profile`, once the model's shape is known."""

    def __init__(
        self, given: str | None, source: ModelSource, asked: Request, measured: tuple[MeasuredAcceptance, ...] = ()
    ) -> None:
        self.given, self.source, self.asked, self.measured = given, source, asked, measured
        self.layers: list[ExpertLayer] = []
        self.loaded: profiles.Profile | None = None

    def attach(self, module: "ir.Module") -> None:
        """Choose the profile and record it in the module, if its expert stores are known and it is not there yet."""
        from moe_passes.ir.module import append, find, only

        layers = [layer for _, layer in find(module, ExpertLayer)]
        if not layers or self.loaded is not None:
            return
        known = known_as(only(module, ModelShape, "the routing trace"))
        usual = profiles.synthetic_name(known, self.asked.batch, self.asked.seed)
        self.layers = layers
        self.loaded = profiles.load(self.given or usual, layers)
        append(module, self.loaded.record)
        for measured in self.measured or self.loaded.measured:
            append(module, measured)

    def __call__(self, module: "ir.Module") -> RoutingTrace:
        """Return the trace."""
        if self.loaded is None:
            raise InputError("a pass needs the routing trace before raise-moe has run")
        return self.loaded.trace

    def others(self) -> Iterator[RoutingTrace]:
        """Make routing like every model that was measured, if nothing was of this one; its popular experts are these.

        A plan goes by popularity, so it can be tried on any of them.
        """
        made = self.loaded and synthetic.parse_name(self.loaded.record.name)
        if self.loaded is None or not made or made.like != MIDDLE:
            return
        counts = popularity(self.loaded.trace)
        for like in MEASURED:
            name = replace(made, like=like).name
            yield relabelled(profiles.load(name, self.layers).trace, counts)


def read_profile(module: "ir.Module", given: str | None) -> RoutingTrace:
    """Load the trace that a module names (`moec opt`), or the file that is given for it; a module then names it.

    Raises:
        InputError: it cannot be loaded, or is not the one that the module was compiled against.
    """
    from moe_passes.ir.module import append, find, only

    layers = [layer for _, layer in find(module, ExpertLayer)]
    if not find(module, ProfileRecord):
        asked = only(module, Request, "the routing trace")
        known = known_as(only(module, ModelShape, "the routing trace"))
        chosen = profiles.load(given or profiles.synthetic_name(known, asked.batch, asked.seed), layers)
        append(module, chosen.record)
        return chosen.trace
    record = only(module, ProfileRecord, "the routing trace")
    if given is None and synthetic.parse_name(record.name) is None and not Path(record.name).is_file():
        raise InputError(f"the module was compiled against '{record.name}'; valid: --profile with that file")
    loaded = profiles.load(given or record.name, layers)
    if loaded.record.sha256 != record.sha256:
        raise InputError(
            f"profile {given or record.name}: SHA-256 {loaded.record.sha256[:16]}… is not that of the module's "
            f"profile '{record.name}', {record.sha256[:16]}…"
        )
    return loaded.trace


def _run(
    module: "ir.Module",
    steps: "list[pipelines.Step]",
    reader: ProfileReader,
    timer: Timer,
    progress: Progress,
) -> list[tuple[str, str]]:
    from moe_passes.ir.base import Context
    from moe_passes.ir.module import text_of
    from moe_passes.ir.pipeline import Instrumentation, run_pipeline, written

    snapshots = [("trace", text_of(module))]
    started = 0.0

    def before(step: "pipelines.Step", module: "ir.Module") -> None:
        nonlocal started
        progress(step.name)
        started = time.perf_counter()

    def after(step: "pipelines.Step", module: "ir.Module") -> None:
        reader.attach(module)
        timer.add(step.name, time.perf_counter() - started)
        snapshots.append((step.name, text_of(module)))

    try:
        run_pipeline(module, steps, Context(reader), Instrumentation(before=before, after=after))
    except Exception as error:
        if isinstance(error, InputError) and not isinstance(error, WrongPlanError):
            raise
        failed = steps[len(snapshots) - 1]
        rest = written(steps[len(snapshots) - 1 :])
        raise PassFailureError(f"pass {failed.name}", rest, snapshots[-1][1], reader.given) from error
    return snapshots


def _record(
    source: ModelSource,
    loaded: LoadedTarget,
    asked: Request,
    arguments: Arguments,
    steps: "list[pipelines.Step]",
    timer: Timer,
) -> dict[str, Any]:
    from moe_passes.ir.pipeline import written

    given = (arguments.model, arguments.target, arguments.profile, arguments.accepted_lengths)
    return CompileDocument(
        command=sys.argv,
        model=source.name,
        notes=list(source.notes),
        format=source.weights.name,
        target=str(loaded.path),
        overrides=list(loaded.overrides),
        profile=arguments.profile,
        request=asdict(asked),
        arguments=arguments,
        inputs={path: sha256_of(Path(path)) for path in given if path is not None and Path(path).is_absolute()},
        pipeline=written(steps),
        assumed=[row["path"] for row in loaded.figures() if row["source"].startswith("assumed")],
        versions={"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
        compiler=version("moe-compiler"),
        steps=timer.steps,
        solver_calls=[SolverCallEntry(**vars(call)) for call in timer.solver_calls],
        total_seconds=time.perf_counter() - timer.started,
        peak_mib=max(step.peak_mib for step in timer.steps),
    ).content()
