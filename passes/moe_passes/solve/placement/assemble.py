"""Putting layers together: a layer costs the same however its banks are numbered, so number them for all to fit.

Each layer brings what it holds in each of its banks; which bank of the machine each of them becomes is free. Layers
are taken the most uneven first, their fullest bank to the machine's emptiest; then, while a bank is too full, the
layer and the other bank are sought whose parts, exchanged with its own, leave the fuller of the two emptiest.
"""

import numpy as np

from moe_passes.solve.placement.problem import FloatArray, IntArray

MOST_EXCHANGES = 2000


def numbering(held: FloatArray, limit: float) -> IntArray | None:
    """Number the banks of all layers.

    Args:
        held: [layer, bank], bytes in each bank as its layer numbers them.
        limit: bytes that a bank of the machine holds.

    Returns:
        [layer, bank], the machine's bank for each bank of a layer; None where none was found that fits.
    """
    layers, banks = held.shape
    number = np.tile(np.arange(banks), (layers, 1))
    if held.sum(axis=0).max() <= limit:
        return number
    placed, total = np.zeros_like(held), np.zeros(banks)
    for layer in np.argsort(-np.ptp(held, axis=1), kind="stable"):
        number[layer, np.argsort(-held[layer], kind="stable")] = np.argsort(total, kind="stable")
        placed[layer, number[layer]] = held[layer]
        total += placed[layer]
    for _ in range(MOST_EXCHANGES):
        full = int(total.argmax())
        if total[full] <= limit:
            return number
        moved = placed[:, full, None] - placed
        worse = np.maximum(total[full] - moved, total + moved)
        layer, other = divmod(int(worse.argmin()), banks)
        if worse[layer, other] >= total[full]:
            return None
        total[[full, other]] += np.array([-1, 1]) * moved[layer, other]
        placed[layer, [full, other]] = placed[layer, [other, full]]
        where = [int(np.flatnonzero(number[layer] == bank)[0]) for bank in (full, other)]
        number[layer, where] = [other, full]
    return None
