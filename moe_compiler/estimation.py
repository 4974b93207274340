"""`moec estimate`: what a step of a model costs on a machine with a given placement, without solving a schedule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from moe_passes.estimate.step import Choices, Size, StepTime, step_time
from moe_passes.plan.errors import InfeasibleError, InputError
from moe_passes.plan.formats import Format, of_quantization, parse_format
from moe_passes.plan.known import known_as
from moe_passes.plan.model import DENSE_BITS
from moe_passes.plan.place import ALL_NEAR, CACHE, Place, parse_place
from moe_passes.plan.request import BATCH, CONTEXT, DRAFT_LENGTH, SEED
from moe_passes.plan.tiers import Tiers
from moe_passes.routing.statistics import least_recently_used
from moe_passes.routing.traces import RoutingTrace, cut, membership, popularity
from moe_passes.solve.draft.acceptance import source, usual_rate
from moe_passes.solve.residency.fixed import check_place, near_experts

from moe_compiler.documents.estimate import BytesEntry, DraftEntry, EstimateDocument, ProfileEntry
from moe_compiler.frontend.shapes import Shapes, shapes_of
from moe_compiler.hardware.loader import load_target
from moe_compiler.traces import acceptance, synthetic
from moe_compiler.traces import files as profiles
from moe_compiler.traces.like import REQUEST_TOKENS, like_of

MOST_STEPS = 48
"""Steps of a trace that a mean is over."""
STEP_TOKENS = 24
"""Tokens of a trace for every token of a step, at least."""
LARGEST_PROFILE = 2**22
NEAR, FAR, DEEP = 0, 1, 2

Levels = npt.NDArray[np.int64]
Used = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Asked:
    """What an estimate is of.

    Attributes:
        machine: the memories.
        shapes: of the model.
        format: of its weights.
        batch: sequences.
        context: tokens in each cache.
        seed: of a synthetic trace, and of a random placement.
    """

    machine: Tiers
    shapes: Shapes
    format: Format
    batch: int
    context: int
    seed: int

    def size(self) -> Size:
        """Return the model's bytes and work in the format."""
        of, parts, layers = self.format, self.shapes.parts, self.shapes.layers
        weights = sum(part.macs_per_token for part in parts)
        # Of what raise-moe counts, vectors stay in 16 bits whatever the format.
        vectors = sum(part.weight_bytes - part.macs_per_token * DENSE_BITS / 8 for part in parts)
        kept = sum(part.kv_elements * part.seen(self.context) for part in parts)
        expert = max(layer.parameters for layer in layers)
        return Size(
            hidden=self.shapes.model.hidden,
            layers=self.shapes.model.layers,
            dense_weights=weights,
            dense_bytes=weights * of.dense / 8 + max(vectors, 0.0),
            embedding_bytes=self.shapes.model.embedding_parameters * of.embedding / 8,
            kv_bytes=kept * of.kv / 8 + sum(part.state_bytes for part in parts),
            attention_macs=sum(part.attention_macs * part.seen(self.context) for part in parts),
            expert_weights=expert,
            expert_bytes=expert * of.experts / 8,
            sliced_expert_bytes=expert * of.sliced / 8,
            experts=sum(layer.experts for layer in layers),
        )


