"""keep-popular: what the near memory keeps of experts where nothing but their placement is asked for."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch_mlir import ir

from moe_passes.ir.base import Context, Pass, option
from moe_passes.ir.module import append, expert_stores, write_residency
from moe_passes.ir.states import Drafted, Experts
from moe_passes.plan.decisions import ALL, NONE, DraftPlan
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import WHOLE_BITS
from moe_passes.routing.traces import popularity


@dataclass(frozen=True)
class KeepPopular(Pass):
    """Keep as many of the most popular experts whole as fit; nothing is drafted."""

    name: ClassVar = "keep-popular"
    needs: ClassVar = (Experts,)
    gives: ClassVar = (Drafted,)

    reserve: float = option(0.0, "a share from 0 to 1", "of the near memory for everything but experts; default: 0")

    def __post_init__(self) -> None:
        if not 0 <= self.reserve <= 1:
            raise InputError(f"{self.name}: option reserve={self.reserve:g}; valid: a share from 0 to 1")

    def run(self, module: ir.Module, context: Context) -> None:
        """Decide residency, the most chosen a byte first, and a plan without a draft."""
        stores, cost = expert_stores(module, self.name), context.cost(module)
        near = cost.space().near_bytes
        room = near - round(self.reserve * near)
        counts = popularity(context.trace(module))
        sizes = np.array([layer.whole_bytes for _, layer in stores])
        share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True)) / sizes[:, None]
        order = np.argsort(-share, axis=None, kind="stable")
        rows = order // counts.shape[1]
        kept = order[np.cumsum(sizes[rows]) <= room]
        levels = np.full(counts.size, NONE, dtype=np.int64)
        levels[kept] = ALL
        for store, row in zip(stores, levels.reshape(counts.shape), strict=True):
            write_residency(store, row)
        append(module, _plan(len(kept) / counts.size, room, near - room))


def _plan(share: float, room: int, reserved: int) -> DraftPlan:
    return DraftPlan(
        length=0,
        bits=WHOLE_BITS,
        dense_bits=WHOLE_BITS,
        expert_fraction=share,
        acceptance_rate=0.0,
        break_even_acceptance=float("inf"),
        acceptance_source="nothing is drafted",
        staging_bytes=0,
        expert_bytes=room,
        dense_bytes=reserved,
        kv_bytes=0,
        kv_banks=0,
    )
