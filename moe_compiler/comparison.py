"""`moec diff`: what differs between two compiles of a model, and what that costs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moe_passes.plan.errors import InputError

from moe_compiler.documents.cost import CostDocument
from moe_compiler.documents.diff import Contribution, DiffDocument, Difference, Move
from moe_compiler.documents.folder import CompiledFolder, read_folder
from moe_compiler.documents.plan import PlanDocument

ASKED = ("target", "overrides", "batch", "context", "seed")
DECIDED = ("draft", "hb", "dispatch", "hot_set")
NOT_NEAR = "none"


def compare(a: str | Path, b: str | Path) -> dict[str, Any]:
    """Compare two compiled folders of one model; returns the content of `moec diff --json`.

    Raises:
        InputError: one is no compile of ours, or they are of different models.
    """
    first, second = read_folder(Path(a)), read_folder(Path(b))
    if first.plan.model != second.plan.model or _shape(first.plan) != _shape(second.plan):
        names = [f"{of.path} of {of.plan.model} ({len(of.plan.layers)} MoE layers)" for of in (first, second)]
        raise InputError(f"{' and '.join(names)} cannot be compared; valid: two compiles of one model")
    return differences(first, second).content()


def _shape(plan: PlanDocument) -> list[tuple[int, int]]:
    return [(layer.layer, len(layer.residency)) for layer in plan.layers]


def differences(a: CompiledFolder, b: CompiledFolder) -> DiffDocument:
    """Say what differs between two compiles of one model."""
    seconds = a.cost.token.seconds, b.cost.token.seconds
    return DiffDocument(
        a=str(a.path),
        b=str(b.path),
        model=a.plan.model,
        request=[*_differences(_asked(a), _asked(b))],
        decisions=[*_differences(_decided(a), _decided(b))],
        residency=_moves(a.plan, b.plan),
        placed_otherwise=sum(one != other for one, other in _placed(a.plan, b.plan)),
        tasks=[*_differences(_tasks(a.plan), _tasks(b.plan))],
        token_seconds=seconds,
        difference_seconds=seconds[1] - seconds[0],
        contributions=_contributions(a.cost, b.cost),
    )


def _asked(of: CompiledFolder) -> dict[str, Any]:
    plan, profile = of.plan, of.plan.profile
    known = {"format": of.cost.format, "cost_model": of.cost.cost_model, "acceptance": of.cost.draft.acceptance_source}
    return (
        {name: getattr(plan, name) for name in ASKED} | known | {"profile": f"{profile.name} ({profile.sha256[:12]})"}
    )


def _decided(of: CompiledFolder) -> dict[str, Any]:
    """Return what was decided, and what was expected of it."""
    parts = {part: getattr(of.plan, part).content() for part in DECIDED}
    expected = {"acceptance_rate": of.cost.draft.acceptance_rate, "round_tokens": of.cost.round.tokens}
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()} | expected


def _tasks(plan: PlanDocument) -> dict[str, int]:
    return dict(sorted(Counter(task.kind for task in plan.round.tasks).items()))


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield Difference(name=name, a=a.get(name), b=b.get(name))


def _moves(a: PlanDocument, b: PlanDocument) -> list[Move]:
    """Count the experts by what was kept of them and what is now, the most first."""
    pairs = Counter(
        pair
        for one, other in zip(a.layers, b.layers, strict=True)
        for pair in zip(one.residency, other.residency, strict=True)
    )
    return [Move(a=was, b=now, experts=count) for (was, now), count in pairs.most_common() if was != now]


def _placed(a: PlanDocument, b: PlanDocument) -> Iterator[tuple[Any, Any]]:
    """Iterate over the replicas of the experts that both keep near."""
    for one, other in zip(a.layers, b.layers, strict=True):
        pairs = zip(one.replicas(), other.replicas(), strict=True)
        levels = zip(one.residency, other.residency, strict=True)
        yield from (pair for pair, both in zip(pairs, levels, strict=True) if NOT_NEAR not in both)


def _contributions(a: CostDocument, b: CostDocument) -> list[Contribution]:
    """Split the difference in seconds a token by the kinds of tasks on the critical path of held-out rounds."""
    was, now = ({part.kind: part.seconds / of.round.tokens for part in of.critical_path} for of in (a, b))
    changes = {kind: now.get(kind, 0.0) - was.get(kind, 0.0) for kind in dict.fromkeys([*was, *now])}
    return [
        Contribution(kind=kind, seconds=seconds)
        for kind, seconds in sorted(changes.items(), key=lambda item: -abs(item[1]))
    ]
