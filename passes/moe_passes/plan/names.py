"""Names that users mistype: one wording of what was meant and what would be valid."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the valid name that is nearest, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.4)
    return f"did you mean '{near[0]}'?" if near else ""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: what was probably meant, and all that is valid."""
    names = list(valid)
    hint = did_you_mean(name, names)
    return f"; {hint} valid: {', '.join(names) or 'none'}" if hint else f"; valid: {', '.join(names) or 'none'}"
