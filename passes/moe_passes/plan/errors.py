"""The ways in which a user's input can be refused."""


class InputError(Exception):
    """Input that cannot be compiled as it stands: the message says what, where and what would be valid."""


class WrongPlanError(InputError):
    """A whole plan that the checker refuses: a user's input where he wrote it, a bug where our passes did."""


class InfeasibleError(InputError):
    """Sound input for which no plan exists: the message gives bytes needed, bytes available and levers."""


def infeasible(what: str, memory: str, needed: int, available: int, levers: list[str]) -> InfeasibleError:
    """Word an infeasibility report.

    Args:
        what: what does not fit, as the subject of a sentence.
        memory: name of the memory it does not fit into.
        needed: bytes needed.
        available: bytes available.
        levers: the changes that would make it fit, one sentence each.
    """
    lines = [
        f"infeasible: {what} does not fit into memory '{memory}'",
        f"  needed:    {needed:>20,} bytes ({needed / 1e9:.3f} GB)",
        f"  available: {available:>20,} bytes ({available / 1e9:.3f} GB)",
        f"  short of:  {needed - available:>20,} bytes ({(needed - available) / 1e9:.3f} GB)",
        "  any one of these would make it fit:",
    ]
    return InfeasibleError("\n".join(lines + [f"    - {lever}" for lever in levers]))
