"""The steps of a layer that placements are made from, and the later ones that the best of them is chosen on.

A placement that fits the noise of its steps, or what was popular then, is slow on the steps that come. So the latest
quarter of the training tokens makes no candidate and decides between them.

Few tokens say little about many experts: those that none of them chose will be chosen, and who was chosen together may
never be so again. So both parts get steps more, drawn as if every expert were as likely as any other: as many as give
each expert `PRIOR` choices, whatever the length of the trace. That is the mean of a Dirichlet prior of that weight; of
a long trace it is a small part.
"""

import numpy as np

from moe_passes.routing.traces import cut
from moe_passes.solve.placement.problem import NOBODY, IntArray

TRIAL_SHARE = 0.25
"""Of the training tokens, the latest."""
PRIOR = 8.0
"""Choices of each expert that are added to those of the trace."""
MOST_ADDED = 4
"""Times as many steps as there are, at most."""
FEWEST_STEPS = 32
"""Where there are fewer, the runs of tokens are combined to further steps."""
SEED = 13


def cut_trial(first: int, length: int, batch: int, width: int) -> tuple[IntArray, IntArray]:
    """Cut training tokens into steps to make placements from and steps to choose between them on.

    Args:
        first: training token.
        length: training tokens.
        batch: sequences of a step.
        width: consecutive tokens of a sequence in a step.

    Returns:
        Token indices [step, batch, width] of both; where one would have no step, both are all steps.
    """
    border = length - int(length * TRIAL_SHARE)
    making, trial = cut(first, border, batch, width), cut(first + border, length - border, batch, width)
    if not len(making) or not len(trial):
        making = trial = cut(first, length, batch, width)
    return _combined(making), _combined(trial)


def _combined(steps: IntArray) -> IntArray:
    """Add steps of the same runs in other company, up to `FEWEST_STEPS`; which runs share a step is arbitrary."""
    count, batch, width = steps.shape
    if batch == 1 or not 1 < count < FEWEST_STEPS:
        return steps
    random, runs = np.random.default_rng(SEED), steps.reshape(-1, width)
    passes = [steps, *(random.permutation(runs).reshape(steps.shape) for _ in range(FEWEST_STEPS // count - 1))]
    return np.concatenate(passes)


def with_prior(steps: IntArray, open_to: IntArray, choices: int) -> IntArray:
    """Add steps in which every expert is as likely as any other.

    Args:
        steps: [step, token, k], the steps that are added to; the new ones leave open the places that they leave open.
        open_to: [expert], not zero for experts that may be chosen; the number of steps does not depend on it.
        choices: places of all training steps that are known.

    Returns:
        [step, token, k], `steps` first.
    """
    able = np.flatnonzero(open_to)
    _, tokens, k = steps.shape
    count = min(round(len(steps) * PRIOR * len(open_to) / choices), MOST_ADDED * len(steps))
    if not count or not len(able):
        return steps
    random = np.random.default_rng(SEED)
    added = np.full((count, tokens, k), NOBODY)
    drawn = random.random((count, tokens, len(able))).argsort(axis=2)[:, :, :k]
    added[:, :, : drawn.shape[2]] = able[drawn]
    is_filled = steps[np.arange(count) % len(steps)] != NOBODY
    return np.concatenate([steps, np.where(is_filled, added, NOBODY)])


def trial_of(choices: IntArray, batch: int, width: int, experts: int) -> tuple[IntArray, IntArray]:
    """Cut the choices of training tokens into steps to make placements from and steps to choose between them on.

    Args:
        choices: [token, layer, k].
        batch: sequences of a step.
        width: consecutive tokens of a sequence in a step.
        experts: of a layer; each may be chosen.

    Returns:
        [step, token, layer, k] of both.
    """
    tokens, layers, k = choices.shape
    everyone = np.ones(experts, dtype=np.int64)

    def steps_of(chosen: IntArray) -> IntArray:
        steps = choices[chosen.reshape(len(chosen), -1)]
        return np.stack([with_prior(steps[:, :, row], everyone, tokens * k) for row in range(layers)], axis=2)

    making, trial = cut_trial(0, tokens, batch, width)
    return steps_of(making), steps_of(trial)


def unseen(routing: IntArray, experts: int) -> int:
    """Count the experts that no step chooses."""
    return experts - len(np.setdiff1d(routing, [NOBODY]))
