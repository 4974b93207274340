"""A lower bound on the peak: buffers that are alive at one time lie at different addresses, so their sizes add up."""

from moe_passes.solve.allocation.problem import Problem


def lower_bound(problem: Problem) -> int:
    """Return the most bytes that are alive at once."""
    changes = []
    for buffer in problem.buffers:
        if not buffer.is_empty:
            changes += [(buffer.lower, buffer.size), (buffer.upper, -buffer.size)]
    alive = most = 0
    for _, change in sorted(changes):
        alive += change
        most = max(most, alive)
    return most
