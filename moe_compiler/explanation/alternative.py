"""Why not otherwise: the alternative is compiled, and what it costs is split as `moec diff` splits it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_passes.plan.errors import InfeasibleError, InputError
from moe_passes.plan.names import nearest

from moe_compiler.comparison import differences
from moe_compiler.compilation import Progress, compile
from moe_compiler.documents.cost import CostDocument
from moe_compiler.documents.diff import DiffDocument
from moe_compiler.documents.explanation import Explanation
from moe_compiler.documents.folder import CompiledFolder
from moe_compiler.documents.plan import PlanDocument
from moe_compiler.documents.record import Arguments
from moe_compiler.explanation.words import listed, seconds
from moe_compiler.paths import sha256_of

if TYPE_CHECKING:
    from moe_passes.ir.pipeline import Step

Change = Callable[[Arguments, str], Arguments]
EXAMPLES = "γ=6, bits=8, placer=eplb, near-share=0.5, batch=4 or memories.hb.capacity_gb=4"


def explain_alternative(of: CompiledFolder, text: str, progress: Progress) -> Explanation:
    """Compile with one thing changed, and say what that costs and where.

    Raises:
        InputError: there is no such thing to change, or the compile cannot be repeated.
    """
    arguments = of.record.arguments
    if arguments is None or arguments.model is None:
        why = "it is of an earlier version" if arguments is None else "its model was a Python object"
        raise InputError(f"{of.path}: cannot be compiled again: {why}; valid: a compile of a named model")
    asked = change(arguments, text)
    _check_inputs(of, asked)
    question = f"Why not {text}?"
    try:
        other = _compiled(asked, text, progress)
    except InfeasibleError as error:
        return Explanation(question=question, sentences=[f"It cannot be: {error}"], figures={"feasible": False})
    except InputError as error:
        raise InputError(f"with {text} and the arguments of {of.path / 'compile.json'}: {error}") from None
    found = differences(of, other)
    return Explanation(question=question, sentences=_sentences(of, other, found, text), figures=_figures(found))


def _check_inputs(of: CompiledFolder, asked: Arguments) -> None:
    """Refuse to compare with what would be compiled of other inputs.

    Raises:
        InputError: a file that is read again is not what the compile read.
    """
    again = {asked.model, asked.target, asked.profile, asked.accepted_lengths}
    for path, digest in (of.record.inputs or {}).items():
        if path in again and sha256_of(Path(path)) != digest:
            raise InputError(
                f"{of.path}: {path} is not what it was when this was compiled: what it changes could not be told from "
                "the alternative; valid: compile again first"
            )


def change(arguments: Arguments, text: str) -> Arguments:
    """Return what was asked for with one thing changed.

    Raises:
        InputError: there is no such thing, or the value is none for it.
    """
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InputError(f"--why-not {text[:60]}: valid: PATH=VALUE, such as {EXAMPLES}")
    if name in CHANGES:
        return CHANGES[name](arguments, value)
    first, dot, option = name.partition(".")
    from moe_passes.ir.registry import pass_names

    if dot and first in pass_names():
        return _with_option(first, option)(arguments, value)
    if dot:
        others = [given for given in arguments.overrides if given.partition("=")[0] != name]
        return _with(arguments, overrides=[*others, text])
    raise InputError(
        f"--why-not {name[:60]}: unknown{nearest(name, sorted(CHANGES))}, PASS.OPTION, or a field of the hardware file"
    )


def _with(arguments: Arguments, **changes: Any) -> Arguments:
    return arguments.model_copy(update=changes)


def _number(name: str, kind: Callable[[str], Any]) -> Change:
    def changed(arguments: Arguments, value: str) -> Arguments:
        try:
            return _with(arguments, **{name: kind(value)})
        except ValueError:
            raise InputError(f"--why-not {name.replace('_', '-')}={value[:60]}: valid: a number") from None

    return changed


def _text(name: str) -> Change:
    return lambda arguments, value: _with(arguments, **{name: value})


def _with_option(pass_name: str, option: str) -> Change:
    """Set an option of a pass in the pipeline."""

    def changed(arguments: Arguments, value: str) -> Arguments:
        from moe_passes.ir.base import Pass
        from moe_passes.ir.pipeline import default_pipeline, parse_pipeline, written

        steps = parse_pipeline(arguments.pipeline or default_pipeline())
        [asked] = parse_pipeline(f"{pass_name}{{{option}={value}}}")
        if not any(step.name == pass_name for step in steps) or not isinstance(asked, Pass):
            raise InputError(f"--why-not {pass_name}.{option}: the compile's pipeline has no {pass_name}")
        field = option.replace("-", "_")

        def renewed(step: "Step") -> "Step":
            is_it = isinstance(step, Pass) and step.name == pass_name
            return replace(step, **{field: getattr(asked, field)}) if is_it else step

        return _with(arguments, pipeline=written(map(renewed, steps)))

    return changed


CHANGES: dict[str, Change] = {
    **dict.fromkeys(("γ", "gamma", "draft-length"), _text("draft_length")),
    "bits": _with_option("select-draft", "bits"),
    "placer": _with_option("partition-experts", "placer"),
    "near-share": lambda arguments, value: _with(arguments, place=f"near-share={value}"),
    "place": _text("place"),
    "format": _text("format"),
    "profile": _text("profile"),
    "target": _text("target"),
    "batch": _number("batch", int),
    "context": _number("context", int),
    "seed": _number("seed", int),
    "alpha": _number("alpha", float),
    "time-limit": _number("time_limit", float),
}
"""What can be changed by a short name, and how."""


def _compiled(asked: Arguments, text: str, progress: Progress) -> CompiledFolder:
    values = asked.content()
    model = values.pop("model")
    result = compile(model, values.pop("target"), **values, progress=progress)
    plan = PlanDocument.model_validate(result.plan, strict=False)
    return CompiledFolder(Path(f"({text})"), plan, CostDocument.model_validate(result.cost, strict=False))


def _figures(found: DiffDocument) -> dict[str, Any]:
    kept = ("token_seconds", "difference_seconds", "contributions", "request", "decisions", "residency")
    return {"feasible": True} | {name: value for name, value in found.content().items() if name in kept}


def _sentences(of: CompiledFolder, other: CompiledFolder, found: DiffDocument, text: str) -> list[str]:
    was, now = found.token_seconds
    low, high = of.cost.token.ci95_seconds
    said = [f"With {text} a token takes {seconds(now)} instead of {seconds(was)} ({now / was - 1:+.1%})."]
    if now != was and low <= now <= high:
        said.append(
            f"Held-out rounds do not tell the two apart: by 95 % the compiled plan takes {seconds(low)} to "
            f"{seconds(high)}."
        )
    parts = [f"{part.kind} {part.seconds * 1e3:+.4g} ms" for part in found.contributions if part.seconds]
    if parts:
        said.append(f"Where, a token, on the critical path: {listed(parts, 6)}.")
    decided = [
        f"{part.name} {_plain(part.a)} → {_plain(part.b)}"
        for part in found.decisions
        if isinstance(part.a, int | float | str) and isinstance(part.b, int | float | str)
    ]
    moved = sum(move.experts for move in found.residency)
    if decided:
        said.append(f"Decided otherwise: {listed(decided, 8)}.")
    said.append(f"{moved} experts are kept otherwise, {found.placed_otherwise} lie in other banks.")
    said.append(f"It would be limited by {other.cost.limited_by} (as compiled: {of.cost.limited_by}).")
    return said


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
