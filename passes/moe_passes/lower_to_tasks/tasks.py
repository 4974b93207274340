"""Build the task graph of a round: which tasks, on what, for how long, after what.

Draft step d: for every layer an `attention` task (all dense work), then, where the layer has residents, one
`draft-experts` task; a `head` at the end. Nothing is loaded. Verify: for every layer an `attention` task; for every
distinct expert an `expert` task, after the `load` of what is not resident; a `gather` of the partial sums. A load
may start once the draft's router asked for its expert (after the first such `attention` task), else after the verify
router. What is loaded lies striped over all banks of staging from the start of the load to the end of the
computation. Staging is handed out in slots of one slice (an expert that comes whole takes two, which need not be
neighbours), so it cannot fragment: whatever fits by count also fits by address.
Without HB, weights stream from external memory past the elements as they compute.
"""

import numpy as np

from moe_passes.cost import BYTES_PER_ACTIVATION, CostModel, nanoseconds
from moe_passes.durations import DenseTime, dense_time
from moe_passes.lower_to_tasks.problem import PlacedLayer, RoundRouting, StaticPlan, TaskGraph, Work
from moe_passes.partition_experts.dispatch import Dispatcher
from moe_passes.schedule_round.problem import Buffer, Mode, Problem, Task

DRAFT_BITS_FULL = 8
ALIGNMENT_BYTES = 64
"""Staging slots begin at multiples of this."""


def build(plan: StaticPlan, routing: RoundRouting, cost: CostModel) -> TaskGraph:
    """Build the task graph of a round.

    Raises:
        InputError: an expert's slice is larger than staging.
    """
    builder = _Builder(plan, cost)
    for step in range(plan.length):
        builder.draft_step(step, routing.drafted[step])
    builder.verify_step(routing)
    return builder.graph()


