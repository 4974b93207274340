"""The part of a plan that the runtime needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from moe_compiler.runtime.prefetch import PrefetchPlan


class Dispatch(Protocol):
    """Chooses, for the experts of a step, the replica that serves each of them."""

    def choose(self, experts: Sequence[int]) -> list[int]:
        """Return one replica for every expert."""
        ...


@dataclass(frozen=True)
class Plan:
    """Static decisions of a compilation.

    Attributes:
        batch: sequences decoded together.
        draft_length: γ; 0 is plain decoding.
        draft_bits: bits of an expert's weight in the draft: 4 for the msb slice, 8 for all.
        staging_slots: experts that are prefetched at most; what verify waits for comes on top.
        resident: experts in HB, by decoder layer.
        dispatch: replica dispatch of a draft step, by decoder layer.
        prefetch: which experts are loaded before verify asks for them.
    """

    batch: int
    draft_length: int
    draft_bits: int
    staging_slots: int
    resident: dict[int, list[int]]
    dispatch: Mapping[int, Dispatch] = field(default_factory=dict)
    prefetch: PrefetchPlan = field(default_factory=PrefetchPlan)
