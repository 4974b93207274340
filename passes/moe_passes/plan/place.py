"""A fixed placement of experts, as asked for on the command line."""

import re
from dataclasses import dataclass

from moe_passes.plan.errors import InputError

ALL_NEAR, FAR, LOADED, LAYERS, SHARE, CACHE = "all-near", "far", "loaded", "layers", "near-share", "cache"
POPULAR, RANDOM, FRONT = "popular", "random", "front"
VALID = "all-near, experts=far, experts=loaded, layers=N:far, near-share=SHARE[:popular|random|front], cache=SLOTS"


@dataclass(frozen=True)
class Place:
    """Where experts lie.

    Attributes:
        text: as given.
        kind: all near; all far and computed there; all far and loaded; those of the last layers far; a share of each
            layer's near; or a cache of so many slots a layer, the least recently used one given up.
        number: layers, or slots.
        share: of a layer's experts.
        order: which of a layer's experts are near: popular ones, random ones, or (`front`) all of the first layers.
    """

    text: str
    kind: str
    number: int = 0
    share: float = 0.0
    order: str = POPULAR

    @property
    def loads(self) -> bool:
        """Whether experts that are not near are loaded rather than computed where they lie."""
        return self.kind in (LOADED, CACHE)


def parse_place(text: str) -> Place:
    """Read a placement.

    Raises:
        InputError: it is none.
    """
    shown = text[:60] if text.isprintable() else repr(text[:60])
    wrong = InputError(f"--place {shown}: valid: {VALID}")
    if text == ALL_NEAR:
        return Place(text, ALL_NEAR)
    if text in ("experts=far", "experts=loaded"):
        return Place(text, text.partition("=")[2])
    if match := re.fullmatch(r"layers=([0-9]{1,6}):far", text):
        return Place(text, LAYERS, number=int(match[1]))
    if match := re.fullmatch(r"cache=([0-9]{1,6})", text):
        return Place(text, CACHE, number=int(match[1]))
    if match := re.fullmatch(r"near-share=([0-9]*\.?[0-9]+)(?::(popular|random|front))?", text):
        share = float(match[1])
        if not 0 <= share <= 1:
            raise InputError(f"--place {text[:60]}: a share of {share:g}; valid: 0 to 1")
        return Place(text, SHARE, share=share, order=match[2] or POPULAR)
    raise wrong
