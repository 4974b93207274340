"""A compilation as its program sees it: `plan.npz`, beside `schedule.py`."""

import json
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_compiler.runtime.dispatcher import Dispatcher
from moe_compiler.runtime.hot_set import HotSetRule
from moe_compiler.runtime.prefetch import Likelihoods

Ints = npt.NDArray[np.int64]
ALL = 2
"""Residency of an expert of which HB keeps all; 1: its most significant slice; 0: nothing."""


@dataclass(frozen=True)
class PlannedTask:
    """A task of the round that was scheduled; times are nanoseconds of the modelled machine.

    Attributes:
        kind: what it does: `attention`, `draft-experts`, `load`, `expert`, `write`, `gather` or `head`.
        step: the draft step, or γ for verify.
        layer: decoder layer.
        expert: that it is about, −1 where it is not about one.
        replaces: of a `write`, the resident that gives way, −1 otherwise.
        start: when it starts.
        after: task numbers that it waits for.
    """

    kind: str
    step: int
    layer: int
    expert: int
    replaces: int
    start: int
    after: tuple[int, ...]


@dataclass(frozen=True)
class PlannedRound:
    """The round that was scheduled.

    Attributes:
        tasks: in program order.
        slots: of every load, by task number: (offset, bytes, the task that uses it last) of each piece in staging.
        verify: [layer, token, k], experts that the target model chose.
        drafted: [step, layer, batch, k], experts that the draft computed, −1 where there are fewer.
        asked: [step, layer, batch, k], experts that the draft's routers asked for.
    """

    tasks: tuple[PlannedTask, ...]
    slots: dict[int, list[tuple[int, int, int]]]
    verify: Ints
    drafted: Ints
    asked: Ints


@dataclass(frozen=True)
class Plan:
    """Decisions of a compilation.

    Attributes:
        batch: sequences decoded together.
        staging_bytes: of staging.
        staging_slots: experts that are staged at most.
        resident: experts in HB, by decoder layer.
        whole: those of them of which HB keeps all, by decoder layer.
        draft_bits: bits of an expert's weight in the draft: 4 for the msb slice, 8 for all.
        dense_bits: the same of a dense weight.
        needed_permille: training rounds of 1,000 in which verify needed each expert, by decoder layer.
        likelihoods: how likely verify is to need an expert.
        hot_set: how residents follow the routing.
        dispatch: replica dispatch of a draft step, by decoder layer.
        carried: (layer, expert) of loads that run in the tail of the round before.
        round: the round that was scheduled.
        config: the model's `config.json`.
    """

    batch: int = 1
    staging_bytes: int = 0
    staging_slots: int = 0
    resident: dict[int, list[int]] = field(default_factory=dict)
    whole: dict[int, list[int]] = field(default_factory=dict)
    draft_bits: int = 4
    dense_bits: int = 8
    needed_permille: dict[int, list[int]] = field(default_factory=dict)
    likelihoods: Likelihoods = field(default_factory=Likelihoods)
    hot_set: HotSetRule = field(default_factory=HotSetRule)
    dispatch: dict[int, Dispatcher] = field(default_factory=dict)
    carried: tuple[tuple[int, int], ...] = ()
    round: PlannedRound | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def half_slots(self) -> int:
        """Slots of staging: an expert comes in two pieces, of which residents miss one."""
        return 2 * self.staging_slots

    @staticmethod
    def load(path: Path) -> "Plan":
        """Read `plan.npz`.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: is not the plan of this program: {error}; valid: compile again") from None
        return Plan.of(arrays, path)

    @staticmethod
    def of(arrays: dict[str, Any], path: Path) -> "Plan":
        """Make a plan of the arrays of `plan.npz`.

        Raises:
            ValueError: they are not those of a plan.
        """
        try:
            return _plan(arrays)
        except (LookupError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: is not the plan of this program: {error}; valid: compile again") from None


def frozen(plan: Plan) -> Plan:
    """Return a plan whose residents stay."""
    return replace(plan, hot_set=HotSetRule())


def _plan(data: dict[str, Any]) -> Plan:
    layers: list[int] = data["layers"].tolist()
    facts = json.loads(str(data["facts"]))
    return Plan(
        batch=facts["batch"],
        staging_bytes=facts["staging_bytes"],
        staging_slots=facts["staging_slots"],
        resident={layer: np.flatnonzero(row).tolist() for layer, row in zip(layers, data["residency"], strict=True)},
        whole={la: np.flatnonzero(row == ALL).tolist() for la, row in zip(layers, data["residency"], strict=True)},
        draft_bits=facts["draft_bits"],
        dense_bits=facts["dense_bits"],
        needed_permille=dict(zip(layers, data["needed_permille"].tolist(), strict=True)),
        likelihoods=Likelihoods(
            data["likelihood_permille"].tolist(),
            (data["share_borders"].tolist(), data["recent_borders"].tolist(), data["ask_borders"].tolist()),
        ),
        hot_set=HotSetRule(**facts["hot_set"]),
        dispatch=_dispatchers(layers, data),
        carried=tuple((int(layer), int(expert)) for layer, expert in data["carried"]),
        round=_round(data, facts["kinds"]),
        config=json.loads(str(data["config"])),
    )


def _dispatchers(layers: list[int], data: dict[str, Any]) -> dict[int, Dispatcher]:
    """Make the replica dispatcher of every layer; a draft reads as much of all residents, so parts count in experts."""
    sets = [tuple(np.flatnonzero(row).tolist()) for row in data["bank_sets"]]
    if not sets:
        return {}
    experts, banks = data["residency"].shape[1], data["bank_sets"].shape[1]
    copies: list[list[list[tuple[int, ...]]]] = [[[] for _ in range(experts)] for _ in layers]
    for row, expert, number in data["replicas"].tolist():
        copies[row][expert].append(sets[number])
    return {layer: Dispatcher(banks, copies[row], [1.0] * experts) for row, layer in enumerate(layers)}


def _round(data: dict[str, Any], kinds: list[str]) -> PlannedRound:
    waits = np.split(data["task_after"], data["task_after_ends"][:-1]) if len(data["task_after_ends"]) else []
    tasks = tuple(
        PlannedTask(kinds[kind], step, layer, expert, replaces, start, tuple(after.tolist()))
        for (kind, step, layer, expert, replaces, start), after in zip(data["tasks"].tolist(), waits, strict=True)
    )
    slots: dict[int, list[tuple[int, int, int]]] = {}
    for load, last, size, offset in data["staged"].tolist():
        slots.setdefault(load, []).append((offset, size, last))
    return PlannedRound(tasks, slots, data["routing_verify"], data["routing_drafted"], data["routing_asked"])
