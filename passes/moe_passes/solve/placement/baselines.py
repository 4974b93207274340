"""Published placements, by name: what the search is measured against, and where it starts from.

- `contiguous`, `round-robin`: whole experts in their order, by neighbourhood or dealt out (expert parallelism).
- `lpt`: whole experts, longest processing time first on mean load (Graham, SIAM J. Appl. Math. 17, 1969).
- `eplb`: DeepSeek's expert-parallel load balancer without replicas: the same greedy, with equally many experts a bank.
- `eplb-replicas`: with the spare capacity filled by replicas of whichever expert has the largest load per replica.
- `eplb-steps`: the same, fed with the steps that use an expert instead of the tokens: a step reads an expert once.
- `shard-N`: every expert over N banks, groups of banks balanced on mean load; over all banks it always fits.

The mean load of an expert is its resident bytes times the share of the steps that use it; `eplb` and `eplb-replicas`
count tokens, as published.
"""

import numpy as np

from moe_passes.plan.decisions import Banks, Replicas
from moe_passes.plan.errors import InputError
from moe_passes.solve.placement.problem import SLACK_BYTES, FloatArray, LayerProblem

REPLICATED = ("eplb-replicas", "eplb-steps")
WHOLE = ("contiguous", "round-robin", "lpt", "eplb", *REPLICATED)


def names(banks: int) -> tuple[str, ...]:
    """Return the names of all baselines on so many banks."""
    return (*WHOLE, *(f"shard-{count}" for count in shard_counts(banks)))


def shard_counts(banks: int) -> tuple[int, ...]:
    """Return the powers of two from 2 up to the number of banks, and that number itself."""
    powers = [1 << n for n in range(1, banks.bit_length()) if 1 << n <= banks]
    return tuple(sorted({*powers, banks}))


def check_name(name: str, banks: int) -> None:
    """Refuse a name that is no baseline.

    Raises:
        InputError: with the valid names.
    """
    if name not in names(banks):
        raise InputError(f"baseline '{name}'; valid on {banks} banks: {', '.join(names(banks))}")


def place(name: str, problem: LayerProblem) -> Replicas | None:
    """Place a layer as a baseline does; None where that does not fit the banks."""
    banks = problem.rates.banks
    resident = np.flatnonzero(problem.sizes)
    if name in ("contiguous", "round-robin"):
        count = len(resident)
        bank_of = np.arange(count) % banks if name == "round-robin" else np.arange(count) * banks // max(1, count)
        return _fitting(problem, {int(e): (int(b),) for e, b in zip(resident, bank_of, strict=True)})
    if name == "lpt":
        return uniform(problem, 1)
    if name == "eplb":
        return _packed(problem, np.ones(len(problem.sizes), dtype=np.int64), _token_load(problem))
    if name in REPLICATED:
        load = _token_load(problem) if name == "eplb-replicas" else mean_load(problem)
        return _packed(problem, _replica_counts(problem, load), load)
    return uniform(problem, int(name.removeprefix("shard-")))


def mean_load(problem: LayerProblem) -> FloatArray:
    """Return the mean bytes per training step of each expert: [expert]."""
    return np.asarray(problem.layer.used.mean(axis=0) * problem.sizes)


def uniform(problem: LayerProblem, count: int) -> Replicas | None:
    """Shard every expert over `count` neighbouring banks, longest processing time first; None if it does not fit."""
    groups, load = problem.rates.banks // count, mean_load(problem)
    busy, held = np.zeros(groups), np.zeros(groups)
    chosen: dict[int, Banks] = {}
    for expert in np.argsort(-load, kind="stable"):
        size = problem.sizes[expert]
        if not size:
            continue
        room = held + size / count <= problem.bank_limit_bytes + SLACK_BYTES
        if not room.any():
            return None
        group = int(np.argmin(np.where(room, busy, np.inf)))
        busy[group] += load[expert]
        held[group] += size / count
        chosen[int(expert)] = tuple(range(group * count, (group + 1) * count))
    return _as_replicas(problem, chosen)


def _as_replicas(problem: LayerProblem, chosen: dict[int, Banks]) -> Replicas:
    return tuple((chosen[e],) if e in chosen else () for e in range(len(problem.sizes)))


def _fitting(problem: LayerProblem, chosen: dict[int, Banks]) -> Replicas | None:
    held = np.zeros(problem.rates.banks)
    for expert, copy in chosen.items():
        held[list(copy)] += problem.sizes[expert] / len(copy)
    return _as_replicas(problem, chosen) if held.max() <= problem.bank_limit_bytes + SLACK_BYTES else None


def _token_load(problem: LayerProblem) -> FloatArray:
    counts = np.bincount(problem.layer.routing.ravel() + 1, minlength=problem.layer.experts + 1)[1:]
    return np.asarray(counts * (problem.sizes > 0), dtype=np.float64)


def _replica_counts(problem: LayerProblem, load: FloatArray) -> np.ndarray:
    """Hand spare slots out as replicas, one by one, to the expert with the largest load per replica.

    Every bank has equally many slots, as EPLB asks for, if there are enough spare bytes for that.
    """
    banks = problem.rates.banks
    count = np.ones(len(load), dtype=np.int64)
    resident, largest = int((problem.sizes > 0).sum()), float(problem.sizes.max(initial=1.0))
    affordable = resident + int(problem.spare_bytes // largest)
    slots = min(affordable // banks, int(problem.bank_limit_bytes // largest)) * banks
    for _ in range(max(0, slots - resident)):
        open_ = (count < banks) & (problem.sizes > 0)
        if not open_.any():
            break
        count[int(np.argmax(np.where(open_, load / count, -1.0)))] += 1
    return count


def _packed(problem: LayerProblem, counts: np.ndarray, load: FloatArray) -> Replicas | None:
    """Pack replicas into banks: heaviest first into the lightest bank with a free place, never two of one expert."""
    banks = problem.rates.banks
    copies = [int(e) for e in np.flatnonzero(problem.sizes) for _ in range(counts[e])]
    copies.sort(key=lambda expert: (-load[expert] / counts[expert], expert))
    places = -(-len(copies) // banks)
    busy, held, used = np.zeros(banks), np.zeros(banks), np.zeros(banks, dtype=np.int64)
    placed: list[list[Banks]] = [[] for _ in problem.sizes]
    for expert in copies:
        taken = [copy[0] for copy in placed[expert]]
        room = (held + problem.sizes[expert] <= problem.bank_limit_bytes + SLACK_BYTES) & (used < places)
        room[taken] = False
        if not room.any():
            if placed[expert]:
                continue
            return None
        bank = int(np.argmin(np.where(room, busy, np.inf)))
        busy[bank] += load[expert] / counts[expert]
        held[bank] += problem.sizes[expert]
        used[bank] += 1
        placed[expert].append((bank,))
    return tuple(tuple(sorted(copies)) for copies in placed)
