"""pin-experts: keep named experts in every layer, in the place of the last residents that select-draft chose."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from moe_passes.ir.base import Context, Pass, option
from moe_passes.ir.module import expert_stores, residency_of, write_residency
from moe_passes.ir.states import Drafted
from moe_passes.plan.errors import InputError
from torch_mlir import ir


@dataclass(frozen=True)
class PinExperts(Pass):
    """Keep named experts resident in every layer."""

    name: ClassVar = "pin-experts"
    needs: ClassVar = (Drafted,)

    experts: str = option("0", "expert ids, separated by ';'", "experts to keep")

    def run(self, module: ir.Module, context: Context) -> None:
        """Swap residents of the same size, so that HB holds as much as before."""
        for store in expert_stores(module, self.name):
            levels = residency_of(store, self.name)
            for expert in self._ids(len(levels)):
                others = [e for e in np.flatnonzero(levels).tolist() if e not in self._ids(len(levels))]
                if not levels[expert] and others:
                    levels[expert], levels[others[-1]] = levels[others[-1]], 0
            write_residency(store, levels)

    def _ids(self, count: int) -> list[int]:
        try:
            ids = [int(part) for part in self.experts.split(";")]
        except ValueError:
            ids = [-1]
        if any(not 0 <= expert < count for expert in ids):
            raise InputError(f"{self.name}: option experts={self.experts}; valid: ids from 0 to {count - 1}")
        return ids
