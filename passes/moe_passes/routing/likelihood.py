"""How likely verify is to need an expert, from what is known before its router has run.

Three things are known: in what share of training rounds verify needed the expert, how many tokens of the round before
were routed to it, and how many tokens of this round's draft have asked for it so far. Each is put into classes; the
share of the cases in training rounds in which the expert was needed is the likelihood of a class. Classes that were
rarely seen lean on all those with as many asks.
"""

import math

import numpy as np
import numpy.typing as npt

from moe_passes.plan.decisions import Likelihoods
from moe_passes.routing.rounds import RoundRouting

SHARE_BORDERS = (50, 100, 200, 350, 500, 650, 800, 900, 950, 990)
RECENT_BORDERS = (1, 2, 4, 8)
ASK_BORDERS = (1, 2, 3, 5, 9, 17)
PRIOR = 4.0
"""Weight, in cases, of all other classes with as many asks."""


def table(permille: npt.ArrayLike | None = None) -> Likelihoods:
    """Return a table over our classes, [share, recent, asks]; of zeros where nothing is given."""
    empty = Likelihoods(SHARE_BORDERS, RECENT_BORDERS, ASK_BORDERS, ())
    values = np.zeros(math.prod(empty.shape)) if permille is None else np.asarray(permille).ravel()
    return Likelihoods(SHARE_BORDERS, RECENT_BORDERS, ASK_BORDERS, tuple(int(value) for value in values))


def share_needed(rounds: list[RoundRouting]) -> npt.NDArray[np.int64]:
    """Return in how many of 1,000 rounds verify needs an expert: [MoE layer, expert]."""
    needed = np.mean([routing.verify.any(axis=1) for routing in rounds], axis=0)
    return np.asarray(np.round(1000 * needed), dtype=np.int64)


def likelihoods(rounds: list[RoundRouting], needed_permille: npt.NDArray[np.int64]) -> Likelihoods:
    """Count the likelihood of every class.

    What the draft has asked for by the end of each of its steps counts as a case.
    """
    classes = table()
    cases, hits = np.zeros(classes.shape), np.zeros(classes.shape)
    for routing in rounds:
        needed = routing.verify.any(axis=1)
        asked = np.zeros_like(needed_permille)
        for step in range(routing.asked.shape[0] + 1):
            cell = _classes(classes, needed_permille, routing.recent, asked)
            np.add.at(cases, cell, 1.0)
            np.add.at(hits, cell, needed)
            if step < routing.asked.shape[0]:
                asked = asked + routing.asked[step].sum(axis=1)
    overall = (hits.sum(axis=(0, 1)) + 0.5) / (cases.sum(axis=(0, 1)) + 1.0)
    return table(np.round(1000 * (hits + PRIOR * overall) / (cases + PRIOR)))


def look_up(
    likelihoods: Likelihoods,
    needed_permille: npt.NDArray[np.int64],
    recent: npt.NDArray[np.int64],
    asked: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Return likelihoods in ‰ of experts of which this is known (all of one shape)."""
    values = np.reshape(likelihoods.permille, likelihoods.shape)
    return np.asarray(values[_classes(likelihoods, needed_permille, recent, asked)])


def _classes(
    of: Likelihoods,
    needed_permille: npt.NDArray[np.int64],
    recent: npt.NDArray[np.int64],
    asked: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.intp], ...]:
    pairs = ((needed_permille, of.share_borders), (recent, of.recent_borders), (asked, of.ask_borders))
    return tuple(np.digitize(values, borders) for values, borders in pairs)
