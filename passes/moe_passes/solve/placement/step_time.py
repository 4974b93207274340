"""What a step costs under a placement: the closed form that placements are judged by (`problem.py` states it)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_passes.plan.decisions import Replicas
from moe_passes.solve.placement.problem import (
    NOBODY,
    FloatArray,
    IntArray,
    Layer,
    LayerProblem,
    Placement,
    Rates,
    distinct,
    tokens_of,
)
from moe_passes.solve.replica.dispatcher import Dispatcher


@dataclass(frozen=True)
class Served:
    """The replicas that serve a layer's steps.

    Attributes:
        rows: [row, bank], the share of its expert that a bank holds of a replica; replicas in the order of experts.
        sizes: [row], bytes of the replica.
        routing: [step, token, k], rows instead of experts, `NOBODY` where nothing is resident.
    """

    rows: FloatArray
    sizes: FloatArray
    routing: IntArray


def served(replicas: Replicas, sizes: FloatArray, routing: IntArray, banks: int) -> Served:
    """Dispatch every step to its replicas."""
    rows = [(expert, copy) for expert, copies in enumerate(replicas) for copy in copies]
    share = np.zeros((len(rows), banks))
    for row, (_, copy) in enumerate(rows):
        share[row, list(copy)] = 1 / len(copy)
    counts = np.array([len(copies) for copies in replicas], dtype=np.int64)
    first = np.append(np.where(counts > 0, np.cumsum(counts) - counts, NOBODY), NOBODY)
    mapped = first[routing]
    if (counts > 1).any():
        mapped += _chosen(replicas, sizes, routing, banks, counts > 1)
    return Served(share, sizes[[expert for expert, _ in rows]] if rows else np.zeros(0), mapped)


def _chosen(replicas: Replicas, sizes: FloatArray, routing: IntArray, banks: int, free: np.ndarray) -> IntArray:
    """Return the replica that serves each choice: [step, token, k]."""
    dispatcher = Dispatcher(banks, replicas, sizes.tolist())
    used = distinct(routing, len(replicas))
    choice = np.zeros((len(routing), len(replicas) + 1), dtype=np.int64)
    for step in np.flatnonzero((used & free).any(axis=1)):
        experts = np.flatnonzero(used[step]).tolist()
        choice[step, experts] = dispatcher.choose(experts)
    flat = routing.reshape(len(routing), -1)
    return np.take_along_axis(choice, flat, axis=1).reshape(routing.shape)


def chosen_replicas(layer: Layer, placement: Placement, rates: Rates) -> list[dict[int, int]]:
    """Return, for every step of a layer, the replica that serves each expert that has a choice."""
    sizes = layer.resident_bytes(placement.residency).astype(np.float64)
    free = np.array([len(copies) > 1 for copies in placement.replicas])
    if not free.any():
        return [{} for _ in layer.routing]
    dispatcher = Dispatcher(rates.banks, placement.replicas, sizes.tolist())
    result = []
    for used in layer.used:
        experts = np.flatnonzero(used).tolist()
        pairs = zip(experts, dispatcher.choose(experts), strict=True) if used[free].any() else ()
        result.append({expert: replica for expert, replica in pairs if free[expert]})
    return result


def bank_seconds(rates: Rates, macs_per_token: int, by: Served) -> FloatArray:
    """Seconds of the busiest bank, reading or computing, whichever takes longer: [step]."""
    used = distinct(by.routing, len(by.sizes))
    held = by.rows * by.sizes[:, None]
    reading = (used @ held).max(axis=1, initial=0.0) / rates.bank_bytes_per_second
    seconds_per_token = macs_per_token / rates.bank_macs_per_second
    if not seconds_per_token:
        return np.asarray(reading)
    computing = (tokens_of(by.routing, len(by.sizes)) @ by.rows).max(axis=1, initial=0.0) * seconds_per_token
    return np.asarray(np.maximum(reading, computing))


def link_seconds(rates: Rates, by: Served) -> FloatArray:
    """Seconds of the link: [step]."""
    return np.asarray(heard(by) * (rates.partial_sum_bytes / rates.link_bytes_per_second))


def heard(by: Served) -> IntArray:
    """Banks that tokens hear partial sums from, summed over the tokens of a step: [step]."""
    steps, tokens, k = by.routing.shape
    flat = by.routing.reshape(-1, k)
    count = np.zeros(len(flat), dtype=np.int64)
    for word in _words(by.rows > 0).T:
        any_of = word[flat[:, 0]]
        for place in range(1, k):
            any_of |= word[flat[:, place]]
        count += np.bitwise_count(any_of)
    return np.asarray(count.reshape(steps, tokens).sum(axis=1))


def _words(holds: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Pack rows of banks into words of 64 bits: [row + 1, word]; the last row, `NOBODY`, is empty."""
    bits = np.packbits(np.vstack([holds, np.zeros_like(holds[:1], shape=(1, holds.shape[1]))]), axis=1)
    padded = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8)))
    return np.ascontiguousarray(padded).view(np.uint64)


def missing_bytes(layer: Layer, residency: IntArray, routing: IntArray) -> FloatArray:
    """Bytes of the step's distinct experts that are not resident: [step]."""
    missing = layer.whole_bytes - layer.resident_bytes(residency)
    return np.asarray(distinct(routing, layer.experts).astype(np.float64) @ missing)


def external_seconds(rates: Rates, layer: Layer, residency: IntArray, routing: IntArray) -> FloatArray:
    """Seconds of the external channel: [step]; no placement changes them."""
    return np.asarray(missing_bytes(layer, residency, routing) / rates.external_bytes_per_second)


def step_seconds(
    rates: Rates, layer: Layer, residency: IntArray, replicas: Replicas, routing: IntArray | None = None
) -> FloatArray:
    """Seconds of a layer in each step: [step]; of its own steps, or of other routing [step, token, k]."""
    routing = layer.routing if routing is None else routing
    sizes = layer.resident_bytes(residency).astype(np.float64)
    by = served(replicas, sizes, routing, rates.banks)
    external = external_seconds(rates, layer, residency, routing)
    bank = bank_seconds(rates, layer.macs_per_token, by)
    return np.asarray(np.maximum(np.maximum(bank, link_seconds(rates, by)), external))


def mean_seconds(problem: LayerProblem, replicas: Replicas) -> float:
    """Mean seconds of the layer over its training steps."""
    return float(step_seconds(problem.rates, problem.layer, problem.residency, replicas).mean())


def trial_seconds(problem: LayerProblem, replicas: Replicas) -> float:
    """Mean seconds of the layer over the steps that placements are chosen on."""
    return float(step_seconds(problem.rates, problem.layer.judged, problem.residency, replicas).mean())


def least_seconds(problem: LayerProblem, replicas: Replicas) -> float:
    """Bound the trial's mean without dispatch: a step reads some replica of each of its experts from some bank."""
    part = [
        min((size / len(copy) for copy in copies), default=0.0)
        for copies, size in zip(replicas, problem.sizes.tolist(), strict=True)
    ]
    largest = np.array([*part, 0.0])[problem.layer.judged.routing].max(axis=(1, 2))
    return float(largest.mean() / problem.rates.bank_bytes_per_second)
