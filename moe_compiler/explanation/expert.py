"""Why an expert is near, or is not: its rank, the cut, and what it would gain."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from moe_passes.plan.accounts import Criterion, splits
from moe_passes.plan.decisions import ALL, MSB, NONE, RESIDENCY
from moe_passes.plan.errors import InputError

from moe_compiler.documents.explanation import Explanation
from moe_compiler.documents.folder import CompiledFolder
from moe_compiler.explanation.words import listed, seconds, size, times

NAMES = {NONE: "not near", MSB: "near as its most significant slice", ALL: "near, all of it"}


@dataclass(frozen=True)
class _Residents:
    """What select-draft weighed of every expert."""

    of: CompiledFolder

    @cached_property
    def levels(self) -> npt.NDArray[np.int64]:
        """What is kept: [MoE layer, expert]."""
        return np.stack([layer.levels() for layer in self.of.plan.layers])

    @cached_property
    def popularity(self) -> npt.NDArray[np.int64]:
        """Training tokens that chose each: [MoE layer, expert]."""
        return np.array([layer.popularity for layer in self.of.plan.layers], dtype=np.int64)

    @cached_property
    def criterion(self) -> Criterion | None:
        """By what they were chosen."""
        found = self.of.plan.criterion
        return None if found is None else Criterion(**found.content())

    def last_kept(self, criterion: Criterion) -> tuple[int, int, float]:
        """Return the expert whose last step is worth the least a byte of all that are kept, and how much."""
        slice_, whole = criterion.worth(self.popularity)
        is_split = splits(slice_, criterion.slice_bytes, whole, criterion.whole_bytes)
        rest = (whole - slice_) / max(1, criterion.whole_bytes - criterion.slice_bytes)
        density = np.where(self.levels == ALL, np.where(is_split, rest, whole / criterion.whole_bytes), np.inf)
        density = np.where(self.levels == MSB, slice_ / criterion.slice_bytes, density)
        row, expert = divmod(int(density.argmin()), density.shape[1])
        return row, expert, float(density[row, expert])


def parse_expert(text: str) -> tuple[int, int]:
    """Read LAYER.EXPERT.

    Raises:
        InputError: it is not of that form.
    """
    layer, _, expert = text.partition(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (layer, expert)):
        raise InputError(f"--expert {text[:60]}: valid: LAYER.EXPERT, such as 5.12")
    return int(layer), int(expert)


def explain_expert(of: CompiledFolder, layer: int, expert: int) -> Explanation:
    """Say where an expert is and why.

    Raises:
        InputError: there is no such layer or expert, or the compile kept no account.
    """
    row = _row(of, layer)
    entry = of.plan.layers[row]
    if not 0 <= expert < len(entry.residency):
        raise InputError(f"--expert {layer}.{expert}: layer {layer} has experts 0 to {len(entry.residency) - 1}")
    if not entry.popularity:
        raise InputError(f"{of.path}: keeps no account of how experts were chosen; valid: compile again")
    kept = _Residents(of)
    counts, level = kept.popularity[row], int(kept.levels[row, expert])
    rank = int((counts > counts[expert]).sum()) + 1
    figures: dict[str, Any] = {
        "layer": layer,
        "expert": expert,
        "residency": RESIDENCY[level],
        "banks": entry.placement[expert],
        "tokens": int(counts[expert]),
        "rank_in_layer": rank,
        "experts_in_layer": len(counts),
        "kept_in_layer": int((kept.levels[row] > NONE).sum()),
        "needed_permille": entry.needed_permille[expert],
    }
    loads, wasted = _loads(of, layer, expert)
    figures |= {"held_out_loads": loads, "held_out_wasted": wasted, "held_out_rounds": len(of.held_out.rounds)}
    place = f", in {listed([_banks(copy) for copy in entry.placement[expert]])}" if entry.placement[expert] else ""
    sentences = [
        f"Expert {expert} of layer {layer} is {NAMES[level]}{place}.",
        f"{counts[expert]} training tokens chose it: rank {rank} of {len(counts)} in its layer, of which "
        f"{figures['kept_in_layer']} are near. Verify needed it in {entry.needed_permille[expert]} of 1,000 training "
        "rounds (a round counts once, however many of its tokens choose it).",
        *_why(kept, row, expert, figures),
        f"In {len(of.held_out.rounds)} held-out rounds it was {_loaded(loads, wasted)}.",
    ]
    if of.plan.hot_set.window_tokens:
        sentences.append(
            "That is the set that a prompt starts with: it then follows the routing of the last "
            f"{of.plan.hot_set.window_tokens} tokens, and changes up to {of.plan.hot_set.most} experts a layer."
        )
    return Explanation(question=f"Why is expert {layer}.{expert} where it is?", sentences=sentences, figures=figures)


def _row(of: CompiledFolder, layer: int) -> int:
    layers = [entry.layer for entry in of.plan.layers]
    if layer not in layers:
        raise InputError(f"--expert: layer {layer} has no routed experts; valid: {listed(list(map(str, layers)), 80)}")
    return layers.index(layer)


def _why(kept: _Residents, row: int, expert: int, figures: dict[str, Any]) -> list[str]:
    """Say by what experts were chosen and how this one compares; adds what that is made of to the figures."""
    criterion = kept.criterion
    if criterion is None:
        return ["Experts were not weighed against each other: a placement was asked for, or each layer keeps as many."]
    figures |= _compared(kept, criterion, row, expert)
    weight = criterion.coverage_weight
    by = (
        "how many tokens choose them, so that drafts find the most near (loads that verify is saved tip the scale)"
        if criterion.in_points
        else f"the seconds of loads that keeping them saves a round of {criterion.tokens} tokens"
        + (f", with weight {weight:g} on what drafts find near" if weight else "")
    )
    said = [
        f"Experts of all layers compete for {size(criterion.room_bytes)} by {by}; by share of its layer's choices "
        f"this one is number {figures['rank_of_all']} of {figures['experts']}."
    ]
    price = figures["price_seconds_per_byte"]
    if "next_step_bytes" not in figures:
        worth = figures["whole_worth_seconds"]
        return [
            *said,
            f"All of it is worth {_value(criterion, worth, criterion.whole_bytes)}; {_cut(criterion, price)}.",
        ]
    return [*said, *_next_step(criterion, figures)]


def _compared(kept: _Residents, criterion: Criterion, row: int, expert: int) -> dict[str, Any]:
    """Work out what an expert is worth, and how it stands to the cut and to the least that is kept."""
    slice_, whole = (float(values[row, expert]) for values in criterion.worth(kept.popularity))
    share = kept.popularity / np.maximum(1, kept.popularity.sum(axis=1, keepdims=True))
    figures = {
        "slice_worth_seconds": slice_,
        "whole_worth_seconds": whole,
        "price_seconds_per_byte": criterion.price_seconds_per_byte,
        "coverage_weight": criterion.coverage_weight,
        "rank_of_all": int((share > share[row, expert]).sum()) + 1,
        "experts": int(kept.popularity.size),
    }
    step = _step(criterion, int(kept.levels[row, expert]), slice_, whole)
    if step is None:
        return figures
    other_row, other, least = kept.last_kept(criterion)
    return figures | {
        "next_step": step[2],
        "next_step_worth_seconds": step[0],
        "next_step_bytes": step[1],
        "last_kept": f"{kept.of.plan.layers[other_row].layer}.{other}",
        "last_kept_seconds_per_byte": least,
        "exchange_seconds": step[0] - least * step[1],
        "tokens": int(kept.popularity[row, expert]),
        "tokens_for_the_cut": _tokens_for_the_cut(kept, criterion, row, expert),
    }


def _next_step(criterion: Criterion, figures: dict[str, Any]) -> list[str]:
    """Say what keeping more would gain, and what it would take the place of."""
    worth, needed = figures["next_step_worth_seconds"], figures["next_step_bytes"]
    least, tokens = figures["last_kept_seconds_per_byte"], figures["tokens_for_the_cut"]
    said = [
        f"Keeping {figures['next_step']} would be worth {_value(criterion, worth, needed)}, for {size(needed)}; "
        f"{_cut(criterion, criterion.price_seconds_per_byte)}. The least that is kept is expert {figures['last_kept']}."
    ]
    if figures["exchange_seconds"] < 0 and not criterion.in_points:
        said.append(
            f"There the same bytes save {seconds(least * needed)}: to keep this instead would lose "
            f"{seconds(-figures['exchange_seconds'])} of loads a round."
        )
    if tokens is not None and tokens > figures["tokens"]:
        said.append(f"It would make the cut with {tokens} tokens instead of {figures['tokens']}.")
    return said


def _value(criterion: Criterion, worth: float, needed: int) -> str:
    """Word a value; what is mostly coverage is no time."""
    density = f"{worth / needed * 1e12:.4g}"
    return f"{density} points a byte" if criterion.in_points else f"{seconds(worth)} a round, {density} ps/byte"


def _cut(criterion: Criterion, price: float) -> str:
    return f"the cut is at {price * 1e12:.4g}" + (" points" if criterion.in_points else " ps/byte")


def _tokens_for_the_cut(kept: _Residents, criterion: Criterion, row: int, expert: int) -> int | None:
    """Return the least count at which the expert's next step is worth the price; None where no count is."""
    low, high = 0, int(kept.popularity[row].sum()) // criterion.top_k
    if not _makes_it(kept, criterion, row, expert, high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _makes_it(kept, criterion, row, expert, middle) else (middle + 1, high)
    return low


def _makes_it(kept: _Residents, criterion: Criterion, row: int, expert: int, count: int) -> bool:
    changed = kept.popularity[row : row + 1].copy()
    changed[0, expert] = count
    slice_, whole = (float(values[0, expert]) for values in criterion.worth(changed))
    step = _step(criterion, int(kept.levels[row, expert]), slice_, whole)
    return step is not None and step[0] / step[1] >= criterion.price_seconds_per_byte


def _step(criterion: Criterion, level: int, slice_: float, whole: float) -> tuple[float, int, str] | None:
    """Return what keeping more of an expert than a level is worth, its bytes and a word; None where all is kept."""
    if level == ALL:
        return None
    if level == MSB:
        return whole - slice_, criterion.whole_bytes - criterion.slice_bytes, "the rest of it"
    if criterion.is_split(slice_, whole):
        return slice_, criterion.slice_bytes, "its slice"
    return whole, criterion.whole_bytes, "all of it"


def _loads(of: CompiledFolder, layer: int, expert: int) -> tuple[int, int]:
    """Count its loads in held-out rounds, and those in vain."""
    kinds = of.held_out.kinds
    load = kinds.index("load") if "load" in kinds else -1
    loads = sum(
        kind == load and (at, which) == (layer, expert)
        for round_ in of.held_out.rounds
        for kind, at, which in zip(round_.tasks.kind, round_.tasks.layer, round_.tasks.expert, strict=True)
    )
    vain = sum((load.layer, load.expert) == (layer, expert) for r in of.held_out.rounds for load in r.wasted)
    return loads, vain


def _loaded(loads: int, wasted: int) -> str:
    if not loads:
        return "never loaded"
    return f"loaded {times(loads)}, {times(wasted)} in vain" if wasted else f"loaded {times(loads)}, never in vain"


def _banks(copy: list[int]) -> str:
    if len(copy) == 1:
        return f"bank {copy[0]}"
    is_run = copy == list(range(copy[0], copy[-1] + 1))
    return f"banks {copy[0]} to {copy[-1]}" if is_run else f"{len(copy)} banks"
