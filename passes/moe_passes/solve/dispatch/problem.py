"""A round as the dispatcher meets it: what is known of it, and what is guessed."""

from dataclasses import dataclass

from moe_passes.solve.rcpsp.problem import Problem


@dataclass(frozen=True)
class Guess:
    """A task that starts, if at all, before it is known whether it is needed.

    Attributes:
        task: its number; the buffers of one that is not needed have it as first and last.
        decider: the task after which it is known.
        is_needed: what will be known then.
        moments: (task, or −1 for the start of the round; likelihood in ‰ from its end on), in order.
    """

    task: int
    decider: int
    is_needed: bool
    moments: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Unknown:
    """A round that becomes known only as its routers run.

    Attributes:
        problem: its tasks, wrong guesses included.
        guesses: loads that start, if at all, before verify's router has said whether they are needed.
    """

    problem: Problem
    guesses: tuple[Guess, ...]
