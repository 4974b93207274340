"""Local search over placements with one replica each, every expert on a run of neighbouring banks (cyclic).

Runs lose little: what matters of a set of banks is how many there are and which experts share them. In exchange all
runs of an expert are priced at once, exactly, by sliding windows over the load of each bank (maximum) and over the
tokens that would newly hear it (sum).

A move is judged on the training steps that it changes, and accepted if it gains more than `SIGNIFICANCE` standard
errors: a placement that fits the noise of its training steps is slower on the steps that it has never seen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moe_passes.plan.decisions import Banks, Replicas
from moe_passes.solve.placement.groups import Widths, run_lengths
from moe_passes.solve.placement.problem import NOBODY, SLACK_BYTES, FloatArray, IntArray, LayerProblem

SIGNIFICANCE = 1.0
PATIENCE = 100
"""Rebuilds in a row that may gain nothing."""
TIGHT = 0.95
"""Banks fuller than this leave no room for single moves."""
PARTNERS = 4
"""Experts that an exchange is tried with."""
CALL_CELLS = 4000
"""What a change of one expert's place costs beyond its cells, in cells."""
LEAST_RUINED, MOST_RUINED = 4, 0.1
"""Experts taken out at once: at least this many, at most this share."""


def run(start: int, length: int, banks: int) -> Banks:
    """Return the banks of a run: `length` neighbours from `start`, cyclic."""
    return tuple(sorted((start + n) % banks for n in range(length)))


@dataclass(frozen=True)
class Visits:
    """Where a layer's experts are used, grouped by expert; tokens are numbered through all steps.

    Attributes:
        steps: per expert, the steps that use it, ascending.
        tokens: per expert, the tokens that use it, in the order of steps.
        firsts: per expert, where the tokens of each of its steps begin in `tokens`.
    """

    steps: list[IntArray]
    tokens: list[IntArray]
    firsts: list[IntArray]


def start_of(home: Banks, banks: int) -> int:
    """Return the first bank of a run that may wrap around."""
    if len(home) == banks:
        return 0
    return next(bank for before, bank in zip((home[-1] - banks, *home), home, strict=False) if bank != before + 1)


