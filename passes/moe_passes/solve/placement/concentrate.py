"""Layers that share the banks unevenly: each takes fewer banks than there are, and other layers the rest.

Capacity belongs to banks, not to layers. Spread over all banks, a layer whose experts fill them has few experts in
each, and every token hears many. On an eighth of the banks it has eight times as many experts in each, a token hears
fewer, and eight layers fit side by side. What it costs is that fewer banks read at once.

Layers of one model are much alike, so a few of them tell which share of the banks is worth a search. A layer on fewer
banks is a layer of its own, on a smaller machine: whatever places layers on all banks places it.
"""

from dataclasses import dataclass, replace

import numpy as np

from moe_passes.plan.decisions import Replicas
from moe_passes.routing.traces import evenly
from moe_passes.solve.placement import baselines
from moe_passes.solve.placement.bound import lower_bound
from moe_passes.solve.placement.problem import IntArray, LayerProblem, Placement
from moe_passes.solve.placement.starts import starts
from moe_passes.solve.placement.step_time import external_seconds, mean_seconds

ASKED_LAYERS = 3
"""Layers that every share of the banks is tried on."""
GLANCE_STEPS = 64
WORTH = 1.02
"""What the quick look must promise, as a ratio of seconds."""
FEWEST_BANKS = 2


@dataclass(frozen=True)
class Span:
    """A layer's part of the banks: `width` of them from `first` on; layers of one block share none.

    Attributes:
        block: layers that lie side by side have one number.
    """

    block: int
    first: int
    width: int


def spans(layers: list[LayerProblem]) -> list[Span | None]:
    """Return the part of the banks that each layer should try, None for all of them."""
    asked = [layers[row] for row in evenly(len(layers), ASKED_LAYERS)]
    banks = layers[0].rates.banks
    gains: dict[int, float] = {1: 1.0}
    if len(layers) > 1 and any(_is_open(layer) for layer in asked):
        wide = sum(_quick(layer) for layer in asked)
        for count in (1 << n for n in range(1, len(layers).bit_length())):
            if banks % count or banks // count < FEWEST_BANKS:
                break
            narrow = [narrowed(layer, banks // count) for layer in asked]
            if sum(lower_bound(layer) for layer in narrow) * WORTH < wide:
                gains[count] = wide / sum(_quick(layer) for layer in narrow)
    worth = [count for count, gain in gains.items() if gain >= WORTH]
    result: list[Span | None] = [None] * len(layers)
    row, block = 0, 0
    # What is left over by blocks of the best size forms smaller ones.
    for count in sorted(worth, key=lambda count: -gains[count]):
        while len(layers) - row >= count:
            width = banks // count
            for place in range(count):
                result[row + place] = Span(block, place * width, width)
            row, block = row + count, block + 1
    return result


def narrowed(layer: LayerProblem, width: int) -> LayerProblem:
    """Return a layer on so many banks, with the slack of each that it had."""
    size, banks = float(layer.sizes.sum()), layer.rates.banks
    limit = layer.bank_limit_bytes - size / banks + size / width
    return replace(layer, rates=replace(layer.rates, banks=width), bank_limit_bytes=limit)


def chosen(wide: list[Placement], narrow: list[Placement | None], where: list[Span | None]) -> list[Placement]:
    """Take the narrow placements of every block whose layers are faster together, and none slower than a baseline."""
    result = list(wide)
    for block in sorted({span.block for span in where if span is not None}):
        rows = [row for row, span in enumerate(where) if span is not None and span.block == block]
        pairs = [(wide[row], placed) for row in rows if (placed := narrow[row]) is not None]
        gains = [all_.trial - placed.trial for all_, placed in pairs]
        if sum(gains) > 0 and all(placed.objective <= all_.baseline[1] for all_, placed in pairs):
            for row, (all_, placed) in zip(rows, pairs, strict=True):
                span = where[row]
                assert span is not None
                result[row] = replace(
                    all_,
                    replicas=_shifted(placed.replicas, span.first),
                    objective=placed.objective,
                    trial=placed.trial,
                    lower_bound=min(all_.lower_bound, placed.objective),
                    stages=(*all_.stages, (f"on {span.width} banks", placed.objective)),
                )
    return result


def _shifted(replicas: Replicas, first: int) -> Replicas:
    return tuple(tuple(tuple(bank + first for bank in copy) for copy in copies) for copies in replicas)


def _is_open(layer: LayerProblem) -> bool:
    """Say whether sharding over all banks is far from the bound."""
    everywhere = baselines.uniform(layer, layer.rates.banks)
    return everywhere is not None and mean_seconds(layer, everywhere) > WORTH * lower_bound(layer)


def _quick(layer: LayerProblem) -> float:
    """Return about what a search would reach: the best of its starts and of the baselines with one replica."""
    made = layer.layer.made
    routing: IntArray = made.routing[evenly(len(made.routing), GLANCE_STEPS)]
    glance = replace(layer, layer=replace(made, routing=routing))
    floor = external_seconds(layer.rates, layer.layer, layer.residency, routing)
    found = [start.seconds for start in starts(glance, routing, floor)]
    for count in (1, *baselines.shard_counts(layer.rates.banks)):
        replicas = baselines.uniform(glance, count)
        if replicas is not None:
            found.append(mean_seconds(glance, replicas))
    return min(found, default=np.inf)
