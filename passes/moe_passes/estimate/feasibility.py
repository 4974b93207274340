"""Whether a model fits a machine at all, and how much of the near memory is left for experts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moe_passes.estimate.cost import CostModel
from moe_passes.plan.errors import InfeasibleError, infeasible
from moe_passes.plan.machine import AUTO
from moe_passes.plan.model import DensePart, ExpertLayer, ModelShape
from moe_passes.plan.place import Place
from moe_passes.plan.request import Request


@dataclass(frozen=True)
class Footprint:
    """What of a model lies where, before any decision.

    Attributes:
        model: the model as a whole.
        batch: sequences.
        context: tokens in each KV cache.
        layers: its MoE layers.
        dense_bytes: quantised dense weights.
        kv_bytes: KV cache of the whole batch, once.
        parts: dense work of the verify step.
    """

    model: ModelShape
    batch: int
    context: int
    layers: tuple[ExpertLayer, ...]
    dense_bytes: int
    kv_bytes: int
    parts: tuple[DensePart, ...] = ()

    def kept_kv_bytes(self, banks: int, kv_banks: int) -> int:
        """Bytes of the KV cache if that of each head and sequence is striped over so many banks, copies included."""
        return self.batch * sum(
            part.kv_bytes(self.context) * part.kv_copies(self.batch, banks, kv_banks) for part in self.parts
        )

    @property
    def expert_bytes(self) -> int:
        """Bytes of all routed experts."""
        return sum(layer.experts * layer.whole_bytes for layer in self.layers)

    @property
    def two_experts(self) -> int:
        """Bytes of staging that two whole experts take: one that is used, and the next one on its way."""
        return 2 * max(layer.staged_bytes for layer in self.layers)


def footprint(
    model: ModelShape, request: Request, layers: Sequence[ExpertLayer], parts: Sequence[DensePart]
) -> Footprint:
    """Add up what a model takes."""
    return Footprint(
        model,
        request.batch,
        request.context,
        tuple(layers),
        sum(part.weight_bytes for part in parts),
        request.batch * sum(part.kv_bytes(request.context) for part in parts),
        tuple(parts),
    )


def free_bytes(cost: CostModel, of: Footprint) -> int:
    """Return the bytes of the near memory that dense weights and the KV cache leave for staging and experts.

    The input embedding is near where everything is.
    """
    space = cost.space()
    return space.near_bytes - of.dense_bytes - of.kv_bytes - (of.model.embedding_bytes if space.is_unified else 0)


def least_staging(cost: CostModel, of: Footprint) -> int:
    """Return the size of staging that is asked for, or the least that works where it is left open.

    Raises:
        InfeasibleError: less than two experts is asked for.
    """
    fixed, near = cost.space().staging_bytes, cost.space().near_name
    if fixed == AUTO:
        return of.two_experts
    if fixed < of.two_experts:
        largest = max(of.layers, key=lambda layer: layer.staged_bytes)
        raise infeasible(
            f"a staged expert of layer {largest.layer} ({largest.staged_bytes:,} bytes) and the next one on its way",
            f"{near} (staging)",
            of.two_experts,
            fixed,
            [f"memories.{near}.staging_gb of at least {of.two_experts / 1e9:.4f}", f"memories.{near}.staging_gb=auto"],
        )
    return fixed


def check_fits(cost: CostModel, of: Footprint) -> None:
    """Refuse a model that cannot live on the machine, with every memory that is too small in one report.

    Raises:
        InfeasibleError: it does not fit.
    """
    problems = [problem for problem in (_far(cost, of), _near(cost, of)) if problem is not None]
    if problems:
        raise InfeasibleError("\n".join(str(problem) for problem in problems))


def deep_experts(cost: CostModel, of: Footprint) -> int:
    """Return how many experts the far memory does not hold beside the input embedding."""
    space = cost.space()
    if not space.deep_bytes:
        return 0
    missing = of.expert_bytes + of.model.embedding_bytes - space.far_bytes
    return max(0, -(-missing // of.layers[0].whole_bytes))


def check_placed(cost: CostModel, of: Footprint, place: Place | None, placed: int) -> None:
    """Refuse a placement of so many bytes that the near memory does not hold.

    Raises:
        InfeasibleError: it does not.
    """
    space, room = cost.space(), free_bytes(cost, of) - least_staging(cost, of)
    if place is None or placed <= room:
        return
    taken, needed = space.near_bytes - room, placed + space.near_bytes - room
    raise infeasible(
        f"--place {place.text} ({placed / 1e9:.2f} GB of experts beside {taken / 1e9:.2f} GB of other things)",
        space.near_name,
        needed,
        space.near_bytes,
        [
            f"memories.{space.near_name}.capacity_gb of at least {_gb(needed)} (`--set`, for a what-if)",
            "another --place",
        ],
    )


LARGER = "a larger target (`moec targets`), a smaller --format, or a smaller model (`moec models`)"


def _far(cost: CostModel, of: Footprint) -> InfeasibleError | None:
    space = cost.space()
    if space.is_unified:
        return None
    rest = {"routed experts": of.expert_bytes, "input embedding": of.model.embedding_bytes}
    needed = sum(rest.values())
    if needed <= max(space.far_bytes, space.deep_bytes):
        return None
    if space.deep_bytes > space.far_bytes:
        levers = [f"memories.{space.deep_name}.capacity_gb of at least {_gb(needed)} (`--set`, for a what-if)", LARGER]
        return infeasible(f"{of.model.name} ({_worded(rest)})", space.deep_name, needed, space.deep_bytes, levers)
    levers = [f"memories.{space.far_name}.capacity_gb of at least {_gb(needed)} (`--set`, for a what-if)", LARGER]
    return infeasible(f"{of.model.name} ({_worded(rest)})", space.far_name, needed, space.far_bytes, levers)


def _near(cost: CostModel, of: Footprint) -> InfeasibleError | None:
    space = cost.space()
    staging = least_staging(cost, of)
    rest = {"dense weights": of.dense_bytes, "KV cache": of.kv_bytes, "staging": staging}
    if space.is_unified:
        rest |= {"routed experts": of.expert_bytes, "input embedding": of.model.embedding_bytes}
    needed = sum(rest.values())
    fixed = needed - of.kv_bytes
    if needed <= space.near_bytes:
        return None
    levers = [f"memories.{space.near_name}.capacity_gb of at least {_gb(needed)} (`--set`, for a what-if)", LARGER]
    if fixed + of.kv_bytes // of.batch <= space.near_bytes and of.batch > 1:
        levers.append("a smaller --batch")
    if fixed < space.near_bytes and of.context:
        fits = (space.near_bytes - fixed) * of.context // of.kv_bytes
        levers.append(f"--context of at most about {fits:,} tokens")
    if space.staging_bytes != AUTO and needed - staging + of.two_experts <= space.near_bytes:
        levers.append(f"memories.{space.near_name}.staging_gb=auto")
    return infeasible(f"{of.model.name} ({_worded(rest)})", space.near_name, needed, space.near_bytes, levers)


def _worded(sizes: dict[str, int]) -> str:
    return ", ".join(f"{what} {size / 1e9:.2f} GB" for what, size in sizes.items())


def _gb(size: int) -> str:
    return f"{math.ceil(size / 1e7) / 100:.2f}"
