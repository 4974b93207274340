"""Replay: run the very round that was scheduled, and say where execution left the plan.

The routing is that of the plan, whatever the model's routers choose. One thread loads in the planned order, each load
when what it waits for has run and its place in staging is free; its bytes go to the planned addresses. The model
computes the experts of a layer in the planned order, from the bytes that lie there.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moe_compiler.runtime.packing import SLICE
from moe_compiler.runtime.plan import Plan, PlannedTask
from moe_compiler.runtime.quantise import Packed
from moe_compiler.runtime.store import ExpertStore

PATIENCE_SECONDS = 60.0
"""How long a computation or a load waits for another before execution is said to have left the plan."""
COMPUTE = ("attention", "draft-experts", "expert", "write", "gather", "head")


@dataclass
class Departures:
    """Where execution left the plan.

    Attributes:
        loads: loads in the order in which they ran.
        computations: computations in the order in which they ran.
        notes: what differed, for people.
        spilled_bytes: that had no room at their addresses, since this runtime keeps weights in another format.
    """

    loads: list[int] = field(default_factory=list)
    computations: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    spilled_bytes: int = 0


class Replay:
    """One run of the planned round."""

    def __init__(self, plan: Plan, store: ExpertStore) -> None:
        if plan.round is None:
            raise ValueError("this program has no scheduled round to replay")
        self.plan, self.round, self.store = plan, plan.round, store
        tasks = self.round.tasks
        self.order = sorted(range(len(tasks)), key=lambda n: (tasks[n].start, n))
        self.number = {(t.kind, t.step, t.layer, t.expert): n for n, t in enumerate(tasks)}
        self.rows = {layer: row for row, layer in enumerate(plan.resident)}
        self.staging = torch.zeros(plan.staging_bytes, dtype=torch.uint8)
        self.found = Departures()
        self._done: set[int] = set()
        self._spill: dict[int, Tensor] = {}
        self._changed = threading.Condition()
        self._loader = threading.Thread(target=self._load_all, name="replayed-loads", daemon=True)
        self._loader.start()

    @property
    def length(self) -> int:
        """γ of the planned round."""
        return len(self.round.drafted)

    # What the model asks, step by step.

    def routing(self, step: int, layer: int) -> Tensor:
        """Return the planned experts of every row of a step: [row, k], −1 where there are fewer."""
        row = self.rows[layer]
        chosen = self.round.verify[row] if step == self.length else self.round.drafted[step, row]
        return torch.from_numpy(chosen.copy())

    def experts(self, step: int, layer: int, experts: Sequence[int]) -> list[int]:
        """Return the experts of a layer in the planned order; the layer's dense work has been done."""
        self.ran("attention", step, layer)
        if step < self.length:
            return list(experts)
        planned = [self.round.tasks[n].expert for n in self.order if self._is_of(n, "expert", layer)]
        if sorted(planned) != sorted(experts):
            self.found.notes.append(f"verify of layer {layer} computes {sorted(experts)}; planned: {sorted(planned)}")
            return list(experts)
        return planned

    def _is_of(self, number: int, kind: str, layer: int) -> bool:
        task = self.round.tasks[number]
        return task.kind == kind and task.layer == layer and task.step == self.length

    def weights(self, layer: int, expert: int) -> tuple[Packed, ...]:
        """Return an expert in full precision from the bytes that were staged for it."""
        load = self.number.get(("load", self.length, layer, expert))
        if load is None:
            return self.store.far.matrices(layer, expert)
        self._wait({load}, f"expert {expert} of layer {layer}")
        staged, layout = self._read(load), self.store.far.layouts[layer]
        if not torch.equal(staged, self._moved(self.round.tasks[load])):
            self.found.notes.append(f"the slice of expert {expert} of layer {layer} was overwritten in staging")
        pieces = self.store.near.pieces((layer, expert))
        if SLICE in pieces:
            return layout.views(pieces[SLICE], staged)
        return layout.views(staged[: layout.slice_bytes], staged[layout.slice_bytes :])

    def _moved(self, task: PlannedTask) -> Tensor:
        """Return the bytes that a load moves: the rest of a resident, all of another expert."""
        key = (task.layer, task.expert)
        layout = self.store.far.layouts[task.layer]
        piece, rest = layout.pack(self.store.far.matrices(*key))
        lows = rest[: layout.rest_bytes]
        return lows if self.store.near.pieces(key) else torch.cat([piece[: layout.slice_bytes], lows])

    def computed(self, step: int, layer: int, is_any: bool) -> None:
        """Note that the experts of a layer have been computed, if there were any."""
        if step == self.length:
            self.ran("gather", step, layer)
        elif is_any:
            self.ran("draft-experts", step, layer)

    def reached(self, step: int, layer: int) -> None:
        """Note that a step has come to a layer: the dense work of all layers before it is done."""
        for n in self.order:
            task = self.round.tasks[n]
            if task.kind == "attention" and task.step == step and task.layer < layer:
                self.ran("attention", step, task.layer)

    def ended(self, step: int) -> None:
        """Note that a step has given its logits."""
        head = next(t.layer for t in self.round.tasks if t.kind == "head" and t.step == step)
        self.reached(step, head)
        self.ran("head", step, head)

    def ran(self, kind: str, step: int, layer: int, expert: int = -1) -> None:
        """Note that a computation has run; writes that are planned before it come first."""
        number = self.number.get((kind, step, layer, expert))
        if number is None or number in self._done:
            return
        self._write_before(number)
        self._finish(number, self.found.computations)

    def finish(self) -> Departures:
        """Run what is left, and compare with the plan."""
        self._write_before(len(self.order))
        self._loader.join(PATIENCE_SECONDS)
        for name, ran, kinds in (
            ("loads", self.found.loads, ("load",)),
            ("computations", self.found.computations, COMPUTE),
        ):
            planned = [n for n in self.order if self.round.tasks[n].kind in kinds]
            self._compare(name, ran, planned)
        return self.found

    def _compare(self, name: str, ran: list[int], planned: list[int]) -> None:
        missing = [n for n in planned if n not in self._done]
        if missing:
            self.found.notes.append(f"{len(missing)} {name} did not run; the first: {self._title(missing[0])}")
        for place, (have, want) in enumerate(zip(ran, planned, strict=False)):
            if have != want:
                where = f"{self._title(have)} ran where {self._title(want)} was planned"
                self.found.notes.append(f"order of {name} differs from number {place} on: {where}")
                return

    def _title(self, number: int) -> str:
        task = self.round.tasks[number]
        return f"{task.kind} of layer {task.layer}" + (f", expert {task.expert}" if task.expert >= 0 else "")

    # Writes of the next hot set.

    def _write_before(self, number: int) -> None:
        start = self.round.tasks[number].start if number < len(self.order) else None
        for n in self.order:
            task = self.round.tasks[n]
            if task.kind == "write" and n not in self._done and (start is None or (task.start, n) < (start, number)):
                self._wait(set(task.after), self._title(n))
                self._finish(n, self.found.computations)

    def promoted(self) -> list[tuple[int, int, int]]:
        """Return (layer, expert, what it replaces) of the round's writes."""
        return [(t.layer, t.expert, t.replaces) for t in self.round.tasks if t.kind == "write"]

    # Loads.

    def _load_all(self) -> None:
        for number in self.order:
            task = self.round.tasks[number]
            if task.kind == "load":
                waits = set(task.after) | self._holders(number)
                if not self._wait(waits, self._title(number)):
                    return
                self._write(number, task)
                self._finish(number, self.found.loads)

    def _holders(self, number: int) -> set[int]:
        """Return the tasks that end what lies at a load's addresses and was loaded before it."""
        mine, place = self.round.slots.get(number, []), self.order.index(number)
        before = {n for n in self.order[:place] if n in self.round.slots}
        return {
            last
            for other in before
            for offset, size, last in self.round.slots[other]
            if any(offset < at + length and at < offset + size for at, length, _ in mine)
        }

    def _write(self, number: int, task: PlannedTask) -> None:
        data, place = self._moved(task), 0
        for offset, size, _ in self.round.slots.get(number, []):
            part = data[place : place + size]
            self.staging[offset : offset + len(part)] = part
            place += len(part)
        self._spill[number] = data[place:]
        self.found.spilled_bytes += len(data) - place

    def _read(self, number: int) -> Tensor:
        left = len(self._moved(self.round.tasks[number])) - len(self._spill[number])
        parts = []
        for offset, size, _ in self.round.slots.get(number, []):
            parts.append(self.staging[offset : offset + min(size, left)])
            left -= len(parts[-1])
        return torch.cat([*parts, self._spill[number]])

    # What has run.

    def _finish(self, number: int, ran: list[int]) -> None:
        with self._changed:
            ran.append(number)
            self._done.add(number)
            self._changed.notify_all()

    def _wait(self, numbers: set[int], what: str) -> bool:
        with self._changed:
            if self._changed.wait_for(lambda: numbers <= self._done, PATIENCE_SECONDS):
                return True
        late = min(numbers - self._done)
        self.found.notes.append(f"{what} waited in vain for {self._title(late)}")
        return False
