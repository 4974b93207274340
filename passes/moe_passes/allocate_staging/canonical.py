"""Search for an allocation below the capacity, over canonical solutions only, in parts that time separates.

The ideas are those of MiniMalloc (Moffitt, "MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated
Machine Learning", ASPLOS 2023); the branching is ours.

**Canonical.** Any allocation can be lowered until every buffer lies at 0 or, but for alignment, on one that it overlaps
in time. Such a solution is built from below: buffers in the order of their offsets, each at its *least offset*, the top
of what lies under it. So a state is the floor of every section of time (between two starts or ends of buffers), and
the least offsets of the buffers that are left.

**Branching.** Take the buffer with the smallest least offset, ties by rank. Either it lies there; or it is *passed
over*, and then it will lie on an overlapping buffer that is still left, so its least offset rises to the lowest top
that one of those can have. Passing over is only worth it if one of them comes to lie so low that it takes the place:
otherwise the buffer could still be lowered. So if none can any more, the state is abandoned.

Buffers that are alike are passed over together: were one of them to lie there, it could change places with the first.

**Sections.** In each section, the floor or, if that is higher, the smallest least offset of what is left there, plus
the bytes that are left there, must not exceed the capacity.

**Parts.** Where no buffer that is left crosses a border between sections, the two sides have nothing to do with each
other: each is searched alone, the tighter first, and one that fails fails the state.

The search is complete: without a limit it finds a solution or proves that there is none. Which buffer comes first
matters much on hard instances, so it is run with several ranks, each time up to a limit that grows: as published (by
lifetime, area and fullest section), then disturbed at random, with those buffers to the front that were left over
where a run had to give up, lately and often (the weights of Boussemart, Hemery, Lecoutre, Sais, "Boosting systematic
search by weighting constraints", ECAI 2004).
"""

from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import numpy.typing as npt

from moe_passes.allocate_staging.problem import Lifetime, Problem

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