def visits(routing: IntArray, experts: int) -> Visits:
    """Group routing [step, token, k] by expert."""
    per_step, k = routing.shape[1], routing.shape[2]
    flat = routing.ravel()
    order = np.argsort(flat, kind="stable")
    border = np.searchsorted(flat[order], np.arange(experts + 1))
    result = Visits([], [], [])
    for expert in range(experts):
        tokens = order[border[expert] : border[expert + 1]] // k
        steps, firsts = np.unique(tokens // per_step, return_index=True)
        result.steps.append(steps)
        result.tokens.append(tokens)
        result.firsts.append(firsts)
    return result


def needs(problem: LayerProblem, where: Visits) -> list[FloatArray]:
    """Return the seconds that one bank takes for all of each expert: per expert, [channel, its steps].

    The first channel is reading. The second, computing, is left out where no expert in no step takes longer to compute
    than to read: then no bank does either.
    """
    per_token = problem.layer.macs_per_token / problem.rates.bank_macs_per_second
    reading = problem.sizes / problem.rates.bank_bytes_per_second
    counts = [np.diff(firsts, append=len(tokens)) for firsts, tokens in zip(where.firsts, where.tokens, strict=True)]
    computes = any(len(c) and c.max() * per_token > read for c, read in zip(counts, reading, strict=True))
    return [
        np.stack([np.full(len(c), read), *([c * per_token] if computes else [])])
        for c, read in zip(counts, reading, strict=True)
    ]


@dataclass(frozen=True)
class Offers:
    """Every run that an expert fits, priced.

    Attributes:
        starts: [offer].
        lengths: [offer].
        seconds: [offer, step], of the steps that use the expert.
    """

    starts: IntArray
    lengths: IntArray
    seconds: FloatArray

    def banks(self, offer: int, banks: int) -> Banks:
        """Return the banks of an offer."""
        return run(int(self.starts[offer]), int(self.lengths[offer]), banks)


class State:
    """A placement of one replica each, and what it costs in every step.

    Attributes:
        homes: banks (or the group) of every resident expert that has a place.
        need: per expert, [channel, its steps] seconds that one bank would take for all of it: reading, and computing
            where that can take longer.
        load: [channel, step, bank], seconds of each bank; of a group, of each of its banks.
        held: [bank], bytes that lie there.
        seconds: [step].
        cells: table cells priced so far.
    """

    def __init__(
        self,
        problem: LayerProblem,
        routing: IntArray,
        replicas: Replicas,
        floor: FloatArray,
        widths: Widths | None = None,
    ) -> None:
        """Start from a placement.

        Args:
            problem: the layer.
            routing: [step, token, k], the steps to search on.
            replicas: where the search starts; the first replica of each expert counts.
            floor: [step], seconds that a step takes whatever the placement: the external channel.
            widths: of groups of banks, which then take the place of banks: every expert lies in one of them.
        """
        rates, self.problem, self.sizes = problem.rates, problem, problem.sizes
        self.width = np.ones(rates.banks) if widths is None else np.array(widths, dtype=np.float64)
        self.banks = len(self.width)
        self.link_rate = rates.partial_sum_bytes / rates.link_bytes_per_second
        used = {len(copy) for copies in replicas for copy in copies}
        self.lengths = tuple(sorted({*run_lengths(self.banks), *used})) if widths is None else (1,)
        resident = np.append(self.sizes > 0, False)
        routing = np.where(resident[routing], routing, NOBODY)
        self.visits = visits(routing, len(self.sizes))
        self.need = needs(problem, self.visits)
        steps, tokens = routing.shape[:2]
        self.load = np.zeros((len(self.need[0]), steps, self.banks))
        self.cover = np.zeros((steps * tokens, self.banks), dtype=np.int16)
        self.heard = np.zeros(steps)
        self.held = np.zeros(self.banks)
        self.floor = floor
        self.seconds = floor.copy()
        self.homes: dict[int, Banks] = {}
        self.cells = 0
        for expert, copies in enumerate(replicas):
            if copies:
                self.insert(expert, copies[0])

    def insert(self, expert: int, home: Banks) -> None:
        """Give a place to an expert that has none."""
        self._change(expert, home, 1)
        self.homes[expert] = home

    def remove(self, expert: int) -> Banks:
        """Take an expert off its place."""
        home = self.homes.pop(expert)
        self._change(expert, home, -1)
        return home

    def _change(self, expert: int, home: Banks, sign: int) -> None:
        where = np.array(home)
        share = sign / len(home) / self.width[where]
        steps, tokens, firsts = self.visits.steps[expert], self.visits.tokens[expert], self.visits.firsts[expert]
        self.held[where] += share * self.sizes[expert]
        if not len(steps):
            return
        everywhere = len(home) == self.banks
        for load, need in zip(self.load, self.need[expert], strict=True):
            load[steps if everywhere else np.ix_(steps, where)] += need[:, None] * share
        rows = tokens if everywhere else np.ix_(tokens, where)
        cover = self.cover[rows]
        alone = (cover == (0 if sign > 0 else 1)) @ self.width[where]
        self.cover[rows] = cover + sign
        self.heard[steps] += sign * np.add.reduceat(alone, firsts)
        banks = self.load[:, steps].max(axis=(0, 2))
        self.seconds[steps] = np.maximum(np.maximum(banks, self.heard[steps] * self.link_rate), self.floor[steps])
        self.cells += (len(steps) + len(tokens)) * len(home) + CALL_CELLS

    def has_room(self) -> bool:
        """Say whether no bank holds more than it may."""
        return bool(self.held.max() <= self.problem.bank_limit_bytes + SLACK_BYTES)

    def offers(self, expert: int, limit: float | None = None) -> Offers:
        """Price every run that an expert fits, as if it had no place; `limit` replaces the bytes a bank may hold."""
        size, limit = self.sizes[expert], (self.problem.bank_limit_bytes if limit is None else limit) + SLACK_BYTES
        steps, load, free, heard, held = self._without(expert)
        floor, need = self.floor[steps][:, None], self.need[expert][:, :, None]
        highest = load.max(axis=2)[:, :, None]
        windows, rooms = _Windows(load.reshape(-1, self.banks)), _Windows(held[None])
        sums = _prefix_sums(free * self.width)
        blocks, starts_of, lengths_of = [], [], []
        for length in self.lengths:
            part = size / length / self.width
            starts = np.flatnonzero(rooms.maximum(length)[0] + part <= limit)
            starts = starts[:1] if length == self.banks else starts
            if not len(starts):
                continue
            fullest = windows.maximum(length)[:, starts].reshape(*load.shape[:2], len(starts))
            busiest = np.maximum(highest, fullest + need / length / self.width[starts]).max(axis=0)
            link = (heard[:, None] + (sums[:, starts + length] - sums[:, starts])) * self.link_rate
            blocks.append(np.maximum(np.maximum(busiest, link), floor))
            starts_of.append(starts)
            lengths_of.append(np.full(len(starts), length))
            self.cells += busiest.size
        self.cells += load.size + len(self.visits.tokens[expert]) * self.banks + CALL_CELLS
        if not blocks:
            return Offers(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros((0, len(steps))))
        return Offers(np.concatenate(starts_of), np.concatenate(lengths_of), np.hstack(blocks).T)

    def _without(self, expert: int) -> tuple[IntArray, FloatArray, IntArray, FloatArray, FloatArray]:
        """Return what would be without an expert.

        Its steps; their load [channel, step, bank], the tokens of each step that would newly hear each bank [step,
        bank], the banks that the others hear [step]; and the bytes in each bank.
        """
        steps, tokens, firsts = self.visits.steps[expert], self.visits.tokens[expert], self.visits.firsts[expert]
        load, heard, held = self.load[:, steps], self.heard[steps], self.held
        unheard = self.cover[tokens] == 0
        home = self.homes.get(expert)
        if home is not None:
            where = np.array(home)
            share = 1 / len(home) / self.width[where]
            load[:, :, where] -= self.need[expert][:, :, None] * share
            held = held.copy()
            held[where] -= share * self.sizes[expert]
            unheard[:, where] = alone = self.cover[tokens[:, None], where] == 1
            heard = heard - np.add.reduceat(alone @ self.width[where], firsts)
        return steps, load, np.add.reduceat(unheard, firsts, axis=0, dtype=np.int32), heard, held

    def replicas(self) -> Replicas:
        """Return the placement."""
        return tuple((self.homes[e],) if e in self.homes else () for e in range(len(self.sizes)))


def _prefix_sums(table: FloatArray) -> FloatArray:
    """Return sums of the first columns of a table that is repeated once: [row, 2·banks + 1]."""
    return np.asarray(np.cumsum(np.hstack([np.zeros_like(table[:, :1]), table, table]), axis=1))


def runs_sum(table: FloatArray, length: int) -> FloatArray:
    """Return the sum of every cyclic window of `length` columns: [row, start]."""
    sums, banks = _prefix_sums(table), table.shape[1]
    return np.asarray(sums[:, length : length + banks] - sums[:, :banks])


class _Windows:
    """Maxima of cyclic windows over the columns of a table: [row, start], by length."""

    def __init__(self, table: FloatArray) -> None:
        self.banks = table.shape[1]
        self.levels = [np.hstack([table, table])]

    def maximum(self, length: int) -> FloatArray:
        """Return the maximum of every window of `length` columns; columns of the result are starts."""
        level = length.bit_length() - 1
        while len(self.levels) <= level:
            last, reach = self.levels[-1], 1 << (len(self.levels) - 1)
            self.levels.append(np.maximum(last[:, :-reach], last[:, reach:]))
        table, shift = self.levels[level], length - (1 << level)
        return np.maximum(table[:, : self.banks], table[:, shift : shift + self.banks])


def relocate(state: State, expert: int) -> bool:
    """Move one expert to its best run, if the gain is significant."""
    steps = state.visits.steps[expert]
    if not len(steps):
        return False
    offers = state.offers(expert)
    best = int(np.argmin(offers.seconds.sum(axis=1))) if len(offers.starts) else -1
    if best < 0 or not is_significant(state.seconds[steps] - offers.seconds[best]):
        return False
    state.remove(expert)
    state.insert(expert, offers.banks(best, state.banks))
    return True


def exchange(state: State, expert: int) -> bool:
    """Exchange the places of two experts of one size: the only move where banks are full.

    Partners are those whose places would suit the expert best, were they free.
    """
    steps = state.visits.steps[expert]
    if not len(steps):
        return False
    mine = state.homes[expert]
    offers = state.offers(expert, np.inf)
    runs = zip(offers.starts.tolist(), offers.lengths.tolist(), strict=True)
    cost = dict(zip(runs, offers.seconds.sum(axis=1).tolist(), strict=True))
    others = [
        (cost[start_of(home, state.banks), len(home)], other)
        for other, home in state.homes.items()
        if home != mine and state.sizes[other] == state.sizes[expert]
    ]
    return any(_exchanged(state, expert, other) for _, other in sorted(others)[:PARTNERS])


def _exchanged(state: State, expert: int, other: int) -> bool:
    """Exchange two experts; undo it where the gain is not significant."""
    steps = np.union1d(state.visits.steps[expert], state.visits.steps[other])
    before = state.seconds[steps]
    _swap(state, expert, other)
    if is_significant(before - state.seconds[steps]) and state.has_room():
        return True
    _swap(state, expert, other)
    return False


def _swap(state: State, one: int, other: int) -> None:
    first, second = state.remove(one), state.remove(other)
    state.insert(one, second)
    state.insert(other, first)


def rebuild(state: State, random: np.random.Generator) -> bool:
    """Take some experts out at random and put each back on its best run; undo it where that gains nothing."""
    placed = sorted(state.homes)
    most = max(LEAST_RUINED, int(MOST_RUINED * len(placed)))
    chosen = random.permutation(placed)[: int(random.integers(2, most + 1))].tolist()
    before, old = state.seconds.copy(), {expert: state.remove(expert) for expert in chosen}
    if _put_back(state, chosen, old) and is_significant(before - state.seconds):
        return True
    for expert in chosen:
        if expert in state.homes:
            state.remove(expert)
    for expert in chosen:
        state.insert(expert, old[expert])
    return False


def _put_back(state: State, chosen: list[int], old: dict[int, Banks]) -> bool:
    """Insert experts one by one where each costs least; say whether all found room."""
    for expert in chosen:
        if not len(state.visits.steps[expert]):
            state.insert(expert, old[expert])
            continue
        offers = state.offers(expert)
        if not len(offers.starts):
            return False
        state.insert(expert, offers.banks(int(np.argmin(offers.seconds.sum(axis=1))), state.banks))
    return state.has_room()


def is_significant(gains: FloatArray) -> bool:
    """Say whether the sum of gains (seconds, by step) is more than `SIGNIFICANCE` of its standard errors."""
    total = float(gains.sum())
    return total > 0 and total > SIGNIFICANCE * float(np.sqrt(np.square(gains).sum()))


def search(state: State, seed: int, work: int) -> None:
    """Sweep over the experts while that gains, then rebuild parts, until so many table cells have been priced."""
    random = np.random.default_rng(seed)
    limit = state.cells + work
    is_tight = state.held.max(initial=0.0) > TIGHT * state.problem.bank_limit_bytes
    while _sweep(state, random, limit, relocate) | (is_tight and _sweep(state, random, limit, exchange)):
        pass
    failures = 0
    while state.cells < limit and failures < PATIENCE and len(state.homes) > 1:
        failures = 0 if rebuild(state, random) else failures + 1


def _sweep(state: State, random: np.random.Generator, limit: int, move: Callable[[State, int], bool]) -> bool:
    """Try a move on every expert, in random order, while there is work left; say whether one gained."""
    gained = False
    for expert in random.permutation(sorted(state.homes)).tolist():
        if state.cells >= limit:
            return False
        gained |= move(state, expert)
    return gained
