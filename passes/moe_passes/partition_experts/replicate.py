"""Replicas in spare capacity: another copy of the expert that steps wait for most, in the bank that saves most.

The gain of a copy is estimated by letting each training step use whichever replica makes it faster, everything else
staying; the dispatcher then has all steps anew, and a placement with replicas is kept only if it gains.
"""

import numpy as np

from moe_passes.partition_experts.problem import Banks, FloatArray, IntArray, LayerProblem, Replicas
from moe_passes.partition_experts.search import SLACK_BYTES, State, is_significant, run

MOST_COPIES = 4
"""Replicas of one expert."""


def replicate(problem: LayerProblem, state: State, work: int) -> Replicas:
    """Add replicas to the placement of a state while one gains, the spare bytes last and the work does."""
    copies = _Copies(problem, state)
    spare, end = problem.spare_bytes, state.cells + work
    while state.cells < end:
        expert = copies.most_waited_for(spare)
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
        self.held, self.load, self.seconds = state.held.copy(), state.load.copy(), state.seconds.copy()
        self.closed: set[int] = set()

    def most_waited_for(self, spare: float) -> int | None:
        """Return the expert that lies most often in the bank that its step waits for."""
        busiest = self.load.argmax(axis=1)
        waits = self.load.max(axis=1) * self.state.bank_rate >= self.seconds * (1 - 1e-9)
        worst, most = None, 0.0
        for expert, homes in self.homes.items():
            if expert in self.closed or self.problem.sizes[expert] > spare:
                continue
            steps = self.state.visits.steps[expert]
            blame = float((np.isin(busiest[steps], np.array(homes[0])) & waits[steps]).sum()) / len(homes)
            if blame > most:
                worst, most = expert, blame
        return worst

    def add_best(self, expert: int) -> bool:
        """Add the copy that gains most; close the expert where none gains."""
        steps, homes = self.state.visits.steps[expert], self.homes[expert]
        without = self._load_without(expert)
        length, best = len(homes[0]), (0.0, homes[0], np.zeros(0))
        for start in range(self.state.banks if length < self.state.banks else 0):
            home = run(start, length, self.state.banks)
            if home in homes or not self._has_room(expert, home):
                continue
            gains = np.maximum(self.seconds[steps] - self._seconds(steps, self._with(without, expert, home)), 0.0)
            if is_significant(gains) and gains.sum() > best[0]:
                best = (float(gains.sum()), home, gains)
        if not best[0] or len(homes) >= MOST_COPIES:
            self.closed.add(expert)
            return False
        self._add(expert, best[1], best[2] > 0, without)
        return True

    def _add(self, expert: int, home: Banks, uses: np.ndarray, without: FloatArray) -> None:
        steps = self.state.visits.steps[expert][uses]
        self.load[steps] = self._with(without[uses], expert, home)
        self.seconds[steps] = self._seconds(steps, self.load[steps])
        self.serving[expert][uses] = len(self.homes[expert])
        self.held[list(home)] += self.problem.sizes[expert] / len(home)
        self.homes[expert].append(home)

    def _has_room(self, expert: int, home: Banks) -> bool:
        after = self.held[list(home)] + self.problem.sizes[expert] / len(home)
        return bool(after.max() <= self.problem.bank_limit_bytes + SLACK_BYTES)

    def _load_without(self, expert: int) -> FloatArray:
        """Return the load of the expert's steps without it: [step, bank]."""
        load = self.load[self.state.visits.steps[expert]]
        for number, home in enumerate(self.homes[expert]):
            rows = np.flatnonzero(self.serving[expert] == number)
            load[np.ix_(rows, np.array(home))] -= self.problem.sizes[expert] / len(home)
        return load

    def _with(self, load: FloatArray, expert: int, home: Banks) -> FloatArray:
        result = load.copy()
        result[:, list(home)] += self.problem.sizes[expert] / len(home)
        self.state.cells += result.size
        return result

    def _seconds(self, steps: IntArray, load: FloatArray) -> FloatArray:
        state = self.state
        banks = load.max(axis=1) * state.bank_rate
        return np.asarray(np.maximum(np.maximum(banks, state.heard[steps] * state.link_rate), state.floor[steps]))
