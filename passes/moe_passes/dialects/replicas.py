"""The attribute `replicas` of `moe.expert_store`: one flat array of (expert, count, bank, …) per replica."""

from collections.abc import Iterator, Sequence

Banks = tuple[int, ...]


def flatten(replicas: Sequence[Sequence[Banks]]) -> tuple[int, ...]:
    """Write the replicas of every expert ([expert][replica] → banks) as one flat array."""
    return tuple(
        number for expert, copies in enumerate(replicas) for banks in copies for number in (expert, len(banks), *banks)
    )


def unflatten(flat: Sequence[int], experts: int) -> tuple[tuple[Banks, ...], ...]:
    """Read the replicas of every expert back.

    Raises:
        ValueError: the array is malformed; the message says where.
    """
    copies: list[list[Banks]] = [[] for _ in range(experts)]
    for expert, banks in _entries(flat):
        if not 0 <= expert < experts:
            raise ValueError(f"expert {expert} of {experts} does not exist")
        if not banks or banks[0] < 0 or list(banks) != sorted(set(banks)):
            raise ValueError(f"expert {expert} lies in banks {list(banks)}; valid: ascending, at least one")
        copies[expert].append(banks)
    return tuple(tuple(replicas) for replicas in copies)


def _entries(flat: Sequence[int]) -> Iterator[tuple[int, Banks]]:
    place = 0
    while place < len(flat):
        count = flat[place + 1] if place + 1 < len(flat) else 0
        if count < 1 or place + 2 + count > len(flat):
            raise ValueError(f"entry at {place} is not (expert, count, bank, …)")
        yield flat[place], tuple(flat[place + 2 : place + 2 + count])
        place += 2 + count
