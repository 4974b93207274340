"""Replicas in spare capacity: local search over placements in which an expert may have several.

The busiest bank alone is a poor guide: where two banks are equally busy, relieving one of them gains nothing yet. So
moves are judged by the p-norm of a step's bank loads, which falls with either and is the maximum for p → ∞. Each
training step is served by whichever replica keeps its norm lowest, everything else staying; the dispatcher has all
steps anew in the end, and a placement with replicas is kept only if it gains.

First copies are added of whichever expert the busiest banks owe most to, while there is room and one gains; then single
replicas move, change places or give up their place for a copy of another expert.
"""

from collections.abc import Callable

import numpy as np

from moe_passes.plan.decisions import Banks, Replicas, shared_banks
from moe_passes.solve.placement.problem import SLACK_BYTES, FloatArray, IntArray, LayerProblem
from moe_passes.solve.placement.search import CALL_CELLS, PARTNERS, State, is_significant, run, runs_sum, start_of

POWER = 8
"""Of the norm: a power of two."""
MOST_COPIES = 8
"""Replicas of one expert."""
PATIENCE = 64
"""Moves in a row that may gain nothing."""


def replicate(problem: LayerProblem, state: State, replicas: Replicas, seed: int, work: int) -> Replicas:
    """Add replicas to a placement and improve it, while something gains and the work lasts.

    Args:
        problem: the layer.
        state: of the same experts and banks (or groups of banks); read, never changed, but for the work it counts.
        replicas: where the search starts.
        seed: of the order in which moves are tried.
        work: table cells that may be priced.
    """
    end = state.cells + work
    copies = Copies(problem, state, replicas)
    copies.settle()
    fill(copies, end)
    improve(copies, np.random.default_rng([seed, 11]), end)
    return copies.replicas()


def fill(copies: "Copies", end: int) -> None:
    """Add copies of the experts that the busiest banks owe most to, until none gains."""
    closed = np.zeros(len(copies.homes), dtype=np.bool_)
    while copies.state.cells < end:
        expert = copies.most_blamed(closed)
        if expert is None:
            return
        closed[expert] = not copies.add(expert)


def improve(copies: "Copies", random: np.random.Generator, end: int) -> None:
    """Move replicas until nothing has gained for long."""
    _repeat(copies, random, end, (copies.relocate, copies.exchange, copies.displace))


def swap(copies: "Copies", random: np.random.Generator, end: int) -> None:
    """Move replicas, every bank keeping as many as it has, until nothing has gained for long."""
    _repeat(copies, random, end, (copies.exchange, copies.displace))


def _repeat(copies: "Copies", random: np.random.Generator, end: int, moves: tuple[Callable[[int], bool], ...]) -> None:
    """Try moves on one expert after the other, the most blamed the most likely."""
    failures = 0
    while copies.state.cells < end and failures < PATIENCE:
        blame = copies.blame()
        total = float(blame.sum())
        if not total:
            return
        expert = int(random.choice(len(blame), p=blame / total))
        failures = 0 if any(move(expert) for move in moves) else failures + 1


