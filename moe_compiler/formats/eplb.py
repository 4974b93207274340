"""Placements in the formats of expert-parallel load balancers, out and in.

All of them number *physical slots*: a bank (a GPU, there) has equally many, slot p is in bank p // (slots a bank), and
holds one whole expert. So a placement can be expressed where every expert is resident, none is sharded, and every bank
holds equally many replicas; and nothing else can. `moec partition --equal-slots` makes such placements.

- The EPLB triple, what `eplb.rebalance_experts` returns: physical→logical [layer, slot], logical→physical
  [layer, expert, replica] (−1 where there are fewer), and the number of replicas [layer, expert].
- The expert-location JSON of SGLang (`--init-expert-location`, as of 0.5): an object with `physical_to_logical_map`,
  [layer][slot], with a row for every *decoder* layer: the loader takes rows by decoder layer. Rows of dense layers are
  not used; they number the experts in their order, as its own `trivial` does.
- The expert map of vllm-ascend (`expert_map_path`, as of 0.11): MoE layers only, [layer][device][slot] in objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from moe_passes.plan.decisions import Replicas
from moe_passes.plan.errors import InputError
from moe_passes.solve.placement.problem import IntArray

MAP_KEY, MAP_LAYERS = "physical_to_logical_map", "layer_list"


@dataclass(frozen=True)
class Decoder:
    """Where MoE layers stand among a model's layers.

    Attributes:
        layers: decoder layers, dense ones included.
        moe: number of every MoE layer, ascending.
    """

    layers: int
    moe: tuple[int, ...]


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
    experts = triple.counts.shape[-1]
    placements = [
        _replicas(f"EPLB triple: layer {layer}", row, banks, experts)
        for layer, row in enumerate(triple.physical_to_logical.tolist())
    ]
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


def to_expert_location(layers: Sequence[Replicas], banks: int, decoder: Decoder) -> dict[str, list[list[int]]]:
    """Write placements as SGLang's expert-location object.

    Raises:
        InputError: a placement cannot be expressed.
    """
    placed = to_eplb(layers, banks).physical_to_logical
    rows = np.tile(np.arange(placed.shape[1]) % len(layers[0]), (decoder.layers, 1))
    rows[list(decoder.moe)] = placed
    return {MAP_KEY: rows.tolist()}


def from_expert_location(document: Any, banks: int, experts: int, decoder: Decoder) -> list[Replicas]:
    """Read placements from SGLang's expert-location object.

    Raises:
        InputError: malformed, an expert without a slot, or slots that do not divide among the banks.
    """
    rows = document.get(MAP_KEY) if isinstance(document, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise InputError(f"expert location: valid: an object with '{MAP_KEY}', [layer][slot] expert ids")
    if len(rows) != decoder.layers:
        raise InputError(
            f"expert location: has {len(rows)} rows; valid: {decoder.layers}, one for every decoder layer of the model"
        )
    return [_replicas(f"expert location: layer {layer}", rows[layer], banks, experts) for layer in decoder.moe]


def to_expert_map(layers: Sequence[Replicas], banks: int) -> dict[str, Any]:
    """Write placements as vllm-ascend's expert map.

    Raises:
        InputError: a placement cannot be expressed.
    """
    placed = to_eplb(layers, banks).physical_to_logical.reshape(len(layers), banks, -1).tolist()
    return {
        "moe_layer_count": len(placed),
        MAP_LAYERS: [
            {
                "layer_id": number,
                "device_count": banks,
                "device_list": [
                    {"device_id": device, "device_expert": experts} for device, experts in enumerate(devices)
                ],
            }
            for number, devices in enumerate(placed)
        ],
    }


def from_expert_map(document: Any, banks: int, experts: int) -> list[Replicas]:
    """Read placements from vllm-ascend's expert map.

    Raises:
        InputError: malformed, an expert without a slot, or other than `banks` devices with equally many slots.
    """
    layers = document.get(MAP_LAYERS) if isinstance(document, dict) else None
    if not isinstance(layers, list) or not layers or document.get("moe_layer_count") != len(layers):
        raise InputError(f"expert map: valid: an object with '{MAP_LAYERS}' and their number, 'moe_layer_count'")
    return [
        _replicas(f"expert map: layer {number}", _device_slots(number, layer, banks), banks, experts)
        for number, layer in enumerate(layers)
    ]


def _device_slots(number: int, layer: Any, banks: int) -> list[Any]:
    devices = layer.get("device_list") if isinstance(layer, dict) else None
    rows = [device.get("device_expert") for device in devices if isinstance(device, dict)] if _is_list(devices) else []
    held = [row for row in rows if _is_list(row)]
    if len(held) != banks or len({len(row) for row in held}) != 1 or not held[0]:
        raise InputError(
            f"expert map: layer {number}: valid: 'device_list' of {banks} devices, 'device_expert' equally long in all"
        )
    return [expert for slots in held for expert in slots]


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _slots(layer: int, replicas: Replicas, banks: int) -> list[int]:
    where = f"layer {layer} cannot be expressed in slots"
    held: list[list[int]] = [[] for _ in range(banks)]
    for expert, copies in enumerate(replicas):
        if not copies:
            raise InputError(f"{where}: expert {expert} is not resident; valid: all experts resident")
        for copy in copies:
            if len(copy) > 1:
                raise InputError(f"{where}: expert {expert} is sharded over {len(copy)} banks; valid: --equal-slots")
            held[copy[0]].append(expert)
    counts = [len(inside) for inside in held]
    if len(set(counts)) != 1:
        least, most = int(np.argmin(counts)), int(np.argmax(counts))
        raise InputError(
            f"{where}: bank {least} holds {counts[least]} replicas and bank {most} {counts[most]}; "
            "valid: equally many in every bank, as `moec partition --equal-slots` places them"
        )
    return [expert for inside in held for expert in inside]


def _replicas(where: str, row: list[Any], banks: int, experts: int) -> Replicas:
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