FIRST_STATES, LATER_STATES, MORE_STATES = 20_000, 2000, 100
"""States that the first run may visit, the later ones, and how many more each time all ranks have had their turn."""
NOISE = 5.0
"""Standard deviation of the disturbance, in places of a rank."""
PULL = 1.5
"""How far to the front the weightiest buffer comes, as a part of the number of buffers."""
DECAY = 0.9
"""Of weights, from run to run."""
CELLS_PER_STATE = 50_000
"""Buffers times sections that take as long again as the rest of a state does; measured on one core."""
MOST_BUFFERS = 800
"""Of a part: the search recurses once a buffer, and Python to a depth of 1,000."""
NEVER = np.int64(1 << 60)


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        offsets: of every buffer; None where none were found.
        is_complete: whether that proves that there are none.
        states: that were visited; a large one counts for several.
    """

    offsets: list[int] | None
    is_complete: bool
    states: int


def search(problem: Problem, seed: int, states: int) -> Outcome:
    """Search for offsets below the capacity.

    Args:
        problem: without fixed offsets.
        seed: of the disturbed ranks.
        states: that may be visited; a large one counts for several.
    """
    layout = _Layout(problem)
    offsets = np.zeros(len(problem.buffers), dtype=np.int64)
    spent = 0
    for part in _parts(layout.whole()):
        found, visited, is_complete = _run_all(layout, part, seed, states - spent)
        spent += visited
        if found is None:
            return Outcome(None, is_complete, spent)
        offsets[part.buffers] = found[part.buffers]
    return Outcome((offsets * layout.unit).tolist(), False, spent)


class _SpentError(Exception):
    """The limit on states is reached."""


@dataclass(frozen=True)
class _Part:
    """Buffers that are left, and the sections that they are alive in; sizes and offsets in units.

    Attributes:
        buffers: [buffer], their numbers in the problem.
        alive: [buffer, section].
        size: [buffer].
        align: [buffer].
        twin: [buffer], one number for all that are alike in lifetime, size and alignment.
        rank: [buffer], lower first.
        low: [buffer], least offsets.
        passed: [buffer], the offset that a buffer was passed over at and that nothing has taken yet; −1 if none.
        floor: [section].
        left: [section], bytes of the buffers that are left.
    """

    buffers: Ints
    alive: Bools
    size: Ints
    align: Ints
    twin: Ints
    rank: Ints
    low: Ints
    passed: Ints
    floor: Ints
    left: Ints

    def select(self, keep: Bools, sections: slice) -> "_Part":
        """Return some of the buffers and a range of sections."""
        return _Part(
            self.buffers[keep],
            self.alive[keep, sections],
            self.size[keep],
            self.align[keep],
            self.twin[keep],
            self.rank[keep],
            self.low[keep],
            self.passed[keep],
            self.floor[sections],
            self.left[sections],
        )


class _Layout:
    """The problem in units and sections."""

    def __init__(self, problem: Problem) -> None:
        buffers = problem.buffers
        alignments = [problem.alignment(buffer) for buffer in buffers]
        self.unit = int(np.gcd.reduce(np.array([b.size for b in buffers] + alignments, dtype=np.int64)))
        self.capacity = problem.capacity_bytes // self.unit
        self.size = np.array([b.size for b in buffers], dtype=np.int64) // self.unit
        self.align = np.array(alignments, dtype=np.int64) // self.unit
        self.alive = _sections(buffers)
        shared = self.alive.astype(np.float32)
        self.overlap = (shared @ shared.T) > 0
        np.fill_diagonal(self.overlap, False)
        alike = [(b.lower, b.upper, b.size, alignment) for b, alignment in zip(buffers, alignments, strict=True)]
        self.twin = np.unique(np.array(alike, dtype=np.int64).reshape(-1, 4), axis=0, return_inverse=True)[1].ravel()

    def whole(self) -> _Part:
        """Return all buffers."""
        count = len(self.size)
        none, zeros = np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.int64)
        floor = np.zeros(self.alive.shape[1], dtype=np.int64)
        left = (self.alive * self.size[:, None]).sum(axis=0)
        return _Part(
            np.arange(count),
            self.alive,
            self.size,
            self.align,
            self.twin,
            zeros,
            zeros.copy(),
            none,
            floor,
            left,
        )


def _sections(buffers: tuple[Lifetime, ...]) -> Bools:
    """Cut time where buffers start or end: [buffer, section], less sections whose buffers all meet in another."""
    times = np.unique([time for buffer in buffers for time in (buffer.lower, buffer.upper)])
    lower = np.searchsorted(times, [b.lower for b in buffers])[:, None]
    upper = np.searchsorted(times, [b.upper for b in buffers])[:, None]
    sections = np.arange(max(1, len(times) - 1))[None, :]
    alive = (lower <= sections) & (sections < upper)
    keep: list[int] = []
    for section in range(alive.shape[1]):
        # Buffers are alive without a break, so it is enough to look at the neighbours that are kept.
        while keep and not (alive[:, keep[-1]] & ~alive[:, section]).any():
            keep.pop()
        if not keep or (alive[:, section] & ~alive[:, keep[-1]]).any():
            keep.append(section)
    return alive[:, keep]


def _parts(part: _Part) -> list[_Part]:
    """Cut where no buffer crosses, the tightest part first."""
    borders = np.flatnonzero(~(part.alive[:, :-1] & part.alive[:, 1:]).any(axis=0)) + 1
    if not len(borders):
        return [part]
    found = []
    for first, last in zip([0, *borders.tolist()], [*borders.tolist(), part.alive.shape[1]], strict=True):
        inside = np.asarray(part.alive[:, first:last].any(axis=1))
        if inside.any():
            found.append(part.select(inside, slice(first, last)))
    return sorted(found, key=lambda piece: (-int((piece.floor + piece.left).max()), len(piece.buffers)))


def _run_all(layout: _Layout, part: _Part, seed: int, states: int) -> tuple[Ints | None, int, bool]:
    """Run with one rank after another; returns offsets, states visited, and whether none is proved."""
    random, visited, orders = np.random.default_rng(seed), 0, _orders(part)
    weights = np.zeros(len(layout.size))
    if len(part.buffers) > MOST_BUFFERS:
        return None, 0, False
    for number in count():
        turn = number // len(orders)
        most = LATER_STATES + MORE_STATES * turn if number else FIRST_STATES
        run = _Run(layout, weights, most, states - visited)
        order = orders[number % len(orders)]
        rank = _disturbed(order, weights[part.buffers], random) if turn else np.argsort(order)
        try:
            found = run.place(replace(part, rank=rank))
            return (run.offsets, visited + run.charged, False) if found else (None, visited + run.charged, True)
        except _SpentError:
            visited += run.charged
        if visited >= states:
            break
        weights *= DECAY
    return None, visited, False


def _disturbed(order: Ints, weights: Floats, random: np.random.Generator) -> Ints:
    """Return ranks: places in an order, disturbed, the weightier the further to the front."""
    place = np.empty(len(order))
    place[order] = np.arange(len(order)) + random.normal(0.0, NOISE, len(order))
    place -= PULL * len(order) * weights / max(float(weights.max(initial=0.0)), 1.0)
    return np.argsort(np.argsort(place, kind="stable"))


def _orders(part: _Part) -> list[Ints]:
    """Return ranks as published: by lifetime, area, fullest section, size, each from the largest down."""
    width = part.alive.sum(axis=1)
    area, full = width * part.size, np.where(part.alive, part.left, 0).max(axis=1)
    keys = ((width, area, full), (full, area, width), (full, width, area), (area, width, full), (part.size, width))
    return [np.lexsort([-key for key in reversed(by)]) for by in keys]


class _Run:
    """One depth-first search; it adds to the weights of buffers that are left over where it has to give up."""

    def __init__(self, layout: _Layout, weights: Floats, most: int, most_charged: int) -> None:
        self.capacity, self.overlap, self.weights = layout.capacity, layout.overlap, weights
        self.most, self.most_charged, self.states, self.charged = most, most_charged, 0, 0
        self.offsets = np.zeros(len(layout.size), dtype=np.int64)

    def place(self, part: _Part) -> bool:
        """Place all buffers of a part; say whether that is possible."""
        while True:
            self.states += 1
            self.charged += 1 + part.alive.size // CELLS_PER_STATE
            if self.states > self.most or self.charged > self.most_charged:
                raise _SpentError
            if not self._may_succeed(part):
                return False
            chosen = int(np.argmin(part.low * (len(part.rank) + 1) + part.rank))
            self.offsets[part.buffers[chosen]] = part.low[chosen]
            over = self.overlap[part.buffers[chosen], part.buffers]
            for rest in _parts(_placed(part, chosen, over)) if len(part.buffers) > 1 else ():
                if not self.place(rest):
                    break
            else:
                return True
            passed = _passed_over(part, chosen, over)
            if passed is None:
                return False
            part = passed

    def _may_succeed(self, part: _Part) -> bool:
        too_high = part.low + part.size > self.capacity
        if too_high.any():
            self.weights[part.buffers[too_high]] += 1.0
            return False
        lowest = np.where(part.alive, part.low[:, None], NEVER).min(axis=0)
        floor = np.where(lowest < NEVER, np.maximum(part.floor, lowest), part.floor)
        too_full = floor + part.left > self.capacity
        if too_full.any():
            self.weights[part.buffers[part.alive[:, int(np.argmax(too_full))]]] += 1.0
            return False
        waiting = np.flatnonzero(part.passed >= 0)
        if not len(waiting):
            return True
        overlap = self.overlap[part.buffers[waiting][:, None], part.buffers]
        may_take = overlap & (part.low < (part.passed + part.size)[waiting][:, None])
        return bool(may_take.any(axis=1).all())


def _placed(part: _Part, chosen: int, over: Bools) -> _Part:
    """Return what is left once a buffer lies at its least offset; `over` are those that it overlaps in time."""
    offset, size = part.low[chosen], part.size[chosen]
    alive = part.alive[chosen]
    low = _aligned(np.maximum(part.low, np.where(over, offset + size, offset)), part.align)
    taken = over & (part.passed >= 0) & (offset < part.passed + part.size)
    keep = np.ones(len(part.buffers), dtype=np.bool_)
    keep[chosen] = False
    return _Part(
        part.buffers[keep],
        part.alive[keep],
        part.size[keep],
        part.align[keep],
        part.twin[keep],
        part.rank[keep],
        low[keep],
        np.where(taken, -1, part.passed)[keep],
        np.where(alive, offset + size, part.floor),
        part.left - size * alive,
    )


def _passed_over(part: _Part, chosen: int, over: Bools) -> _Part | None:
    """Return the part with a buffer kept off its least offset; None where that is pointless."""
    offset = part.low[chosen]
    twins = part.twin == part.twin[chosen]
    others = over & ~twins
    lows = part.low[others]
    if not (lows < offset + part.size[chosen]).any():
        return None
    low = np.where(twins, max(offset + 1, int((lows + part.size[others]).min())), part.low)
    passed = np.where(twins, offset, part.passed)
    return replace(part, low=_aligned(low, part.align), passed=passed)


def _aligned(low: Ints, align: Ints) -> Ints:
    return np.asarray(-(-low // align) * align)
