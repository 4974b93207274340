"""Figures in sentences."""

from collections.abc import Sequence

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
ENERGIES = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"))


def seconds(value: float) -> str:
    """Word a time, to four digits."""
    return _scaled(value, UNITS)


def size(value: float) -> str:
    """Word a number of bytes."""
    return f"{value:.0f} bytes" if abs(value) < SIZES[-1][0] else _scaled(value, SIZES)


def joules(value: float) -> str:
    """Word an energy."""
    return _scaled(value, ENERGIES)


def figure(value: float, unit: str) -> str:
    """Word a figure of a solver, in the unit of its record."""
    words = {"s": seconds, "bytes": size}
    return words[unit](value) if unit in words else f"{value:.4g} {unit}"


def needed_in(permille: int) -> str:
    """Word the share of training rounds from which an expert counts as sure to be needed."""
    return "every training round" if permille == 1000 else f"{permille / 10:g} % of training rounds or more"


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    scale, unit = next(((s, u) for s, u in units if abs(value) >= s), units[-1])
    return f"{value / scale:.4g} {unit}"


def listed(words: Sequence[str], most: int = 5) -> str:
    """Word a list, of which at most so many are named."""
    shown = list(words[:most])
    if len(words) > most:
        return ", ".join(shown) + f" and {len(words) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def times(count: int) -> str:
    """Word how often."""
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