class _Builder:
    """Collects tasks in program order."""

    def __init__(self, plan: StaticPlan, cost: CostModel) -> None:
        self.plan, self.cost, self.banks = plan, cost, cost.banks()
        self.moe = {layer.shape.layer: row for row, layer in enumerate(plan.layers)}
        self.tasks: list[Task] = []
        self.work: list[Work] = []
        self.buffers: list[Buffer] = []
        self.routers: dict[tuple[int, int], int] = {}
        self.last: tuple[int, ...] = ()
        self._add_resources()

    def _add_resources(self) -> None:
        self.names = ["external"]
        if not self.banks:
            self.names.append("elements")
            self.capacities = [1, 1]
            self.all_banks: tuple[tuple[int, int], ...] = ((1, 1),)
            return
        group_of = _groups(self.plan, self.banks)
        groups = max(group_of) + 1
        names = [_group_name([b for b, of in enumerate(group_of) if of == group]) for group in range(groups)]
        self.group_of = group_of
        self.names += ["link", "streamline", *names, "staging"]
        self.capacities = [1, 1, 1] + [1] * groups + [self.plan.staging_bytes]
        self.link, self.streamline, self.staging = 1, 2, 3 + groups
        self.all_banks = tuple((3 + g, 1) for g in range(groups))
        self.slot_bytes = _slot_bytes(self.plan)
        self.dispatchers = [_dispatcher(layer, self.banks) for layer in self.plan.layers]

    def graph(self) -> TaskGraph:
        """Return what was collected."""
        problem = Problem(tuple(self.capacities), tuple(self.names), tuple(self.tasks), tuple(self.buffers))
        return TaskGraph(problem, tuple(self.work))

    def _add(self, modes: tuple[Mode, ...], after: tuple[int, ...], work: Work) -> int:
        self.tasks.append(Task(modes, tuple(sorted(set(after)))))
        self.work.append(work)
        return len(self.tasks) - 1

    def draft_step(self, step: int, drafted: np.ndarray) -> None:
        """Add one draft step; `drafted` is [MoE layer, batch, expert]."""
        for part in self.plan.parts[:-1]:
            self._dense(step, part.layer, 1)
            row = self.moe.get(part.layer)
            if row is not None and drafted[row].any():
                self._draft_experts(step, self.plan.layers[row], drafted[row])
        self._dense(step, self.plan.parts[-1].layer, 1)

    def verify_step(self, routing: RoundRouting) -> None:
        """Add the verify step."""
        for part in self.plan.parts[:-1]:
            self._dense(self.plan.length, part.layer, self.plan.length + 1)
            row = self.moe.get(part.layer)
            if row is not None:
                self._verify_experts(self.plan.layers[row], routing.verify[row], routing.asked[:, row])
        self._dense(self.plan.length, self.plan.parts[-1].layer, self.plan.length + 1)

    def _dense(self, step: int, layer: int, width: int) -> None:
        part = self.plan.parts[layer]
        time = dense_time(self.cost, part, self.plan.batch, width, self.plan.context)
        head = layer == len(self.plan.parts) - 1
        uses = (*self.all_banks, (self.link, 1)) if self.banks else (*self.all_banks, (0, 1))
        task = self._add((Mode(nanoseconds(time.seconds), uses),), self.last, self._dense_work(step, layer, head, time))
        self.last = (task,)
        self.routers[step, layer] = task

    def _dense_work(self, step: int, layer: int, head: bool, time: DenseTime) -> Work:
        read = time.weight_and_kv_bytes
        return Work(
            kind="head" if head else "attention",
            step=step,
            layer=layer,
            expert=-1,
            hb_read_bytes=read if self.banks else 0,
            external_read_bytes=0 if self.banks else read,
            link_bytes=time.link_bytes,
            w8a8_macs=time.macs,
        )

    def _draft_experts(self, step: int, layer: PlacedLayer, drafted: np.ndarray) -> None:
        """One task for all experts of a draft step: the busiest bank, then the partial sums."""
        load = np.zeros(self.banks)
        macs = np.zeros(self.banks)
        read = 0
        tokens_of = drafted.sum(axis=0)
        homes = self._dispatch(layer, tokens_of > 0)
        for expert, banks in homes.items():
            size = layer.resident_bytes(expert)
            load[list(banks)] += size / len(banks)
            macs[list(banks)] += int(tokens_of[expert]) * layer.shape.parameters / len(banks)
            read += size
        link_bytes = self._partial_sums(drafted, homes)
        compute = max(
            self.cost.local_read_seconds(float(load.max())),
            self.cost.mac_seconds(float(macs.max()), self.plan.bits, 1),
        )
        seconds = compute + self.cost.aggregate_seconds(link_bytes)
        total = round(float(macs.sum()))
        work = Work(
            "draft-experts",
            step,
            layer.shape.layer,
            -1,
            hb_read_bytes=read,
            link_bytes=link_bytes,
            w4a8_macs=total if self.plan.bits < DRAFT_BITS_FULL else 0,
            w8a8_macs=0 if self.plan.bits < DRAFT_BITS_FULL else total,
        )
        mode = Mode(nanoseconds(seconds), (*self.all_banks, (self.link, 1)))
        self.last = (self._add((mode,), self.last, work),)

    def _verify_experts(self, layer: PlacedLayer, verify: np.ndarray, asked: np.ndarray) -> None:
        """Add loads, expert computations and the gather of one verify layer."""
        router = self.last[0]
        experts = np.flatnonzero(verify.any(axis=0))
        if not self.banks:
            self.last = tuple(self._stream_expert(layer, int(e), int(verify[:, e].sum()), router) for e in experts)
            return
        everywhere = tuple(range(self.banks))
        homes = self._dispatch(layer, verify.sum(axis=0) > 0)
        computed = [
            self._near_memory_expert(
                layer, e, homes.get(e, ()), int(verify[:, e].sum()), router, self._first_asked(layer, asked, e)
            )
            for e in experts.tolist()
        ]
        staged = {int(e): everywhere for e in experts if layer.loaded_bytes(int(e))}
        link_bytes = self._partial_sums(verify, homes | staged)
        work = Work("gather", self.plan.length, layer.shape.layer, -1, link_bytes=link_bytes)
        mode = Mode(nanoseconds(self.cost.aggregate_seconds(link_bytes)), ((self.link, 1),))
        self.last = (self._add((mode,), (router, *computed), work),)

    def _first_asked(self, layer: PlacedLayer, asked: np.ndarray, expert: int) -> int | None:
        """Return the task of the first draft router that asked for an expert, if any did."""
        steps = np.flatnonzero(asked[:, :, expert].any(axis=1))
        return self.routers[int(steps[0]), layer.shape.layer] if len(steps) else None

    def _stream_expert(self, layer: PlacedLayer, expert: int, tokens: int, router: int) -> int:
        size, macs = layer.shape.whole_bytes, tokens * layer.shape.parameters
        seconds = max(self.cost.external_read_seconds(size), self.cost.mac_seconds(macs, 8, 1))
        work = Work("expert", self.plan.length, layer.shape.layer, expert, external_read_bytes=size, w8a8_macs=macs)
        return self._add((Mode(nanoseconds(seconds), ((0, 1), *self.all_banks)),), (router,), work)

    def _dispatch(self, layer: PlacedLayer, used: np.ndarray) -> dict[int, tuple[int, ...]]:
        """Return the banks of the replica that serves each resident expert of a step."""
        experts = [int(e) for e in np.flatnonzero(used) if layer.replicas[e]]
        chosen = self.dispatchers[self.moe[layer.shape.layer]].choose(experts)
        return {expert: layer.replicas[expert][replica] for expert, replica in zip(experts, chosen, strict=True)}

    def _near_memory_expert(
        self,
        layer: PlacedLayer,
        expert: int,
        home: tuple[int, ...],
        tokens: int,
        router: int,
        asked: int | None,
    ) -> int:
        loaded, after = layer.loaded_bytes(expert), [router]
        if loaded:
            load = self._add(
                (Mode(nanoseconds(self.cost.external_read_seconds(loaded)), ((0, 1),)),),
                (router if asked is None else asked,),
                Work(
                    "load",
                    self.plan.length,
                    layer.shape.layer,
                    expert,
                    hb_write_bytes=loaded,
                    external_read_bytes=loaded,
                ),
            )
            after.append(load)
        macs = tokens * layer.shape.parameters
        work = Work(
            "expert",
            self.plan.length,
            layer.shape.layer,
            expert,
            hb_read_bytes=layer.shape.whole_bytes,
            w8a8_macs=macs,
        )
        task = self._add(self._expert_modes(layer, expert, home, macs), tuple(after), work)
        if loaded:
            slots = -(-loaded // self.slot_bytes)
            self.buffers += [Buffer(self.staging, self.slot_bytes, load, task)] * slots
        return task

    def _expert_modes(self, layer: PlacedLayer, expert: int, home: tuple[int, ...], macs: int) -> tuple[Mode, ...]:
        """Near memory, on the banks that hold the expert, or as xPU, streamed past all elements, if that can pay."""
        loaded, resident = layer.loaded_bytes(expert), layer.resident_bytes(expert)
        busiest = (resident / len(home) if home else 0) + loaded / self.banks
        if loaded or len(home) == self.banks:
            seconds = max(self.cost.local_read_seconds(busiest), self.cost.mac_seconds(macs, 8, self.banks))
            return (Mode(nanoseconds(seconds), self.all_banks),)
        near = max(self.cost.local_read_seconds(busiest), self.cost.mac_seconds(macs, 8, len(home)))
        groups = sorted({self.group_of[bank] for bank in home})
        modes = [Mode(nanoseconds(near), tuple(self.all_banks[g] for g in groups))]
        xpu = max(self.cost.stream_seconds(resident), self.cost.mac_seconds(macs, 8, self.banks))
        if xpu < near:
            modes.append(Mode(nanoseconds(xpu), ((self.streamline, 1), *self.all_banks)))
        return tuple(modes)

    def _partial_sums(self, choices: np.ndarray, homes: dict[int, tuple[int, ...]]) -> int:
        """Bytes of partial sums: for every token, the distinct banks that hold a part of its experts."""
        holds = np.zeros((choices.shape[1], self.banks), dtype=np.bool_)
        for expert, banks in homes.items():
            holds[expert, list(banks)] = True
        heard = choices.astype(np.float32) @ holds.astype(np.float32) > 0
        return int(heard.sum()) * self.plan.hidden * BYTES_PER_ACTIVATION


def _slot_bytes(plan: StaticPlan) -> int:
    """Return the size of a staging slot: the largest slice that is loaded in one piece."""
    in_slices = plan.bits < DRAFT_BITS_FULL
    largest = max((layer.shape.msb_bytes if in_slices else layer.shape.whole_bytes) for layer in plan.layers)
    return -(-largest // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _groups(plan: StaticPlan, banks: int) -> list[int]:
    """Number the groups of banks that no placement tells apart, in the order of their first bank: [bank]."""
    columns: list[list[tuple[int, int, int]]] = [[] for _ in range(banks)]
    for row, layer in enumerate(plan.layers):
        for expert, copies in enumerate(layer.replicas):
            for replica, copy in enumerate(copies):
                for bank in copy if len(copy) < banks else ():
                    columns[bank].append((row, expert, replica))
    numbers: dict[tuple[tuple[int, int, int], ...], int] = {}
    return [numbers.setdefault(tuple(column), len(numbers)) for column in columns]


def _group_name(banks: list[int]) -> str:
    """Name a group: banks0-15, or banks0,4-5 where its banks are not neighbours."""
    runs: list[list[int]] = []
    for bank in banks:
        if runs and runs[-1][-1] == bank - 1:
            runs[-1].append(bank)
        else:
            runs.append([bank])
    return "banks" + ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _dispatcher(layer: PlacedLayer, banks: int) -> Dispatcher:
    sizes = [float(layer.resident_bytes(expert)) for expert in range(layer.shape.experts)]
    return Dispatcher(banks, layer.replicas, sizes)
