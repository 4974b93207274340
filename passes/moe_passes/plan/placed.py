"""A MoE layer with every decision about it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from moe_passes.plan.decisions import ALL, MSB, NONE, Replicas
from moe_passes.plan.model import ExpertLayer


@dataclass(frozen=True)
class PlacedLayer:
    """One MoE layer with every decision about it.

    Attributes:
        shape: of its experts.
        residency: [expert], 0 none, 1 msb, 2 all.
        replicas: banks of every replica of every expert's resident part.
        needed_permille: [expert], training rounds of 1,000 in which verify needed it.
        deep: [expert], whether the far memory does not hold it, but the one behind does; None: it holds all.
    """

    shape: ExpertLayer
    residency: npt.NDArray[np.int64]
    replicas: Replicas
    needed_permille: npt.NDArray[np.int64]
    deep: npt.NDArray[np.bool_] | None = None

    def is_deep(self, expert: int) -> bool:
        """Say whether what is loaded of an expert comes out of the deep memory."""
        return self.deep is not None and bool(self.deep[expert])

    def resident_bytes(self, expert: int) -> int:
        """Bytes of an expert in HB."""
        return self._resident[expert]

    def drafted_bytes(self, expert: int, bits: int) -> int:
        """Bytes of an expert in HB that a draft of so many bits computes with: of a whole one, its slice."""
        return min(self.resident_bytes(expert), self.shape.drafted_bytes(bits))

    def loaded_bytes(self, expert: int) -> int:
        """Bytes of an expert that verify must load."""
        return self.shape.whole_bytes - self._resident[expert]

    @cached_property
    def _resident(self) -> list[int]:
        """Bytes of each expert in HB: asked for of every expert of every round."""
        of_level = [self.shape.resident_bytes(level) for level in (NONE, MSB, ALL)]
        return [of_level[level] for level in self.residency.tolist()]
