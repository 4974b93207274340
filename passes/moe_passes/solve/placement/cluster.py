"""Experts that tokens choose together, put together: the placement in groups of banks with the fewest partial sums.

Where the link decides, a token should find its experts in as few groups as can be: a hypergraph partitioning, whose
hyperedges are tokens and whose cost is the number of blocks that each touches (the connectivity metric of Karypis and
Kumar, "Multilevel k-way hypergraph partitioning", DAC 1999). Clusters grow around the most used expert that is left,
by the expert that tokens of the cluster choose most; then experts of two clusters are exchanged while that saves.

One table prices all exchanges at once. Write X[t, e] for "token t chooses e", g for the cluster of e and c[t, g] for
how many experts of g the token t chooses. Moving e from A to B saves the sums of A where e is alone in it and costs
those of B where nobody is in it; exchanging e and f adds both moves, and tokens that choose both keep theirs:

    change(e, f) = move(e, B) + move(f, A) + Σ_t X[t, e]·X[t, f]·(w(A)·[c(t, A) = 1] + w(B)·[c(t, B) = 1])

with w(g) the banks of group g.
"""

import numpy as np
import numpy.typing as npt

from moe_passes.plan.decisions import Replicas
from moe_passes.routing.traces import evenly
from moe_passes.solve.placement.groups import Widths
from moe_passes.solve.placement.problem import SLACK_BYTES, FloatArray, IntArray, LayerProblem, distinct

Table = npt.NDArray[np.float32]
MOST_ROUNDS = 16
MOST_TOKENS = 2048


def cluster(problem: LayerProblem, routing: IntArray, widths: Widths, full: bool) -> Replicas | None:
    """Place experts in clusters, one a group of banks.

    Args:
        problem: the layer.
        routing: [step, token, k], the steps that count.
        widths: of the groups.
        full: fill groups one after the other, instead of each with its share.

    Returns:
        The group of each expert; None where that does not fit.
    """
    sizes = problem.sizes
    resident = np.flatnonzero(sizes)
    if not len(resident):
        return None
    limit, width = problem.bank_limit_bytes + SLACK_BYTES, np.array(widths)
    share = np.ceil(len(resident) * width / width.sum()) * sizes.max() + SLACK_BYTES
    rooms = limit * width if full else np.minimum(limit * width, share)
    blocks = _grow(_uses(routing, len(sizes))[:, resident], sizes[resident], rooms)
    return None if blocks is None else _as_replicas(resident, blocks, len(sizes))


def tighten(problem: LayerProblem, routing: IntArray, replicas: Replicas, widths: Widths) -> Replicas:
    """Exchange experts of one size between groups while that saves partial sums."""
    sizes = problem.sizes
    resident = np.flatnonzero(sizes)
    blocks = np.array([replicas[expert][0][0] for expert in resident], dtype=np.int64)
    uses, width = _uses(routing, len(sizes))[:, resident], np.array(widths, dtype=np.float32)
    return _as_replicas(resident, _exchange(uses, sizes[resident], blocks, width), len(sizes))


def _as_replicas(resident: IntArray, blocks: IntArray, experts: int) -> Replicas:
    home = dict(zip(resident.tolist(), blocks.tolist(), strict=True))
    return tuple(((home[expert],),) if expert in home else () for expert in range(experts))


def _uses(routing: IntArray, experts: int) -> Table:
    """Which experts each token chooses: [token, expert], of at most `MOST_TOKENS`, evenly spread."""
    tokens = routing.reshape(-1, 1, routing.shape[2])
    return distinct(tokens[evenly(len(tokens), MOST_TOKENS)], experts).astype(np.float32)


def _grow(uses: Table, sizes: FloatArray, rooms: FloatArray) -> IntArray | None:
    """Grow clusters one after the other: [expert]."""
    left = np.ones(len(sizes), dtype=np.bool_)
    blocks = np.zeros(len(sizes), dtype=np.int64)
    popularity = uses.sum(axis=0)
    for block, room in enumerate(rooms.tolist()):
        free, wanted = room, popularity
        covered = np.zeros(len(uses), dtype=np.bool_)
        while (fits := left & (sizes <= free)).any():
            expert = int(np.argmax(np.where(fits, wanted, -1.0)))
            newly = (uses[:, expert] > 0) & ~covered
            wanted = uses[newly].sum(axis=0) + (wanted if free < room else 0.0)
            left[expert], blocks[expert] = False, block
            free -= sizes[expert]
            covered |= newly
    return None if left.any() else blocks


def _exchange(uses: Table, sizes: FloatArray, blocks: IntArray, width: Table) -> IntArray:
    """Exchange experts of one size while that saves partial sums."""
    heard = _heard(uses, blocks, width)
    for _ in range(MOST_ROUNDS):
        table = _changes(uses, blocks, width)
        table[(sizes[:, None] != sizes[None, :]) | (blocks[:, None] == blocks[None, :])] = 0.0
        found = _several(table, blocks)
        # Exchanges of different clusters may still meet in one token: halve them until they save what they promise.
        while len(found):
            tried = blocks.copy()
            tried[found[:, 0]], tried[found[:, 1]] = blocks[found[:, 1]], blocks[found[:, 0]]
            now = _heard(uses, tried, width)
            if now < heard:
                break
            found = found[: len(found) // 2]
        if not len(found):
            break
        blocks, heard = tried, now
    return blocks


def _changes(uses: Table, blocks: IntArray, width: Table) -> Table:
    """Partial sums that each exchange adds: [expert, expert]."""
    count = _count(uses, blocks, len(width))
    alone = uses * (count[:, blocks] == 1) * width[blocks]
    enter = (uses.T @ (count == 0).astype(np.float32)) * width
    move = enter[:, blocks] - alone.sum(axis=0)[:, None]
    both = alone.T @ uses
    return np.asarray(move + move.T + both + both.T)


def _several(table: Table, blocks: IntArray) -> IntArray:
    """Return the best exchanges, no two of them in one cluster: [exchange, 2], best first."""
    rows, columns = np.nonzero(np.triu(table < 0))
    order = np.argsort(table[rows, columns], kind="stable")
    busy, found = set[int](), []
    for e, f in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        pair = {int(blocks[e]), int(blocks[f])}
        if not pair & busy:
            busy |= pair
            found.append((e, f))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _count(uses: Table, blocks: IntArray, groups: int) -> Table:
    """Experts of each cluster that each token chooses: [token, cluster]."""
    member = np.zeros((len(blocks), groups), dtype=np.float32)
    member[np.arange(len(blocks)), blocks] = 1.0
    return np.asarray(uses @ member)


def _heard(uses: Table, blocks: IntArray, width: Table) -> float:
    return float((np.count_nonzero(_count(uses, blocks, len(width)), axis=0) * width.astype(np.float64)).sum())
