"""How steps and tasks of a round are named for people, and the tracks that predicted and measured timelines share."""

PHASES = "phases"
BANDWIDTH = "bandwidth of the far memory"


def phase(step: int, length: int) -> str:
    """Name a step of a round: draft steps count from 1.

    Args:
        step: its number, from 0.
        length: γ.
    """
    return f"draft {step + 1}" if step < length else "verify"


def label(kind: str, step: int, length: int, layer: int = -1, expert: int = -1) -> str:
    """Name a task; layer and expert are −1 where it is not about one."""
    where = (f" L{layer}" if layer >= 0 else "") + (f" expert {expert}" if expert >= 0 else "")
    return f"{kind}{where} ({phase(step, length)})"