class Copies:
    """A placement with replicas, the one that serves each step of each expert, and the norm of what that loads.

    Attributes:
        homes: banks of every replica, by expert.
        serving: [its steps], the replica that serves each step of an expert.
        load: [channel, step, bank], relative to the fullest bank of the state.
        norms: [step].
        held: [bank], bytes.
    """

    def __init__(self, problem: LayerProblem, state: State, replicas: Replicas) -> None:
        self.problem, self.state = problem, state
        self.homes = [list(homes) for homes in replicas]
        self.serving = [np.zeros(len(steps), dtype=np.int64) for steps in state.visits.steps]
        self.unit = max(float(state.load.max()), 1e-30)
        self.load = np.zeros_like(state.load)
        self.held = np.zeros(state.banks)
        self.waits = state.load.max(axis=(0, 2)) > np.maximum(state.heard * state.link_rate, state.floor)
        self.used = np.zeros((len(replicas), len(self.waits)))
        for expert, homes in enumerate(self.homes):
            self.used[expert, state.visits.steps[expert]] = self.waits[state.visits.steps[expert]]
            self._serve(expert, 1)
            for home in homes:
                self.held[list(home)] += self._bytes(expert, home)
        self.norms = self._norm(self.load)

    def replicas(self) -> Replicas:
        """Return the placement."""
        return tuple(tuple(homes) for homes in self.homes)

    def spare_bytes(self) -> float:
        """Return the bytes that further replicas may take."""
        sizes = self.problem.sizes
        taken = sum(float(sizes[e]) * (len(homes) - 1) for e, homes in enumerate(self.homes) if homes)
        return self.problem.spare_bytes - taken

    def settle(self) -> None:
        """Let every step choose anew which replicas serve it."""
        for expert, homes in enumerate(self.homes):
            if len(homes) > 1:
                self._set(expert, homes, self._best_serving(expert, homes))

    def blame(self) -> FloatArray:
        """Return how much of the norms of the steps that wait for banks each expert makes up: [expert]."""
        powers = _power(self.load)
        price = (powers / np.maximum(self.load, 1e-30)).max(axis=0)
        price /= np.maximum(powers.max(axis=0) @ self.state.width, 1e-30)[:, None] ** (1 - 1 / POWER)
        share = np.zeros((len(self.homes), self.state.banks))
        for expert, homes in enumerate(self.homes):
            for home in homes:
                share[expert, list(home)] += 1 / len(home) / len(homes)
        self.state.cells += self.used.size
        return np.asarray(((self.used @ price) * share).sum(axis=1))

    def most_blamed(self, closed: np.ndarray) -> int | None:
        """Return the expert that is blamed most and may have another copy."""
        counts = np.array([len(homes) for homes in self.homes])
        may = ~closed & (counts > 0) & (counts < MOST_COPIES) & (self.problem.sizes <= self.spare_bytes())
        blame = np.where(may, self.blame(), 0.0)
        worst = int(np.argmax(blame))
        return worst if blame[worst] > 0 else None

    def add(self, expert: int) -> bool:
        """Add the copy of an expert that gains most; say whether one gains."""
        homes = self.homes[expert]
        offer = self._best_run(expert, homes)
        if offer is None:
            return False
        return self._changed({expert: [*homes, offer]}, is_sure=False)

    def relocate(self, expert: int) -> bool:
        """Move one of the replicas that serve an expert most to where it gains most; say whether one gains."""
        used = np.bincount(self.serving[expert], minlength=len(self.homes[expert]))
        for number in np.argsort(-used, kind="stable")[:PARTNERS].tolist():
            others = self._others(expert, number)
            offer = self._best_run(expert, others, self.homes[expert][number])
            if offer is not None and self._changed({expert: [*others, offer]}):
                return True
        return False

    def exchange(self, expert: int) -> bool:
        """Let a replica change places with one of another expert of its size."""
        if not self.homes[expert] or not len(self.serving[expert]):
            return False
        number = int(np.argmax(np.bincount(self.serving[expert])))
        mine, others = self.homes[expert][number], self._others(expert, number)
        cost = self._run_prices(expert, others, len(mine)).sum(axis=0)
        partners = sorted(
            (float(cost[start_of(home, self.state.banks)]), other, place)
            for other, homes in enumerate(self.homes)
            for place, home in enumerate(homes)
            if other != expert
            and len(home) == len(mine)
            and home != mine
            and self.problem.sizes[other] == self.problem.sizes[expert]
            and not shared_banks([home, *others])
            and not shared_banks([mine, *self._others(other, place)])
        )
        return any(self._exchanged(expert, number, other, place) for _, other, place in partners[:PARTNERS])

    def _exchanged(self, expert: int, number: int, other: int, place: int) -> bool:
        mine, yours = self.homes[expert][number], self.homes[other][place]
        return self._changed(
            {expert: [*self._others(expert, number), yours], other: [*self._others(other, place), mine]}
        )

    def displace(self, expert: int) -> bool:
        """Let a copy of an expert take the place of another expert's copy."""
        homes = self.homes[expert]
        if not homes or len(homes) >= MOST_COPIES or not len(self.serving[expert]):
            return False
        cost = self._run_prices(expert, homes, len(homes[0])).sum(axis=0)
        places = sorted(
            (float(cost[start_of(home, self.state.banks)]), other, place)
            for other, copies in enumerate(self.homes)
            if len(copies) > 1 and other != expert and self.problem.sizes[other] == self.problem.sizes[expert]
            for place, home in enumerate(copies)
            if len(home) == len(homes[0]) and not shared_banks([home, *homes])
        )
        return any(
            self._changed({other: self._others(other, place), expert: [*homes, self.homes[other][place]]})
            for _, other, place in places[:PARTNERS]
        )

    def _others(self, expert: int, number: int) -> list[Banks]:
        return self.homes[expert][:number] + self.homes[expert][number + 1 :]

    def _changed(self, homes: dict[int, list[Banks]], is_sure: bool = True) -> bool:
        """Give some experts other homes; undo it where the gain is none (or, if it must be sure, not significant)."""
        steps = np.unique(np.concatenate([self.state.visits.steps[expert] for expert in homes]))
        before = np.where(self.waits[steps], self.norms[steps], 0.0)
        old = {expert: (self.homes[expert], self.serving[expert]) for expert in homes}
        for expert, chosen in homes.items():
            self._set(expert, chosen, self._best_serving(expert, chosen))
        gains = before - np.where(self.waits[steps], self.norms[steps], 0.0)
        if is_significant(gains) if is_sure else gains.sum() > 1e-9 * before.sum():
            return True
        for expert, (was, serving) in old.items():
            self._set(expert, was, serving)
        return False

    def _set(self, expert: int, homes: list[Banks], serving: IntArray) -> None:
        steps = self.state.visits.steps[expert]
        self._serve(expert, -1)
        for home in self.homes[expert]:
            self.held[list(home)] -= self._bytes(expert, home)
        self.homes[expert], self.serving[expert] = homes, serving
        self._serve(expert, 1)
        for home in homes:
            self.held[list(home)] += self._bytes(expert, home)
        self.norms[steps] = self._norm(self.load[:, steps])
        self.state.cells += len(steps) * self.state.banks + CALL_CELLS

    def _serve(self, expert: int, sign: int) -> None:
        for number, home in enumerate(self.homes[expert]):
            rows = np.flatnonzero(self.serving[expert] == number)
            where = np.array(home)
            steps = self.state.visits.steps[expert][rows]
            for load, part in zip(self.load, self._part(expert, home), strict=True):
                load[np.ix_(steps, where)] += sign * part[rows]

    def _part(self, expert: int, home: Banks) -> FloatArray:
        """Load of an expert in each bank of a home: [channel, its steps, bank of the home]."""
        share = 1 / len(home) / self.state.width[list(home)] / self.unit
        return np.asarray(self.state.need[expert][:, :, None] * share)

    def _bytes(self, expert: int, home: Banks) -> FloatArray:
        """Bytes of an expert in each bank of a home."""
        return np.asarray(self.problem.sizes[expert] / len(home) / self.state.width[list(home)])

    def _norm(self, load: FloatArray) -> FloatArray:
        """The largest norm of the channels: [step]."""
        return np.asarray((_power(load) @ self.state.width).max(axis=0) ** (1 / POWER))

    def _without(self, expert: int) -> FloatArray:
        """Return the load of the expert's steps without it: [channel, its steps, bank]."""
        load = self.load[:, self.state.visits.steps[expert]]
        for number, home in enumerate(self.homes[expert]):
            rows = np.flatnonzero(self.serving[expert] == number)
            where = np.array(home)
            for channel, part in zip(load, self._part(expert, home), strict=True):
                channel[np.ix_(rows, where)] -= part[rows]
        return np.maximum(load, 0.0)

    def _best_serving(self, expert: int, homes: list[Banks]) -> IntArray:
        """Return the replica that keeps each step's norm lowest: [its steps]."""
        if len(homes) < 2:
            return np.zeros(len(self.state.visits.steps[expert]), dtype=np.int64)
        return np.asarray(np.argmin(self._prices(expert, self._without(expert), homes), axis=0))

    def _prices(self, expert: int, without: FloatArray, homes: list[Banks]) -> FloatArray:
        """Return the norm of every step if each replica served it: [replica, its steps]."""
        rest = _power(without) @ self.state.width
        self.state.cells += len(homes) * (len(rest[0]) + CALL_CELLS)
        prices = []
        for home in homes:
            where = np.array(home)
            here = without[:, :, where]
            more = (_power(here + self._part(expert, home)) - _power(here)) @ self.state.width[where]
            prices.append(np.maximum(rest + more, 0.0).max(axis=0) ** (1 / POWER))
        return np.array(prices)

    def _run_prices(self, expert: int, others: list[Banks], length: int) -> FloatArray:
        """Return norms of an expert's steps with its other replicas and one more on each run: [its steps, start]."""
        without, width = self._without(expert), self.state.width
        rest = _power(without)
        part = self.state.need[expert][:, :, None] / length / width / self.unit
        after = []
        for channel, powers, grown in zip(without, rest, part, strict=True):
            more = runs_sum((_power(channel + grown) - powers) * width, length)
            after.append((powers @ width)[:, None] + more)
        self.state.cells += 4 * without.size + CALL_CELLS
        prices = np.maximum(np.max(after, axis=0), 0.0) ** (1 / POWER)
        if others:
            prices = np.minimum(prices, self._prices(expert, without, others).min(axis=0)[:, None])
        return np.where(self.waits[self.state.visits.steps[expert]][:, None], prices, 0.0)

    def _best_run(self, expert: int, others: list[Banks], old: Banks | None = None) -> Banks | None:
        """Return the run with room, of the width of the expert's replicas, that keeps its steps' norms lowest."""
        length = len(old if old is not None else others[0])
        banks = self.state.banks
        if length == banks or not len(self.serving[expert]):
            return None
        held, taken = self.held.copy(), np.zeros(banks)
        for other in others:
            taken[list(other)] = 1.0
        if old is not None:
            held[list(old)] -= self._bytes(expert, old)
        limit = self.problem.bank_limit_bytes + SLACK_BYTES
        part = self.problem.sizes[expert] / length / self.state.width
        fits = runs_sum(np.maximum(held + part > limit, taken)[None], length)[0] == 0
        if not fits.any():
            return None
        cost = np.where(fits, self._run_prices(expert, others, length).sum(axis=0), np.inf)
        best = run(int(np.argmin(cost)), length, banks)
        return None if best == old else best


def _power(load: FloatArray) -> FloatArray:
    """Raise to `POWER`."""
    for _ in range(POWER.bit_length() - 1):
        load = load * load
    return load
