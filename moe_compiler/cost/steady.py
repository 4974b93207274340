"""The steady state of a scheduled round: what crosses from one round to the next, and how often rounds follow."""

from dataclasses import dataclass

from moe_passes.dialects.round import Round
from moe_passes.schedule_round.problem import Schedule
from moe_passes.schedule_round.steady import SteadyState, steady_state


@dataclass(frozen=True)
class Steady:
    """The steady state, and the bytes that cross.

    Attributes:
        state: of the round's tasks.
        carried_bytes: loaded in the tail of a round for the next one.
    """

    state: SteadyState
    carried_bytes: int


def steady(round_: Round, schedule: Schedule, lower_bound: int) -> Steady:
    """Let loads that are sure to be needed (they wait for nothing) run after the last router of the round before."""
    work, tasks = round_.work, round_.problem.tasks
    ahead = [n for n, w in enumerate(work) if w.kind == "load" and not tasks[n].after]
    after = max(n for n, w in enumerate(work) if w.kind == "attention")
    state = steady_state(round_.problem, ahead, after, schedule, lower_bound)
    return Steady(state, sum(work[n].external_read_bytes for n in state.carried))
