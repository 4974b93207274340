"""What the tasks of a round must be, derived anew from the two phases, the decisions and the round's routing.

It shares no code with the passes. A task is known by its kind, step, layer and expert; what it waits for is the set of
tasks that give its operands, however many lie between.
"""

from dataclasses import dataclass, field

import numpy as np

from moe_passes.plan.decisions import ALL
from moe_passes.plan.machine import MOST_BANKS
from moe_passes.plan.model import DensePart
from moe_passes.plan.phase import Operation, Phase
from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.round import BYTES_PER_ACTIVATION, DEEP, EXTERNAL, FAR_ENGINE, LayerRouting, Traffic, nanoseconds
from moe_passes.verify.phases import needed_by_result
from moe_passes.verify.plan import Plan

Key = tuple[str, int, int, int]
"""Kind, step, layer, expert (−1 where it is not about one)."""
Uses = frozenset[tuple[str, int]]
"""Resources by name, and units of each; `bank N` stands for a bank."""
FULL_BITS = 8
CACHE_BITS = 16
PASSED = -1
"""Stands for the element that has the whole of what streamed past, beside the banks."""


@dataclass
class Expected:
    """A task as it must be.

    Attributes:
        after: tasks that it waits for.
        traffic: bytes and multiply-accumulates.
        modes: nanoseconds and demands of every way to run it.
        part: dense work, while it is being collected.
    """

    after: set[Key]
    traffic: Traffic = field(default_factory=Traffic)
    modes: list[tuple[int, Uses]] = field(default_factory=list)
    part: DensePart | None = None


@dataclass(frozen=True)
class Held:
    """Bytes in staging: slots of one load, until a task ends."""

    load: Key
    last: Key
    slots: int


