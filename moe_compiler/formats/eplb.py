"""Placements in the formats of expert-parallel load balancers, out and in.

All of them number *physical slots*: a bank (a GPU, there) has equally many, slot p is in bank p // (slots a bank), and
holds one whole expert. So a placement can be expressed where every expert is resident, none is sharded, and every bank
holds equally many replicas; and nothing else can.

- The EPLB triple, what `eplb.rebalance_experts` returns: physical→logical [layer, slot], logical→physical
  [layer, expert, replica] (−1 where there are fewer), and the number of replicas [layer, expert].
- The expert-location JSON: SGLang's `--init-expert-location` reads an object with `physical_to_logical_map`
  [layer][slot]; vLLM's expert-map files are that list itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from moe_passes.plan.decisions import Replicas
from moe_passes.plan.errors import InputError
from moe_passes.solve.placement.problem import IntArray

MAP_KEY = "physical_to_logical_map"


@dataclass(frozen=True)
class EplbTriple:
    """What `eplb.rebalance_experts` returns.

    Attributes:
        physical_to_logical: [layer, slot].
        logical_to_physical: [layer, expert, replica], −1 where there are fewer.
        counts: [layer, expert], replicas.
    """

    physical_to_logical: IntArray
    logical_to_physical: IntArray
    counts: IntArray


def to_eplb(layers: Sequence[Replicas], banks: int) -> EplbTriple:
    """Write placements as the EPLB triple.

    Raises:
        InputError: a placement cannot be expressed; the message says where and why.
    """
    counts_of = {len(replicas) for replicas in layers}
    if len(counts_of) != 1:
        raise InputError(f"layers have {sorted(counts_of)} experts; valid for EPLB: one number in all")
    slots = [_slots(number, replicas, banks) for number, replicas in enumerate(layers)]
    widths = {len(row) for row in slots}
    if len(widths) != 1:
        raise InputError(f"layers hold {sorted(widths)} replicas; valid for EPLB: equally many in every layer")
    physical = np.array(slots, dtype=np.int64)
    experts = len(layers[0])
    counts = np.stack([np.bincount(row, minlength=experts) for row in physical])
    logical = np.full((len(layers), experts, int(counts.max())), -1, dtype=np.int64)
    for layer, row in enumerate(physical):
        seen = np.zeros(experts, dtype=np.int64)
        for slot, expert in enumerate(row):
            logical[layer, expert, seen[expert]] = slot
            seen[expert] += 1
    return EplbTriple(physical, logical, counts)


def from_eplb(triple: EplbTriple, banks: int) -> list[Replicas]:
    """Read placements from the EPLB triple.

    Raises:
        InputError: the arrays contradict one another, or the slots do not divide among the banks.
    """
    placements = from_expert_location(triple.physical_to_logical.tolist(), banks, triple.counts.shape[-1])
    again = np.stack([np.bincount(row, minlength=triple.counts.shape[1]) for row in triple.physical_to_logical])
    if triple.counts.shape != again.shape or (again != triple.counts).any():
        raise InputError("EPLB triple: the counts are not those of physical_to_logical")
    width = triple.logical_to_physical.shape[-1]
    for layer, expert in np.ndindex(*again.shape):
        told = sorted(slot for slot in triple.logical_to_physical[layer, expert].tolist() if slot >= 0)
        held = np.flatnonzero(triple.physical_to_logical[layer] == expert).tolist()
        if told != held or width < len(held):
            raise InputError(f"EPLB triple: layer {layer}, expert {expert}: slots {told} and {held} contradict")
    return placements


def to_expert_location(layers: Sequence[Replicas], banks: int) -> dict[str, list[list[int]]]:
    """Write placements as SGLang's expert-location object; its one value is vLLM's list.

    Raises:
        InputError: a placement cannot be expressed.
    """
    return {MAP_KEY: to_eplb(layers, banks).physical_to_logical.tolist()}


def from_expert_location(document: Any, banks: int, experts: int) -> list[Replicas]:
    """Read placements from an expert-location document: SGLang's object or vLLM's list of lists.

    Raises:
        InputError: malformed, an expert without a slot, or slots that do not divide among the banks.
    """
    rows = document.get(MAP_KEY) if isinstance(document, dict) else document
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise InputError(f"expert location: valid: [layer][slot] expert ids, or an object with '{MAP_KEY}'")
    return [_replicas(layer, row, banks, experts) for layer, row in enumerate(rows)]


def _slots(layer: int, replicas: Replicas, banks: int) -> list[int]:
    where = f"layer {layer} cannot be expressed in slots"
    held: list[list[int]] = [[] for _ in range(banks)]
    for expert, copies in enumerate(replicas):
        if not copies:
            raise InputError(f"{where}: expert {expert} is not resident; valid: all experts resident")
        for copy in copies:
            if len(copy) > 1:
                raise InputError(f"{where}: expert {expert} is sharded over {len(copy)} banks; valid: whole experts")
            held[copy[0]].append(expert)
    counts = [len(inside) for inside in held]
    if len(set(counts)) != 1:
        least, most = int(np.argmin(counts)), int(np.argmax(counts))
        raise InputError(
            f"{where}: bank {least} holds {counts[least]} replicas and bank {most} {counts[most]}; "
            "valid: equally many in every bank"
        )
    return [expert for inside in held for expert in inside]


def _replicas(layer: int, row: list[Any], banks: int, experts: int) -> Replicas:
    where = f"expert location: layer {layer}"
    if len(row) % banks:
        raise InputError(f"{where}: {len(row)} slots do not divide among {banks} banks")
    copies: list[list[tuple[int, ...]]] = [[] for _ in range(experts)]
    for slot, expert in enumerate(row):
        if isinstance(expert, bool) or not isinstance(expert, int) or not 0 <= expert < experts:
            raise InputError(f"{where}: slot {slot} holds {expert!r}; valid: expert ids from 0 to {experts - 1}")
        bank = (slot // (len(row) // banks),)
        # Balancers put several replicas of an expert into one bank (most of EPLB's output does): they serve as one.
        if bank not in copies[expert]:
            copies[expert].append(bank)
    missing = [expert for expert, held in enumerate(copies) if not held]
    if missing:
        raise InputError(f"{where}: experts {missing[:8]} have no slot")
    return tuple(tuple(held) for held in copies)
