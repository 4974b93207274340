"""The routing of one round, in the form that tasks are made from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class RoundRouting:
    """Routing of one round.

    Attributes:
        verify: [MoE layer, token, expert], choices of the batch·(γ + 1) verified tokens.
        asked: [step, MoE layer, batch, expert], unrestricted choices of the draft's router.
        drafted: [step, MoE layer, batch, expert], choices restricted to residents, which the draft computes.
        recent: [MoE layer, expert], tokens of the round before that were routed to an expert.
        promoted: per MoE layer, (expert, resident that it replaces) of the next hot set.
    """

    verify: npt.NDArray[np.bool_]
    asked: npt.NDArray[np.bool_]
    drafted: npt.NDArray[np.bool_]
    recent: npt.NDArray[np.int64]
    promoted: tuple[tuple[tuple[int, int], ...], ...]