class Derivation:
    """Derives the tasks of a round.

    Attributes:
        tasks: by key.
        held: what lies in staging.
        slot_bytes: of one slot.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.prices, self.banks = plan, plan.prices, plan.prices.space().banks
        self.layers = {layer.shape.name: layer for layer in plan.layers}
        self.slot_bytes = max(layer.shape.slot_bytes for layer in plan.layers)
        self.tasks: dict[Key, Expected] = {}
        self.held: list[Held] = []
        self.asking: dict[str, list[Key]] = {}
        self.loaded = {(work.layer, work.expert) for work in plan.work if work.kind == "load"}
        self.everywhere: Uses = frozenset((f"bank {bank}", 1) for bank in range(self.banks))
        self.whole_link = (EXTERNAL, plan.prices.rates().loads_at_once)
        length = plan.draft.length
        for step in range(length):
            self._phase(plan.draft_phase, step, 1)
        self._phase(plan.verify_phase, length, length + 1)
        for key, task in self.tasks.items():
            if task.part is not None:
                is_draft = key[1] < length
                width = 1 if is_draft else length + 1
                tokens = plan.request.batch * width
                fixed = self.prices.fixed_seconds("step" if key[0] == "head" else "layer", tokens)
                bits = plan.draft.dense_bits if is_draft else FULL_BITS
                self._price_dense(task, width, bits, fixed)

    def _phase(self, phase: Phase, step: int, width: int) -> None:
        before, gives = set(self.tasks), list[set[Key]]()
        routers: dict[int, Key] = {}
        runs = needed_by_result(phase)
        for number, op in enumerate(phase.operations):
            waits = set().union(*(gives[source] for source in op.operands)) if op.operands else set(before)
            if number not in runs:
                gives.append(set())
                continue
            if op.part is not None:
                key = ("head" if op.kind == "head" else "attention", step, op.part.layer, -1)
                self._collect(key, op.part, waits)
                routers[number] = key
                waits = {key}
            elif op.kind == "restrict":
                routers[number] = routers[op.operands[0]]
            elif op.kind == "experts":
                waits = self._experts(op, step, width, waits, routers[op.operands[1]])
            gives.append(waits)

    def _collect(self, key: Key, part: DensePart, waits: set[Key]) -> None:
        task = self.tasks.get(key)
        if task is None:
            self.tasks[key] = Expected(waits - {key}, part=part)
            return
        assert task.part is not None
        task.part, task.after = task.part + part, task.after | (waits - {key})

    def _experts(self, op: Operation, step: int, width: int, waits: set[Key], router: Key) -> set[Key]:
        layer, routing = self.layers[op.store], self.plan.routing[op.store]
        if step < self.plan.draft.length:
            self.asking.setdefault(op.store, []).append(router)
            return self._draft(layer, step, routing.drafted[step], waits)
        return self._verify(layer, routing, waits, router)

    # Dense work.

    def _price_dense(self, task: Expected, width: int, bits: int, fixed: float) -> None:
        assert task.part is not None
        part, request = task.part, self.plan.request
        seen = min(request.context, part.window) if part.window else request.context
        # Of the 17 half bytes of two weights, their scale's share included, 9 belong to the slice.
        weights = part.weight_bytes if bits >= FULL_BITS else -(-part.weight_bytes * 9 // 17)
        striped = self.plan.draft.kv_banks or self.banks
        caches = part.kv_heads * request.batch
        copies = max(1, self.banks // (striped * caches)) if caches else 1
        size = weights + copies * request.batch * (2 * part.kv_elements * seen + part.state_bytes)
        projected = request.batch * width * part.macs_per_token
        attention = request.batch * width * seen * part.attention_macs
        done = {"w4a8_macs" if bits < FULL_BITS else "w8a8_macs": projected, "attention_macs": attention}
        tokens = request.batch * width
        computed = self.prices.mac_seconds(projected, bits, self.banks, tokens)
        computed += self.prices.mac_seconds(attention, CACHE_BITS, self.banks, tokens)
        gathered = request.batch * width * part.gathered_elements * BYTES_PER_ACTIVATION
        if striped > 1 and request.context:
            gathered += request.batch * width * striped * part.merged_elements * BYTES_PER_ACTIVATION
        read = self.prices.local_read_seconds(size / self.banks)
        seconds = max(read, computed)
        seconds = seconds + self.prices.aggregate_seconds(gathered) + fixed
        task.traffic = Traffic(hb_read_bytes=size, link_bytes=gathered, **done)
        task.modes = [(nanoseconds(seconds), self.everywhere | {("link", 1)})]

    # Experts of a draft step.

    def _draft(self, layer: PlacedLayer, step: int, drafted: np.ndarray, waits: set[Key]) -> set[Key]:
        tokens = [[expert for expert in row if expert >= 0] for row in drafted.tolist()]
        if not any(tokens):
            return waits
        key = ("draft-experts", step, layer.shape.layer, -1)
        served = self._served(key)
        load, macs, read, heard, uses = [0.0] * self.banks, [0.0] * self.banks, 0, 0, 0
        for expert, replica in served.items():
            copies = layer.replicas[expert]
            copy = copies[replica] if 0 <= replica < len(copies) else copies[0]
            # Of a resident that is kept whole, a draft on slices reads the slice.
            kept = layer.shape.whole_bytes if layer.residency[expert] == ALL else layer.shape.msb_bytes
            size = layer.shape.msb_bytes if self.plan.draft.bits < FULL_BITS else kept
            read += size
            met = sum(expert in row for row in tokens)
            uses += met
            for bank in copy:
                load[bank] += size / len(copy)
                macs[bank] += met * layer.shape.parameters / len(copy)
        for row in tokens:
            banks = {bank for e in row if e in served for bank in self._copy(layer, e, served[e])}
            heard += min(len(banks), self._most_heard())
        link_bytes = heard * self.plan.model.hidden * BYTES_PER_ACTIVATION
        each = uses / len(served) if served else 0.0
        computed = self.prices.mac_seconds(max(macs), self.plan.draft.bits, 1, each)
        compute = max(self.prices.local_read_seconds(max(load)), computed)
        fixed = len(served) * self.prices.fixed_seconds("expert")
        total, is_full = round(sum(macs)), self.plan.draft.bits >= FULL_BITS
        self.tasks[key] = Expected(
            waits,
            Traffic(
                hb_read_bytes=read,
                link_bytes=link_bytes,
                w4a8_macs=0 if is_full else total,
                w8a8_macs=total if is_full else 0,
            ),
            [
                (
                    nanoseconds(compute + self.prices.aggregate_seconds(link_bytes) + fixed),
                    self.everywhere | {("link", 1)},
                )
            ],
        )
        return {key}

    def _served(self, key: Key) -> dict[int, int]:
        """Return which replica the plan says serves each expert: any one that exists is legal."""
        for work in self.plan.work:
            if (work.kind, work.step, work.layer, work.expert) == key:
                return dict(work.served)
        return {}

    @staticmethod
    def _copy(layer: PlacedLayer, expert: int, replica: int) -> tuple[int, ...]:
        copies = layer.replicas[expert]
        return copies[replica] if 0 <= replica < len(copies) else copies[0]

    # Experts of verify.

    def _verify(self, layer: PlacedLayer, routing: LayerRouting, waits: set[Key], router: Key) -> set[Key]:
        length, number = self.plan.draft.length, layer.shape.layer
        tokens = [set(row) - {-1} for row in routing.verify.tolist()]
        needed = sorted(set().union(*tokens))
        computed: dict[int, Key] = {}
        loads: dict[int, Key] = {}
        far, streamed = set[int](), set[int]()
        for expert in needed:
            key, missing = ("expert", length, number, expert), self._missing(layer, expert)
            after, uses = set(waits), sum(expert in row for row in tokens)
            macs = uses * layer.shape.parameters
            computed[expert] = key
            is_late = missing and self._is_late(layer, routing, expert)
            if is_late and uses <= self.plan.dispatch.most_far_tokens:
                far.add(expert)
                traffic = Traffic(far_read_bytes=layer.shape.whole_bytes, far_macs=macs)
                self.tasks[key] = Expected(after, traffic, self._far_ways(layer, expert, macs, uses))
                continue
            if is_late and self.plan.dispatch.late == "stream":
                streamed.add(expert)
                self.tasks[key] = self._passing(layer, expert, missing, uses, after)
                continue
            if missing:
                loads[expert] = self._load(layer, routing, expert, missing, router)
                after.add(loads[expert])
            traffic = Traffic(hb_read_bytes=layer.shape.whole_bytes, w8a8_macs=macs)
            self.tasks[key] = Expected(after, traffic, self._ways(layer, expert, missing, uses))
        last = dict(computed)
        for new, old in routing.promoted:
            last[new] = self._write(layer, new, old, loads, computed)
        for expert, load in loads.items():
            slots = -(-self._missing(layer, expert) // self.slot_bytes)
            self.held.append(Held(load, last[expert], slots))
        key = ("gather", length, number, -1)
        self.tasks[key] = self._gather(layer, tokens, computed, waits, far, streamed)
        return {key}

    def _is_late(self, layer: PlacedLayer, routing: LayerRouting, expert: int) -> bool:
        """Say whether an expert need not be loaded: what a draft asked for is, if the plan loads it, and what stays."""
        if layer.needed_permille[expert] >= self.plan.dispatch.sure_permille:
            return False
        if any(expert == new for new, _ in routing.promoted):
            return False
        is_asked = expert in routing.asked.ravel().tolist()
        return not (is_asked and (layer.shape.layer, expert) in self.loaded)

    def _from_deep(self, layer: PlacedLayer, expert: int, size: int) -> tuple[float, set[tuple[str, int]]]:
        """Return how long bytes take out of the deep memory at least, and what they occupy there."""
        if layer.deep is None or not layer.deep[expert]:
            return 0.0, set()
        return self.prices.deep_seconds(size), {(DEEP, 1)}

    def _far_ways(self, layer: PlacedLayer, expert: int, macs: int, tokens: int) -> list[tuple[int, Uses]]:
        """Return the ways to compute an expert in the far memory: with all of its bandwidth, and beside a load."""
        ways, size = [], layer.shape.whole_bytes
        least, deep = self._from_deep(layer, expert, size)
        unit = self.everywhere if self.prices.rates().far_shares_unit else frozenset()
        for beside_load, others in ((False, {self.whole_link}), (True, set[tuple[str, int]]())):
            seconds = self.prices.far_seconds(size, macs, tokens, beside_load)
            if seconds is not None:
                ways.append((nanoseconds(max(seconds, least)), frozenset({(FAR_ENGINE, 1)} | others | deep | unit)))
        return ways

    def _passing(self, layer: PlacedLayer, expert: int, missing: int, tokens: int, after: set[Key]) -> Expected:
        """Return the computation of an expert as what is missing of it streams past all elements."""
        macs, resident = tokens * layer.shape.parameters, layer.shape.whole_bytes - missing
        least, deep = self._from_deep(layer, expert, missing)
        seconds = max(
            self.prices.stream_seconds(missing),
            least,
            self.prices.local_read_seconds(resident / len(layer.replicas[expert][0])) if resident else 0.0,
            self.prices.mac_seconds(macs, FULL_BITS, self.banks, tokens),
        )
        traffic = Traffic(hb_read_bytes=resident, external_read_bytes=missing, w8a8_macs=macs)
        uses = self.everywhere | {self.whole_link} | deep
        return Expected(after, traffic, [(nanoseconds(seconds + self.prices.fixed_seconds("expert")), uses)])

    def _missing(self, layer: PlacedLayer, expert: int) -> int:
        return layer.shape.whole_bytes - layer.shape.resident_bytes(int(layer.residency[expert]))

    def _load(self, layer: PlacedLayer, routing: LayerRouting, expert: int, size: int, router: Key) -> Key:
        key = ("load", self.plan.draft.length, layer.shape.layer, expert)
        asked = [
            step
            for step in range(len(self.asking.get(layer.shape.name, ())))
            if expert in routing.asked[step].ravel().tolist()
        ]
        if layer.needed_permille[expert] >= self.plan.dispatch.sure_permille:
            after: set[Key] = set()
        elif asked:
            after = {self.asking[layer.shape.name][asked[0]]}
        else:
            after = {router}
        least, deep = self._from_deep(layer, expert, size)
        ways: list[tuple[int, Uses]] = []
        for taken in range(1, self.whole_link[1] + 1):
            seconds = max(self.prices.external_read_seconds(size, taken / self.whole_link[1]), least)
            ways.append((nanoseconds(seconds), frozenset({(EXTERNAL, taken)} | deep)))
        self.tasks[key] = Expected(after, Traffic(hb_write_bytes=size, external_read_bytes=size), ways)
        return key

    def _ways(self, layer: PlacedLayer, expert: int, staged: int, tokens: int) -> list[tuple[int, Uses]]:
        """Return every legal way to compute an expert: near memory on each replica."""
        resident, macs = layer.shape.whole_bytes - staged, tokens * layer.shape.parameters
        fixed = self.prices.fixed_seconds("expert")
        ways = []
        for copy in layer.replicas[expert] or ((),):
            used = len(copy) if copy and not staged else self.banks
            read = (resident / len(copy) if copy else 0.0) + staged / self.banks
            computed = self.prices.mac_seconds(macs, FULL_BITS, used, tokens)
            seconds = max(self.prices.local_read_seconds(read), computed) + fixed
            banks = copy if used == len(copy) else range(self.banks)
            ways.append((nanoseconds(seconds), frozenset((f"bank {bank}", 1) for bank in banks)))
        return ways

    def _write(self, layer: PlacedLayer, new: int, old: int, loads: dict[int, Key], computed: dict[int, Key]) -> Key:
        key = ("write", self.plan.draft.length, layer.shape.layer, new)
        size, copies = layer.shape.resident_bytes(int(layer.residency[old])), layer.replicas[old]
        narrowest = min(len(copy) for copy in copies)
        seconds = self.prices.local_read_seconds(size / self.banks + len(copies) * size / narrowest)
        after = {key for key in (loads.get(new), computed.get(new), computed.get(old)) if key is not None}
        traffic = Traffic(hb_read_bytes=size, hb_write_bytes=size * len(copies))
        self.tasks[key] = Expected(after, traffic, [(nanoseconds(seconds), self.everywhere)])
        return key

    def _gather(
        self,
        layer: PlacedLayer,
        tokens: list[set[int]],
        computed: dict[int, Key],
        waits: set[Key],
        far: set[int],
        streamed: set[int],
    ) -> Expected:
        """Partial sums come from all banks where a part is staged, else from those of the first mode's replica.

        What is computed far sends no partial sums; for it, activations go there and back. What streams past sends one
        sum of a token, beside those of its resident part.
        """
        homes: dict[int, frozenset[int]] = {}
        for expert, key in computed.items():
            if expert in far:
                homes[expert] = frozenset()
            elif expert in streamed:
                homes[expert] = frozenset({PASSED, *(layer.replicas[expert] or ((),))[0]})
            elif self._missing(layer, expert):
                homes[expert] = frozenset(range(self.banks))
            else:
                homes[expert] = self._first_home(layer, expert, key)
        most = self._most_heard()
        heard = sum(min(most, len(frozenset().union(*(homes[expert] for expert in row)))) for row in tokens if row)
        traffic = Traffic(link_bytes=heard * self.plan.model.hidden * BYTES_PER_ACTIVATION)
        seconds = self.prices.aggregate_seconds(traffic.link_bytes)
        uses: Uses = frozenset({("link", 1)})
        if far:
            seconds += self.prices.send_seconds(len(tokens) * self.plan.model.hidden * BYTES_PER_ACTIVATION)
            uses |= {self.whole_link} if self.prices.rates().is_half_duplex else set()
        return Expected(waits | set(computed.values()), traffic, [(nanoseconds(seconds), uses)])

    def _most_heard(self) -> int:
        """Return how many partial sums of a token arrive at most."""
        return 1 if self.prices.rates().link_reduces else self.banks + 1

    def _first_home(self, layer: PlacedLayer, expert: int, key: Key) -> frozenset[int]:
        """Return the banks of the replica that the dispatcher chose: those of the first mode, which must be one."""
        copies = [frozenset(copy) for copy in layer.replicas[expert]]
        for task, work in zip(self.plan.tasks, self.plan.work, strict=True):
            if (work.kind, work.step, work.layer, work.expert) == key and task.modes:
                banks = banks_of(self.plan, task.modes[0].uses)
                return banks if banks in copies else copies[0]
        return copies[0]


def named_banks(name: str) -> frozenset[int] | None:
    """Return the banks that a resource stands for, `banks0-3,7` for example; None for another resource."""
    if not name.startswith("banks"):
        return None
    banks: set[int] = set()
    runs = name.removeprefix("banks").split(",")
    if len(runs) > MOST_BANKS or not name.isascii():
        return None
    for run in runs:
        first, _, last = run.partition("-")
        if not first.isdigit() or not (last or first).isdigit() or max(len(first), len(last)) > len(str(MOST_BANKS)):
            return None
        span = range(int(first), int(last or first) + 1)
        if len(span) > MOST_BANKS or not banks.isdisjoint(span):
            return None
        banks.update(span)
    return frozenset(banks)


def banks_of(plan: Plan, uses: tuple[tuple[int, int], ...]) -> frozenset[int]:
    """Return the banks that a mode occupies."""
    return frozenset().union(*(named_banks(plan.names[resource]) or frozenset() for resource, _ in uses))


def demands(plan: Plan, uses: tuple[tuple[int, int], ...]) -> Uses:
    """Return what a mode occupies, bank by bank."""
    result: set[tuple[str, int]] = set()
    for resource, amount in uses:
        banks = named_banks(plan.names[resource])
        if banks is None:
            result.add((plan.names[resource], amount))
        else:
            result.update((f"bank {bank}", amount) for bank in banks)
    return frozenset(result)
