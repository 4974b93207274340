"""Where the search of a layer starts: groups of banks, balanced by load or clustered by who is chosen together."""

from dataclasses import dataclass

import numpy as np

from moe_passes.plan.decisions import Replicas
from moe_passes.routing.traces import evenly
from moe_passes.solve.placement.cluster import cluster
from moe_passes.solve.placement.groups import Widths, groupings
from moe_passes.solve.placement.problem import (
    SLACK_BYTES,
    FloatArray,
    IntArray,
    LayerProblem,
    distinct,
    tokens_of,
)

GLANCE_TOKENS = 768
"""Tokens on which all groupings are judged."""
FINALISTS = 8
"""Groupings that are judged on all steps."""
LINK_MATTERS = 0.5
"""Clusters are tried where a balanced placement's link takes more than this share of its busiest bank's time."""


@dataclass(frozen=True)
class Start:
    """A placement whose experts all lie in one group of banks each.

    Attributes:
        widths: of the groups.
        replicas: group of every expert.
        seconds: mean of a step.
        clustered: whether experts lie by who is chosen together.
    """

    widths: Widths
    replicas: Replicas
    seconds: float
    clustered: bool


def starts(problem: LayerProblem, routing: IntArray, floor: FloatArray) -> list[Start]:
    """Return starts for the search, the fastest first.

    Args:
        problem: the layer.
        routing: [step, token, k], the steps that count.
        floor: [step], seconds that a step takes whatever the placement.
    """
    load = _mean_seconds(problem)
    balanced = [(widths, balance(problem, widths, load)) for widths in groupings(problem.rates.banks)]
    few = evenly(len(routing), GLANCE_TOKENS // routing.shape[1])
    glance = _Judge(problem, routing[few], floor[few])
    fitting = [(glance.mean(widths, placed), widths, placed) for widths, placed in balanced if placed is not None]
    judge, found = _Judge(problem, routing, floor), []
    for _, widths, placed in sorted(fitting, key=lambda entry: entry[0])[:FINALISTS]:
        bank, link = judge.times(widths, placed)
        found.append(Start(widths, placed, float(np.maximum(np.maximum(bank, link), floor).mean()), False))
        if link.mean() > LINK_MATTERS * bank.mean():
            for full in (False, True) if problem.spare_bytes else (False,):
                clustered = cluster(problem, routing, widths, full)
                if clustered is not None:
                    found.append(Start(widths, clustered, judge.mean(widths, clustered), True))
    return sorted(found, key=lambda start: start.seconds)


def _mean_seconds(problem: LayerProblem) -> FloatArray:
    """Return the mean seconds that one bank would take to read or to compute each expert: [expert]."""
    layer, rates = problem.layer, problem.rates
    reading = layer.used * (problem.sizes / rates.bank_bytes_per_second)
    computing = tokens_of(layer.routing, layer.experts) * (layer.macs_per_token / rates.bank_macs_per_second)
    return np.asarray(np.where(problem.sizes > 0, np.maximum(reading, computing), 0.0).mean(axis=0))


def balance(problem: LayerProblem, widths: Widths, load: FloatArray) -> Replicas | None:
    """Put the experts with the most load into the widest groups, each into the one with the least load a bank.

    Wide groups take their share of the bytes, narrow ones the rest; None where that does not fit.
    """
    width = np.array(widths, dtype=np.float64)
    limit = (problem.bank_limit_bytes + SLACK_BYTES) * width
    share = np.where(width == width.max(), np.ceil(problem.sizes.sum() * width / width.sum()), 0.0)
    busy, held = np.zeros(len(widths)), np.zeros(len(widths))
    home: list[tuple[tuple[int], ...]] = [() for _ in problem.sizes]
    for expert in np.argsort(-load, kind="stable").tolist():
        size = problem.sizes[expert]
        if not size:
            continue
        fits = held + size <= limit
        preferred = fits & (held + size <= share)
        room = preferred if preferred.any() else fits & (share == 0) if (fits & (share == 0)).any() else fits
        if not room.any():
            return None
        group = int(np.argmin(np.where(room, busy, np.inf)))
        busy[group] += load[expert] / width[group]
        held[group] += size
        home[expert] = ((group,),)
    return tuple(home)


class _Judge:
    """Prices placements in groups on some steps, by two products of tables."""

    def __init__(self, problem: LayerProblem, routing: IntArray, floor: FloatArray) -> None:
        self.problem, self.floor, self.shape = problem, floor, routing.shape
        experts = problem.layer.experts
        resident = (problem.sizes > 0).astype(np.float32)
        reading = distinct(routing, experts) * (problem.sizes / problem.rates.bank_bytes_per_second)
        per_token = problem.layer.macs_per_token / problem.rates.bank_macs_per_second
        computing = [tokens_of(routing, experts) * (resident * per_token)] if per_token else []
        self.channels = [table.astype(np.float32) for table in (reading, *computing)]
        self.tokens = distinct(routing.reshape(-1, 1, routing.shape[2]), experts) * resident

    def mean(self, widths: Widths, replicas: Replicas) -> float:
        """Mean seconds of a step."""
        bank, link = self.times(widths, replicas)
        return float(np.maximum(np.maximum(bank, link), self.floor).mean())

    def times(self, widths: Widths, replicas: Replicas) -> tuple[FloatArray, FloatArray]:
        """Seconds of the busiest bank and of the link: [step] each."""
        rates, width = self.problem.rates, np.array(widths, dtype=np.float32)
        member = np.zeros((len(replicas), len(widths)), dtype=np.float32)
        for expert, copies in enumerate(replicas):
            if copies:
                member[expert, copies[0][0]] = 1.0
        bank = np.max([(channel @ (member / width)).max(axis=1) for channel in self.channels], axis=0)
        heard = ((self.tokens @ member) > 0) @ width
        link = heard.reshape(self.shape[:2]).sum(axis=1) * (rates.partial_sum_bytes / rates.link_bytes_per_second)
        return bank.astype(np.float64), link.astype(np.float64)
