"""Search for an allocation below the capacity, over canonical solutions only, in parts that time separates.

The ideas are those of MiniMalloc (Moffitt, "MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated
Machine Learning", ASPLOS 2023); the branching is ours.

**Canonical.** If there is an allocation, there is one with the least sum of offsets. In it no buffer can be moved to a
lower place that is free; so each lies at 0 or, but for alignment, on one that it overlaps in time. It is built from
below: buffers in the order of their offsets, each at its *least offset*, the top of what lies under it. So a state is
the least offsets of the buffers that are left, and what is left in every section of time (between two starts or ends
of buffers).

**Branching.** Take the buffer with the smallest least offset, ties by rank. Either it lies there; or it is *passed
over*, and then it will lie on an overlapping buffer that is still left, so its least offset rises to the lowest top
that one of those can have. Passing over is only worth it if one of them comes to lie so low that it takes the place:
otherwise the buffer could still be lowered. So if none can any more, the state is abandoned; and until one has, the
buffer is passed over again wherever it has the smallest least offset.

Buffers that are alike are passed over together: were one of them to lie there, it could change places with the first,
which keeps the sum.

**Sections.** In each section, the smallest least offset of what is left there, plus the bytes that are left there, must
not exceed the capacity.

**Parts.** Where no buffer that is left crosses a border between sections, the two sides have nothing to do with each
other: each is searched alone, the tighter first, and one that fails fails the state.

The search is complete: without a limit it finds a solution or proves that there is none. Which buffer comes first
matters much on hard instances, so it is run with several ranks, each time up to a limit that grows: as published (by
lifetime, area and fullest section), then disturbed at random, with those buffers to the front that were left over
where a run had to give up, lately and often (the weights of Boussemart, Hemery, Lecoutre, Sais, "Boosting systematic
search by weighting constraints", ECAI 2004).
"""

from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moe_passes.solve.allocation.problem import Lifetime, Problem

Ints = npt.NDArray[np.signedinteger[Any]]
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
    for part, state in _split(*layout.whole()):
        found, visited, is_complete = _run_all(layout, part, state, seed, states - spent)
        spent += visited
        if found is None:
            return Outcome(None, is_complete, spent)
        offsets[part.buffers] = found[part.buffers]
    return Outcome((offsets * layout.unit).tolist(), False, spent)


class _SpentError(Exception):
    """The limit on states is reached."""


@dataclass(frozen=True)
class _Part:
    """Buffers, by rank, and the sections of time that hold them: what a search does not change. Addresses are in units.

    Attributes:
        buffers: [buffer], their numbers in the problem.
        first: [buffer], the section that each is alive from.
        last: [buffer], the section that it is no longer alive in.
        near_first: [buffer], sections of all that it overlaps: none is before this one,
        near_last: [buffer], and this one is after all.
        size: [buffer].
        highest: [buffer], the highest offset below the capacity.
        align: [buffer]; None where all are 1.
        twin: [buffer], one number for all that are alike in lifetime, size and alignment.
        overlap: [buffer, buffer], whether two are alive together.
        never: a power of two above every address.
        absent: [section, buffer], `never` where a buffer is not alive, 0 where it is.
    """

    buffers: Ints
    first: Ints
    last: Ints
    near_first: Ints
    near_last: Ints
    size: Ints
    highest: Ints
    align: Ints | None
    twin: Ints
    overlap: Bools
    never: int
    absent: Ints

    def select(self, rows: Ints, first: int, last: int) -> "_Part":
        """Return some of the buffers, and the sections from `first` to before `last`."""
        return _Part(
            self.buffers[rows],
            self.first[rows] - first,
            self.last[rows] - first,
            np.maximum(self.near_first[rows] - first, 0),
            self.near_last[rows] - first,
            self.size[rows],
            self.highest[rows],
            None if self.align is None else self.align[rows],
            self.twin[rows],
            self.overlap[rows[:, None], rows],
            self.never,
            self.absent[first:last, rows],
        )


class _State(NamedTuple):
    """What a search has come to in a part.

    Attributes:
        placed: number of buffers that are.
        low: [buffer], least offsets; at least `never` of those that are placed.
        wanted: [buffer], of one that was passed over: the top of the place that it left, as long as no other has taken
            any of that; else 0.
        room: [section], the highest that the floor may be: the capacity less the bytes that are left.
        crossing: [section], buffers left that are alive there and in the next one; 1 of the last section.
    """

    placed: int
    low: Ints
    wanted: Ints
    room: Ints
    crossing: Ints

    def select(self, rows: Ints, first: int, last: int) -> "_State":
        """Return the same of some of the buffers that are left and some sections."""
        crossing = self.crossing[first:last].copy()
        crossing[-1] = 1
        return _State(0, self.low[rows], self.wanted[rows], self.room[first:last], crossing)


