"""Why there is no allocation: buffers that cannot be placed together, though they could without any one of them."""

from collections.abc import Callable
from dataclasses import replace

from moe_passes.solve.allocation.problem import Problem


def clash(problem: Problem) -> tuple[int, ...]:
    """Return two buffers whose fixed offsets overlap; () if there are none."""
    fixed = [(n, b, b.fixed) for n, b in enumerate(problem.buffers) if b.fixed is not None]
    for place, (n, one, first) in enumerate(fixed):
        for m, other, second in fixed[:place]:
            if one.overlaps(other) and first < second + other.size and second < first + one.size:
                return m, n
    return ()


def fullest_moment(problem: Problem) -> tuple[int, ...]:
    """Return buffers that are alive at once and exceed the capacity, none of them needlessly; () if there are none.

    Everything that is alive at the fullest moment, less the smallest ones while the rest is still too large.
    """
    moments = sorted({buffer.lower for buffer in problem.buffers})
    alive = max((_alive(problem, moment) for moment in moments), key=lambda b: _bytes(problem, b), default=())
    if _bytes(problem, alive) <= problem.capacity_bytes:
        return ()
    kept = list(alive)
    for number in sorted(alive, key=lambda n: (problem.buffers[n].size, n)):
        rest = [other for other in kept if other != number]
        if _bytes(problem, tuple(rest)) > problem.capacity_bytes:
            kept = rest
    return tuple(sorted(kept))


def irreducible(
    problem: Problem, suspects: tuple[int, ...], is_infeasible: Callable[[Problem], bool]
) -> tuple[int, ...]:
    """Leave out one buffer after another as long as what remains is still proved infeasible.

    Args:
        problem: infeasible.
        suspects: buffers that cannot be placed together.
        is_infeasible: a proof, or False where there is none within its limit; such a buffer is kept.
    """
    kept = list(suspects)
    for number in suspects:
        rest = [other for other in kept if other != number]
        if is_infeasible(replace(problem, buffers=tuple(problem.buffers[other] for other in rest))):
            kept = rest
    return tuple(kept)


def _alive(problem: Problem, moment: int) -> tuple[int, ...]:
    return tuple(n for n, buffer in enumerate(problem.buffers) if buffer.lower <= moment < buffer.upper)


def _bytes(problem: Problem, numbers: tuple[int, ...]) -> int:
    return sum(problem.buffers[n].size for n in numbers)
