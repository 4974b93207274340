"""Promotion into the hot set: what verify loads anyway may take the place of a resident that is asked for less."""

import numpy as np
import numpy.typing as npt


def promoted(
    resident: npt.NDArray[np.bool_], needed: npt.NDArray[np.bool_], hotness: npt.NDArray[np.int64]
) -> tuple[tuple[int, int], ...]:
    """Return (expert, the resident that it replaces) of the next hot set of a layer.

    Hotness counts the choices of the draft's routers so far, those of the training tokens among them. Only what verify
    loads anyway can be written into HB as it passes by (arXiv 2604.14626). The hottest newcomer replaces the coldest
    resident, the next the next, as long as the newcomer is the hotter of the two.

    Args:
        resident: [expert], what HB keeps.
        needed: [expert], what verify computes in this round.
        hotness: [expert], choices counted.
    """
    incoming = np.flatnonzero(needed & ~resident)
    incoming = incoming[np.argsort(-hotness[incoming], kind="stable")]
    leaving = np.flatnonzero(resident)
    leaving = leaving[np.argsort(hotness[leaving], kind="stable")]
    pairs = zip(incoming.tolist(), leaving.tolist(), strict=False)
    return tuple((new, old) for new, old in pairs if hotness[new] > hotness[old])