class _Layout:
    """The problem in units and sections."""

    def __init__(self, problem: Problem) -> None:
        buffers = problem.buffers
        size = np.array([b.size for b in buffers], dtype=np.int64)
        align = np.array([problem.alignment(buffer) for buffer in buffers], dtype=np.int64)
        # Least offsets are sums of sizes, rounded up to alignments.
        self.unit = int(np.gcd.reduce(np.concatenate([size, align[align > 1]])))
        self.capacity = problem.capacity_bytes // self.unit
        self.size = size // self.unit
        # Whatever is aligned to more than the capacity lies at 0 or nowhere.
        self.align = np.clip(align // self.unit, 1, self.capacity + 1)
        self.alive = _sections(buffers)

    def whole(self) -> tuple[_Part, _State]:
        """Return all buffers, in the order of the problem."""
        alive, size = self.alive, self.size
        # Narrow numbers are faster. Four times the capacity is above any sum of two addresses, a size and an alignment.
        is_narrow = self.capacity < 1 << 28
        kind, never = np.dtype(np.int32 if is_narrow else np.int64), 1 << (30 if is_narrow else 60)
        first, count = alive.argmax(axis=1), alive.shape[1]
        last = first + alive.sum(axis=1)
        overlap = (first[:, None] < last) & (first < last[:, None])
        np.fill_diagonal(overlap, False)
        twin = np.unique(np.stack([first, last, size, self.align], axis=1), axis=0, return_inverse=True)[1].ravel()
        part = _Part(
            np.arange(len(size)),
            first,
            last,
            np.where(overlap, first, first[:, None]).min(axis=1),
            np.where(overlap, last, last[:, None]).max(axis=1),
            size.astype(kind),
            (self.capacity - size).astype(kind),
            None if (self.align == 1).all() else self.align.astype(kind),
            twin,
            overlap,
            never,
            np.where(alive.T, 0, never).astype(kind),
        )
        crossing = np.ones(count, dtype=np.int64)
        crossing[:-1] = (alive[:, :-1] & alive[:, 1:]).sum(axis=0)
        room = np.maximum(self.capacity - (alive * size[:, None]).sum(axis=0), -1).astype(kind)
        none = np.zeros(len(size), dtype=kind)
        return part, _State(0, none, none, room, crossing)


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


def _split(part: _Part, state: _State) -> list[tuple[_Part, _State]]:
    """Leave out what is placed and cut where no buffer crosses; the tightest part comes first."""
    borders = (np.flatnonzero(state.crossing == 0) + 1).tolist()
    is_left, found = state.low < part.never, []
    for first, last in zip([0, *borders], [*borders, len(state.room)], strict=True):
        rows = np.flatnonzero(is_left & (part.first >= first) & (part.last <= last) & (part.first < part.last))
        if len(rows):
            found.append((part.select(rows, first, last), state.select(rows, first, last)))
    return sorted(found, key=_tightness, reverse=True) if len(found) > 1 else found


def _tightness(piece: tuple[_Part, _State]) -> tuple[int, int]:
    part, state = piece
    return int((_floor(part, state, slice(None)) - state.room).max()), -len(part.buffers)


def _floor(part: _Part, state: _State, sections: slice) -> Ints:
    """Return the smallest least offset in each section: what is left there cannot lie any lower."""
    return np.asarray(np.minimum.reduce(part.absent[sections] | state.low, axis=1))


def _run_all(layout: _Layout, part: _Part, state: _State, seed: int, states: int) -> tuple[Ints | None, int, bool]:
    """Run with one rank after another; returns offsets, states visited, and whether none is proved."""
    random, visited, orders = np.random.default_rng(seed), 0, _orders(part, state)
    weights = np.zeros(len(layout.size))
    if len(part.buffers) > MOST_BUFFERS:
        return None, 0, False
    for number in count():
        turn = number // len(orders)
        most = LATER_STATES + MORE_STATES * turn if number else FIRST_STATES
        run = _Run(layout, weights, most, states - visited)
        order = orders[number % len(orders)]
        if turn:
            order = _disturbed(order, weights[part.buffers], random)
        try:
            everything = (order, 0, len(state.room))
            if run.search(part.select(*everything), state.select(*everything)):
                return run.offsets, visited + run.charged, False
            return None, visited + run.charged, True
        except _SpentError:
            visited += run.charged
        if visited >= states:
            break
        weights *= DECAY
    return None, visited, False


def _disturbed(order: Ints, weights: Floats, random: np.random.Generator) -> Ints:
    """Return an order with its places disturbed, the weightier buffers the further to the front."""
    place = np.empty(len(order))
    place[order] = np.arange(len(order)) + random.normal(0.0, NOISE, len(order))
    place -= PULL * len(order) * weights / max(float(weights.max(initial=0.0)), 1.0)
    return np.argsort(place, kind="stable")


def _orders(part: _Part, state: _State) -> list[Ints]:
    """Return orders as published: by lifetime, area, fullest section, size, each from the largest down."""
    width = part.last - part.first
    area, full = width * part.size, -(part.absent | state.room[:, None]).min(axis=0)
    keys = ((width, area, full), (full, area, width), (full, width, area), (area, width, full), (part.size, width))
    return [np.lexsort([-key for key in reversed(by)]) for by in keys]


class _Run:
    """One depth-first search; it adds to the weights of buffers that are left over where it has to give up."""

    def __init__(self, layout: _Layout, weights: Floats, most: int, most_charged: int) -> None:
        self.capacity, self.weights = layout.capacity, weights
        self.most, self.most_charged, self.states, self.charged = most, most_charged, 0, 0
        self.offsets = np.zeros(len(layout.size), dtype=np.int64)

    def search(self, part: _Part, state: _State) -> bool:
        """Place all buffers that are left of a part; say whether that is possible."""
        return self._may_succeed(part, state, slice(None)) and self._place(part, state)

    def _place(self, part: _Part, state: _State | None) -> bool:
        while state is not None:
            chosen = int(state.low.argmin())
            # One that was passed over could still be lowered if it lay here: nothing has taken its place.
            after = None if state.wanted[chosen] else self._placed(part, state, chosen)
            if after is not None:
                self.offsets[part.buffers[chosen]] = state.low[chosen]
                for piece in _pieces(part, after):
                    if not self._place(*piece):
                        break
                else:
                    return True
            state = self._passed_over(part, state, chosen)
        return False

    def _placed(self, part: _Part, state: _State, chosen: int) -> _State | None:
        """Place a buffer at its least offset; None where the rest cannot be placed then."""
        offset, size = state.low[chosen], part.size[chosen]
        first, last = int(part.first[chosen]), int(part.last[chosen])
        overlap = part.overlap[chosen]
        low = _aligned(np.maximum(state.low, overlap * (offset + size)), part.align)
        low[chosen] = part.never
        wanted = np.where(overlap & (offset < state.wanted), 0, state.wanted)
        room, crossing = state.room.copy(), state.crossing.copy()
        room[first:last] += size
        crossing[first : last - 1] -= 1
        after = _State(state.placed + 1, low, wanted, room, crossing)
        near = slice(int(part.near_first[chosen]), int(part.near_last[chosen]))
        return after if self._may_succeed(part, after, near) else None

    def _passed_over(self, part: _Part, state: _State, chosen: int) -> _State | None:
        """Keep a buffer, and those that are like it, off its least offset; None where that is pointless."""
        twins = np.flatnonzero((part.twin == part.twin[chosen]) & (state.low < part.never))
        top = state.wanted[chosen] or state.low[chosen] + part.size[chosen]
        others = part.overlap[chosen].copy()
        others[twins] = False
        lows = state.low[others]
        if not np.count_nonzero(lows < top):
            return None
        low, wanted = state.low.copy(), state.wanted.copy()
        low[twins], wanted[twins] = np.minimum.reduce(lows + part.size[others]), top
        after = state._replace(low=_aligned(low, part.align), wanted=wanted)
        return after if self._may_succeed(part, after, slice(int(part.first[chosen]), int(part.last[chosen]))) else None

    def _may_succeed(self, part: _Part, state: _State, changed: slice) -> bool:
        """Look at a new state, of which nothing else than the sections `changed` differs from the one before."""
        self.states += 1
        self.charged += 1 + part.absent.size // CELLS_PER_STATE
        if self.states > self.most or self.charged > self.most_charged:
            raise _SpentError
        too_high = state.low > part.highest
        if np.count_nonzero(too_high) > state.placed:
            self.weights[part.buffers[too_high & (state.low < part.never)]] += 1.0
            return False
        too_full = np.minimum(_floor(part, state, changed), self.capacity) > state.room[changed]
        if np.count_nonzero(too_full):
            section = (changed.start or 0) + int(too_full.argmax())
            self.weights[part.buffers[(state.low | part.absent[section]) < part.never]] += 1.0
            return False
        waiting = state.wanted.nonzero()[0]
        if not len(waiting):
            return True
        may_take = part.overlap[waiting] & (state.low < state.wanted[waiting, None])
        return bool(np.logical_or.reduce(may_take, axis=1).all())


def _pieces(part: _Part, state: _State) -> list[tuple[_Part, _State]]:
    """Return what is left, rid of what is placed and cut where nothing crosses, where that is worth the work."""
    if state.placed == len(part.buffers):
        return []
    if state.crossing.all() and 2 * state.placed < len(part.buffers):
        return [(part, state)]
    return _split(part, state)


def _aligned(low: Ints, align: Ints | None) -> Ints:
    return low if align is None else np.asarray(-(-low // align) * align)