def estimate(
    model: Any,
    target: str | Path,
    *,
    format: str | None = None,
    place: str | None = None,
    batch: int = 1,
    context: int = 1024,
    draft_length: int = 0,
    alpha: float | None = None,
    profile: str | Path | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Estimate a step.

    Args:
        model: as for `compile`.
        target: a shipped name or the path of a hardware file.
        format: of the weights (docs/estimate.md); None for that of the configuration.
        place: where experts lie (docs/estimate.md); None for the fastest of a few.
        batch: sequences decoded together.
        context: tokens in the KV cache of each.
        draft_length: γ; 0 for plain decoding.
        alpha: measured acceptance rate; None for a published one.
        profile: the path of an `.npz`, or the name of a synthetic one; None for a synthetic one.
        seed: of a synthetic profile and of a random placement.
        overrides: `PATH=VALUE` changes of single fields of the hardware file.

    Raises:
        InputError: input that is wrong.
        InfeasibleError: the model does not fit the machine.
    """
    BATCH.check("--batch", batch)
    CONTEXT.check("--context", context)
    DRAFT_LENGTH.check("--draft-length", draft_length)
    SEED.check("--seed", seed)
    rate = None if alpha is None else acceptance.of_rate(alpha, draft_length).rate
    given = None if place is None else parse_place(place)
    stated = None if format is None else parse_format(format)
    machine = load_target(str(target), tuple(overrides)).tiers()
    profiles.check_exists(None if profile is None else str(profile))
    shapes = shapes_of(model)
    asked = Asked(machine, shapes, stated or of_quantization(shapes.method), batch, context, seed)
    loaded = profile_of(asked, profile, draft_length + 1)
    routing = Routing(asked, loaded.trace)
    chosen = given or _fastest(routing, draft_length)
    check_fits(asked, routing, chosen)
    of = ProfileEntry(name=loaded.record.name, kind=loaded.record.kind)
    return _document(routing, chosen, draft_length, rate, of).content()


def profile_of(asked: Asked, given: str | Path | None, width: int) -> profiles.Profile:
    """Load the routing: a file's, a named one, or a short synthetic one."""
    if given is None:
        tokens = -(-max(1024, STEP_TOKENS * asked.batch * width) // 1024) * 1024
        if tokens > LARGEST_PROFILE:
            raise InputError(f"--batch {asked.batch}: {width} tokens a sequence are too many; valid: fewer")
        # Steps are cut from the second half: nearly a request for each sequence of the batch.
        request_tokens = min(REQUEST_TOKENS, tokens // 2 // asked.batch)
        given = synthetic.Made(tokens, asked.seed, like_of(known_as(asked.shapes.model)), request_tokens).name
    return profiles.load(str(given), asked.shapes.layers)


class Routing:
    """Which experts the steps of a trace choose, and where a placement has them."""

    def __init__(self, asked: Asked, trace: RoutingTrace) -> None:
        self.asked, self.trace = asked, trace
        self.size = asked.size()
        self.popularity = popularity(trace, trace.tokens // 2)
        self._used: dict[int, Used] = {}
        self._choices: dict[tuple[Place, int], tuple[Choices, float]] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """MoE layers, and experts of each."""
        return self.popularity.shape[0], self.popularity.shape[1]

    def used(self, width: int) -> Used:
        """Return which experts each step of so many tokens a sequence chooses: [step, layer, expert]."""
        if width not in self._used:
            first = self.trace.tokens // 2
            steps = cut(first, self.trace.tokens - first, self.asked.batch, width)[:MOST_STEPS]
            if not len(steps):
                raise InputError(
                    f"profile has {self.trace.tokens} tokens: too few for a step of batch {self.asked.batch} and "
                    f"{width} tokens a sequence; valid: at least {2 * self.asked.batch * width}"
                )
            chosen = self.trace.experts[steps.reshape(len(steps), -1)]
            self._used[width] = np.stack([membership(step, self.shape[1]).any(axis=0) for step in chosen])
        return self._used[width]

    def levels(self, place: Place) -> Levels:
        """Return where each expert lies: [layer, expert], NEAR, FAR or DEEP; of a cache, all far."""
        near = np.zeros(self.shape, dtype=np.bool_)
        if place.kind != CACHE:
            near = near_experts(place, self.popularity, self.asked.seed)
        levels = np.where(near, NEAR, FAR)
        beyond = self._beyond_far(int((~near).sum()))
        if beyond:
            # The least popular of those that are not near go to the deepest memory.
            order = np.argsort(self.popularity.ravel(), kind="stable")
            far = order[levels.ravel()[order] == FAR]
            levels.ravel()[far[:beyond]] = DEEP
        return levels

    def _beyond_far(self, missing: int) -> int:
        tiers = self.asked.machine.tiers
        if len(tiers) < DEEP + 1:
            return 0
        room = max(0.0, tiers[FAR].capacity_bytes - self.size.embedding_bytes)
        return max(0, missing - int(room // self.size.expert_bytes))

    def choices(self, place: Place, width: int) -> tuple[Choices, float]:
        """Return the mean step's experts by where they lie, and the share that was near."""
        if (place, width) not in self._choices:
            self._choices[place, width] = self._counted(place, width)
        return self._choices[place, width]

    def _counted(self, place: Place, width: int) -> tuple[Choices, float]:
        used, levels = self.used(width), self.levels(place)
        is_near = np.broadcast_to(levels == NEAR, used.shape)
        if place.kind == CACHE:
            is_near = lru(used, place.number)
        steps = len(used)
        near = float((used & is_near).sum()) / steps
        far, deep = (float((used & ~is_near & (levels == level)).sum()) / steps for level in (FAR, DEEP))
        if place.kind == CACHE:
            far = float((used & ~is_near & (levels != DEEP)).sum()) / steps
        missing = float((used & ~is_near).any(axis=2).sum()) / steps
        uses = self.asked.batch * width * sum(layer.top_k for layer in self.asked.shapes.layers)
        found = Choices(near, far, deep, float(uses), missing)
        return found, near / found.distinct if found.distinct else 1.0

    def time(self, place: Place, width: int) -> StepTime:
        """Time a step of so many tokens a sequence."""
        asked = self.asked
        chosen, _ = self.choices(place, width)
        loads = place.loads or not self.computes_far()
        return step_time(asked.machine, self.size, asked.format, asked.batch * width, asked.batch, chosen, loads)

    def computes_far(self) -> bool:
        """Say whether the far memory has an engine of its own."""
        tiers = self.asked.machine.tiers
        return len(tiers) > 1 and tiers[FAR].engine is not None

    def near_experts(self, place: Place) -> int:
        """Return how many experts are near at any time."""
        if place.kind == CACHE:
            return min(place.number, self.shape[1]) * self.shape[0]
        return int((self.levels(place) == NEAR).sum())


def lru(used: Used, slots: int) -> Used:
    """Return which chosen experts a cache of so many slots a layer holds when a step begins: [step, layer, expert]."""
    hits = np.zeros_like(used)
    for layer in range(used.shape[1]):
        steps = [np.flatnonzero(step).tolist() for step in used[:, layer]]
        for step, held in enumerate(least_recently_used(steps, slots)):
            hits[step, layer, steps[step]] = held
    return hits


def check_fits(asked: Asked, routing: Routing, place: Place) -> None:
    """Refuse a placement that a memory does not hold, with every memory in one report.

    Raises:
        InputError: it names layers or slots beyond the model, or memories that are not there.
        InfeasibleError: it is larger than a memory.
    """
    tiers = asked.machine.tiers
    check_place(place, routing.shape, tuple(tier.name for tier in tiers), routing.computes_far())
    needed = _needed(routing, place)
    short = [
        f"{asked.shapes.model.name} in {asked.format.name} does not fit into memory '{tier.name}': needed {size:,.0f} "
        f"bytes, available {tier.capacity_bytes:,}; levers: memories.{tier.name}.capacity_gb of at least "
        f"{math.ceil(size / 1e7) / 100:g}, a smaller --format, --batch or --context, or another --place"
        for tier, size in zip(tiers, needed, strict=True)
        if size > tier.capacity_bytes
    ]
    if short:
        raise InfeasibleError("\n".join(short))


def _needed(routing: Routing, place: Place) -> list[float]:
    """Return the bytes that each memory is to hold."""
    size, asked = routing.size, routing.asked
    near = size.dense_bytes + asked.batch * size.kv_bytes + routing.near_experts(place) * size.expert_bytes
    needed = [near, *[0.0] * (len(asked.machine.tiers) - 1)]
    levels = routing.levels(place)
    needed[min(FAR, len(needed) - 1)] += size.embedding_bytes
    for level in (FAR, DEEP):
        if (levels == level).any():
            needed[level] += float((levels == level).sum()) * size.expert_bytes
    return needed


def _fastest(routing: Routing, length: int) -> Place:
    """Return the fastest of: all near, the most popular that fit near, and a cache of as many."""
    if len(routing.asked.machine.tiers) == 1:
        return parse_place(ALL_NEAR)
    size, near = routing.size, routing.asked.machine.near
    room = near.capacity_bytes - size.dense_bytes - routing.asked.batch * size.kv_bytes
    slots = int(max(0.0, room) // size.expert_bytes) // routing.shape[0]
    if slots >= routing.shape[1]:
        return parse_place(ALL_NEAR)
    share = math.floor(slots / routing.shape[1] * 1000) / 1000
    candidates = [parse_place("experts=loaded")] if not slots else [parse_place(f"near-share={share:g}")]
    candidates += [parse_place(f"cache={slots}")] if slots else []
    candidates += [parse_place("experts=far")] if routing.computes_far() and not slots else []
    return min(candidates, key=lambda place: routing.time(place, length + 1).seconds)


def _document(
    routing: Routing, place: Place, length: int, alpha: float | None, profile: ProfileEntry
) -> EstimateDocument:
    asked, size = routing.asked, routing.size
    chosen, hits = routing.choices(place, length + 1)
    time = routing.time(place, length + 1)
    draft = _draft(routing, place, length, alpha) if length else None
    drafting = length * draft_seconds(routing, place) if draft else 0.0
    tokens = asked.batch * (1 + (draft.acceptance_rate * length if draft else 0.0))
    seconds = time.seconds + drafting
    needed = [*_needed(routing, place), 0.0, 0.0]
    moved = size.dense_bytes + asked.batch * size.kv_bytes + chosen.distinct * size.expert_bytes
    return EstimateDocument(
        model=asked.shapes.model.name,
        target=asked.machine.name,
        format=asked.format.name,
        place=place.text,
        batch=asked.batch,
        context=asked.context,
        bytes=BytesEntry(
            near=round(needed[NEAR]),
            far=round(needed[FAR]),
            deep=round(needed[DEEP]),
            expert=round(size.expert_bytes),
            dense=round(size.dense_bytes),
            kv=round(asked.batch * size.kv_bytes),
            per_token=round(moved / tokens),
        ),
        step_seconds=time.seconds,
        fixed_seconds=time.fixed,
        tokens_per_second=tokens / seconds,
        hit_rate=hits,
        distinct_experts=chosen.distinct / routing.shape[0],
        limited_by=time.limited_by,
        draft=draft,
        profile=profile,
        notes=[*asked.shapes.notes, *_rate_notes(asked)],
    )


def _rate_notes(asked: Asked) -> list[str]:
    """Say which weights run at another width's rate, since the hardware file has none of theirs."""
    engine, notes = asked.machine.near.engine, []
    assert engine is not None
    for what, bits in (("experts", asked.format.experts), ("dense weights", asked.format.dense)):
        width = engine.runs_as(bits)
        if width != math.floor(bits):
            notes.append(f"{engine.name} has no rate for {what} of {bits:g} bits: they run at that of {width} bits")
    return notes


def draft_seconds(routing: Routing, place: Place) -> float:
    """Seconds of a draft step: dense weights and near experts alone, as slices where the format has them."""
    asked, size = routing.asked, routing.size
    of = asked.format
    if of.dense_sliced:
        size = replace(size, dense_bytes=size.dense_bytes * of.dense_sliced / of.dense)
        of = replace(of, dense=of.dense_sliced)
    if of.sliced:
        size, of = replace(size, expert_bytes=size.sliced_expert_bytes), replace(of, experts=of.sliced)
    chosen, _ = routing.choices(place, 1)
    near = min(chosen.distinct, float(routing.near_experts(place)))
    drafted = Choices(near, 0.0, 0.0, chosen.uses, 0.0)
    return step_time(asked.machine, size, of, asked.batch, asked.batch, drafted, loads=True).seconds


def _draft(routing: Routing, place: Place, length: int, alpha: float | None) -> DraftEntry:
    share = routing.near_experts(place) / routing.size.experts
    known = known_as(routing.asked.shapes.model)
    verify = [routing.time(place, width).seconds for width in range(1, length + 2)]
    least = ((length * draft_seconds(routing, place) + verify[-1]) / verify[0] - 1) / length
    return DraftEntry(
        length=length,
        acceptance_rate=usual_rate(known, share) if alpha is None else alpha,
        acceptance_source=source(known) if alpha is None else "given",
        verify_seconds=verify,
        break_even_acceptance=max(0.0, least) if least <= 1 else None,
    )
