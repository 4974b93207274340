"""Groups of neighbouring banks, and the layer of whole experts that they make.

Cut the banks into groups; let every expert lie in one group, in equal parts over its banks. Then the layer costs what
it would cost with whole experts on as many banks as there are groups, where a group of n banks is n times as large, n
times as fast, and n times as dear to hear. A search over that smaller layer moves an expert and all its parts at once.

Two kinds of groups are tried. Uniform ones trade the busiest bank (narrow groups are uneven) against the link (wide
groups are heard by more tokens). Two tiers do better where popularity is skewed: wide groups for the experts that most
tokens choose anyway, narrow ones for the rest, so that few tokens pay for hearing those.
"""

from moe_passes.plan.decisions import Banks, Replicas

Widths = tuple[int, ...]
"""Banks of each group; the first group begins at bank 0."""
BORDERS = 8
"""Tiers meet at multiples of this part of all banks."""
HOT_SPLITS, COLD_SPLITS = (1, 2, 4), (1, 2, 4, 8)
"""Groups that a tier is cut into."""


def run_lengths(banks: int) -> tuple[int, ...]:
    """Return the widths that are tried: 1, 2, 3, 4, 6, 8, 12, … and all banks."""
    powers = [1 << n for n in range(banks.bit_length())]
    return tuple(sorted({n for p in powers for n in (p, p * 3 // 2) if n <= banks} | {banks}))


def groupings(banks: int) -> list[Widths]:
    """Return the ways that banks are cut into groups; what is left over by uniform groups stays empty."""
    found = {(width,) * (banks // width): None for width in run_lengths(banks)[:-1]}
    for border in sorted({banks * n // BORDERS for n in range(1, BORDERS)} - {0}):
        for hot in _cut(border, HOT_SPLITS):
            for cold in _cut(banks - border, COLD_SPLITS):
                if hot[0] > cold[0]:
                    found[hot + cold] = None
    return list(found)


def _cut(banks: int, splits: tuple[int, ...]) -> list[Widths]:
    return [(banks // count,) * count for count in splits if banks >= count]


def refine(replicas: Replicas, widths: Widths) -> Replicas:
    """Return the placement in banks that a placement in groups stands for."""
    firsts = [sum(widths[:group]) for group in range(len(widths))]
    banks: list[Banks] = [tuple(range(first, first + width)) for first, width in zip(firsts, widths, strict=True)]
    return tuple(tuple(banks[copy[0]] for copy in copies) for copies in replicas)
