"""Replicas in spare capacity: another copy of the expert that the busiest banks owe most to, where it saves most.

The busiest bank alone is a poor guide: where two banks are equally busy, relieving one of them gains nothing yet. So
copies are judged by the p-norm of a step's bank loads, which falls with either and is the maximum for p → ∞. The gain
of a copy is estimated by letting each training step use whichever replica makes it faster, everything else staying;
the dispatcher then has all steps anew, and a placement with replicas is kept only if it gains.
"""

import numpy as np

from moe_passes.plan.decisions import Banks, Replicas, shared_banks
from moe_passes.solve.placement.problem import SLACK_BYTES, FloatArray, LayerProblem
from moe_passes.solve.placement.search import State, is_significant, run, runs_sum

POWER = 8
"""Of the norm: a power of two."""
MOST_COPIES = 4
"""Replicas of one expert."""


def replicate(problem: LayerProblem, state: State, work: int) -> Replicas:
    """Add replicas to the placement of a state while one gains, the spare bytes last and the work does."""
    copies = _Copies(problem, state)
    spare, end = problem.spare_bytes, state.cells + work
    while state.cells < end:
        expert = copies.most_blamed(spare)
        if expert is None:
            break
        if copies.add_best(expert):
            spare -= problem.sizes[expert]
    return tuple(tuple(copies.homes.get(expert, ())) for expert in range(len(problem.sizes)))


class _Copies:
    """Replicas so far, the one that serves each step of each expert, and the load of that."""

    def __init__(self, problem: LayerProblem, state: State) -> None:
        self.problem, self.state = problem, state
        self.homes: dict[int, list[Banks]] = {expert: [home] for expert, home in state.homes.items()}
        self.serving = {expert: np.zeros(len(state.visits.steps[expert]), dtype=np.int64) for expert in self.homes}
        self.held, self.load = state.held.copy(), state.load / max(1.0, float(state.load.max()))
        self.unit = max(1.0, float(state.load.max()))
        self.waits = state.load.max(axis=1) * state.bank_rate > np.maximum(state.heard * state.link_rate, state.floor)
        self.open = np.array([expert in self.homes for expert in range(len(problem.sizes))])
        self.share = np.zeros((len(problem.sizes), state.banks))
        for expert, home in state.homes.items():
            self.share[expert, list(home)] = 1 / len(home)
        self.used = np.zeros((len(problem.sizes), len(self.load)))
        for expert in self.homes:
            self.used[expert, state.visits.steps[expert]] = self.waits[state.visits.steps[expert]]

    def most_blamed(self, spare: float) -> int | None:
        """Return the expert whose parts make up most of the norms of the steps that wait for banks."""
        powers = _power(self.load)
        price = powers / np.maximum(self.load, 1e-30)
        price /= np.maximum(powers @ self.state.width, 1e-30)[:, None] ** (1 - 1 / POWER)
        blame = ((self.used @ price) * self.share).sum(axis=1)
        self.state.cells += self.used.size
        blame[~self.open | (self.problem.sizes > spare)] = 0.0
        worst = int(np.argmax(blame))
        return worst if blame[worst] > 0 else None

    def add_best(self, expert: int) -> bool:
        """Add the copy that gains most; close the expert where none gains."""
        steps, homes, banks = self.state.visits.steps[expert], self.homes[expert], self.state.banks
        length, width = len(homes[0]), self.state.width
        without = self._load_without(expert)
        now, rest = _power(self.load[steps]) @ width, _power(without)
        part = self.problem.sizes[expert] / length / width / self.unit
        more = runs_sum((_power(without + part) - rest) * width, length)
        after = ((rest @ width)[:, None] + more) ** (1 / POWER)
        gains = np.maximum(now[:, None] ** (1 / POWER) - after, 0.0) * self.waits[steps][:, None]
        self.state.cells += 4 * gains.size
        fits = [start for start in range(banks if length < banks else 0) if self._has_room(expert, start, length)]
        best = max(fits, key=lambda start: float(gains[:, start].sum()), default=None)
        if best is None or len(homes) >= MOST_COPIES or not is_significant(gains[:, best]):
            self.open[expert] = False
            return False
        self._add(expert, run(best, length, banks), gains[:, best] > 0, without)
        return True

    def _add(self, expert: int, home: Banks, uses: np.ndarray, without: FloatArray) -> None:
        steps, part = self.state.visits.steps[expert][uses], self._part(expert, home)
        load = without[uses]
        load[:, list(home)] += part / self.unit
        self.load[steps] = load
        self.serving[expert][uses] = len(self.homes[expert])
        self.held[list(home)] += part
        self.homes[expert].append(home)
        self.share[expert] *= 1 - 1 / len(self.homes[expert])

    def _part(self, expert: int, home: Banks) -> FloatArray:
        """Bytes of an expert in each bank of a home."""
        return np.asarray(self.problem.sizes[expert] / len(home) / self.state.width[list(home)])

    def _has_room(self, expert: int, start: int, length: int) -> bool:
        home = run(start, length, self.state.banks)
        after = self.held[list(home)] + self._part(expert, home)
        return not shared_banks([home, *self.homes[expert]]) and bool(
            after.max() <= self.problem.bank_limit_bytes + SLACK_BYTES
        )

    def _load_without(self, expert: int) -> FloatArray:
        """Return the load of the expert's steps without it: [step, bank]."""
        load = self.load[self.state.visits.steps[expert]]
        for number, home in enumerate(self.homes[expert]):
            rows = np.flatnonzero(self.serving[expert] == number)
            load[np.ix_(rows, np.array(home))] -= self._part(expert, home) / self.unit
        return np.maximum(load, 0.0)


def _power(load: FloatArray) -> FloatArray:
    """Raise to `POWER`."""
    for _ in range(POWER.bit_length() - 1):
        load = load * load
    return load
