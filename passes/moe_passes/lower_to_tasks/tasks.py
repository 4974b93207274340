"""Build the task graph of a round: which tasks, on what, for how long, after what.

Draft step d: for every layer an `attention` task (all dense work), then, where the layer has residents, one
`draft-experts` task; a `head` at the end. Nothing is loaded. Verify: for every layer an `attention` task; for every
distinct expert an `expert` task, after the `load` of what is not resident; a `gather` of the partial sums. A load of
an expert that is surely needed may start at once, another when the draft's router asked for its expert (after the first
such `attention` task), else after the verify router. What the next hot set keeps of an expert goes from staging to the
banks of the resident that it replaces (`write`), once verify is done with that one. What is loaded lies striped over
all banks of staging from the start of the load to the end of the computation, or of the write. Staging is handed out
in slots of half an expert (one that comes whole takes two, which need not be neighbours), so it cannot fragment:
whatever fits by count also fits by address.
Without HB, weights stream from external memory past the elements as they compute.
"""

import numpy as np

from moe_passes.cost import BYTES_PER_ACTIVATION, CostModel, nanoseconds
from moe_passes.durations import DenseTime, dense_time
from moe_passes.errors import InputError
from moe_passes.lower_to_tasks.banks import bank_groups, group_name
from moe_passes.lower_to_tasks.likelihood import look_up
from moe_passes.lower_to_tasks.modes import LINK_UNITS, Engines, ExpertWork
from moe_passes.lower_to_tasks.problem import PlacedLayer, RoundRouting, StaticPlan, TaskGraph, Work
from moe_passes.partition_experts.dispatch import Dispatcher
from moe_passes.schedule_round.problem import Buffer, Guess, Mode, Problem, Task

DRAFT_BITS_FULL = 8
Moments = tuple[tuple[int, int], ...]


def build(plan: StaticPlan, routing: RoundRouting, cost: CostModel) -> TaskGraph:
    """Build the task graph of a round as schedule-round sees it: in advance.

    Raises:
        InputError: an expert is larger than staging.
    """
    return _build(_Builder(plan, cost, is_known=True), routing)


def build_unknown(plan: StaticPlan, routing: RoundRouting, cost: CostModel) -> TaskGraph:
    """Build the task graph of a round as the dispatcher meets it.

    Loads start as `plan.dispatch` says, those of experts that will turn out not to be needed among them; `guesses` says
    which are decided on by what.
    """
    return _build(_Builder(plan, cost, is_known=False), routing)


def _build(builder: "_Builder", routing: RoundRouting) -> TaskGraph:
    for step in range(builder.plan.length):
        builder.draft_step(step, routing.drafted[step])
    builder.verify_step(routing)
    return builder.graph()


class _Builder:
    """Collects tasks in program order."""

    def __init__(self, plan: StaticPlan, cost: CostModel, is_known: bool) -> None:
        self.plan, self.cost, self.banks, self.is_known = plan, cost, cost.banks(), is_known
        self.moe = {layer.shape.layer: row for row, layer in enumerate(plan.layers)}
        self.tasks: list[Task] = []
        self.work: list[Work] = []
        self.buffers: list[Buffer] = []
        self.guesses: list[Guess] = []
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
        group_of = bank_groups(self.plan, self.banks)
        groups = max(group_of) + 1
        names = [group_name([b for b, of in enumerate(group_of) if of == group]) for group in range(groups)]
        self.names += ["link", "streamline", *names, "staging"]
        self.capacities = [1, 1, LINK_UNITS] + [1] * groups + [self.plan.staging_bytes]
        self.link, self.streamline, self.staging = 1, 2, 3 + groups
        self.all_banks = tuple((3 + g, 1) for g in range(groups))
        self.engines = Engines(
            self.cost,
            self.all_banks,
            lambda home: tuple(self.all_banks[g] for g in sorted({group_of[bank] for bank in home})),
            self.streamline,
        )
        self.slot_bytes = max(layer.shape.slot_bytes for layer in self.plan.layers)
        self.dispatchers = [_dispatcher(layer, self.banks) for layer in self.plan.layers]

    def graph(self) -> TaskGraph:
        """Return what was collected."""
        problem = Problem(tuple(self.capacities), tuple(self.names), tuple(self.tasks), tuple(self.buffers))
        return TaskGraph(problem, tuple(self.work), tuple(self.guesses))

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
                self._verify_experts(row, routing)
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

    def _verify_experts(self, row: int, routing: RoundRouting) -> None:
        """Add loads, expert computations, writes of the next hot set and the gather of one verify layer."""
        layer, verify, router = self.plan.layers[row], routing.verify[row], self.last[0]
        experts = np.flatnonzero(verify.any(axis=0))
        if not self.banks:
            self.last = tuple(self._stream_expert(layer, int(e), int(verify[:, e].sum()), router) for e in experts)
            return
        everywhere = tuple(range(self.banks))
        homes = self._dispatch(layer, verify.sum(axis=0) > 0)
        moments = self._load_moments(row, routing)
        loads: dict[int, int] = {}
        computed: dict[int, int] = {}
        promoted = dict(routing.promoted[row])
        # What is promoted keeps its bytes for others' sake, so it comes last: list scheduling keeps room in this order.
        for expert in sorted(range(layer.shape.experts), key=lambda e: (e in promoted, e)):
            is_needed = bool(verify[:, expert].any())
            if layer.loaded_bytes(expert) and (is_needed or (moments[expert] and not self.is_known)):
                loads[expert] = self._load(layer, expert, moments[expert], router)
                if moments[expert]:
                    self.guesses.append(Guess(loads[expert], router, is_needed, moments[expert]))
            if is_needed:
                after = (router, *([loads[expert]] if expert in loads else []))
                tokens = int(verify[:, expert].sum())
                computed[expert] = self._expert(layer, expert, homes.get(expert), tokens, after)
        writes = self._write_hot_set(layer, promoted, loads, computed)
        for expert, load in loads.items():
            last = writes.get(expert, computed.get(expert, load))
            self.buffers += [Buffer(self.staging, self.slot_bytes, load, last)] * self._slots(layer, expert)
        staged = {int(e): everywhere for e in experts if layer.loaded_bytes(int(e))}
        link_bytes = self._partial_sums(verify, homes | staged)
        work = Work("gather", self.plan.length, layer.shape.layer, -1, link_bytes=link_bytes)
        mode = Mode(nanoseconds(self.cost.aggregate_seconds(link_bytes)), ((self.link, 1),))
        self.last = (self._add((mode,), (router, *computed.values()), work),)

    def _load_moments(self, row: int, routing: RoundRouting) -> list[Moments]:
        """Return, for each expert, from when on it may be loaded before verify's router has run.

        A round that is known waits for the first router that asked for an expert; the dispatcher also weighs how likely
        it is to be needed.
        """
        plan, layer, asked = self.plan.dispatch, self.plan.layers[row], routing.asked[:, row]
        least = 0 if self.is_known else plan.least_permille
        asks = asked.sum(axis=1).cumsum(axis=0)
        sure = np.flatnonzero(layer.needed_permille >= plan.sure_permille).tolist()
        nothing = np.zeros(layer.shape.experts, dtype=np.int64)
        likely = look_up(plan.likelihood_permille, layer.needed_permille, routing.recent[row], nothing)
        moments: list[Moments] = [()] * layer.shape.experts
        for expert in sure:
            moments[expert] = ((-1, int(likely[expert])),)
        for step in range(len(asked)):
            likely = look_up(plan.likelihood_permille, layer.needed_permille, routing.recent[row], asks[step])
            for expert in np.flatnonzero(asked[step].any(axis=0) & (likely >= least)).tolist():
                moments[expert] = (*moments[expert], (self.routers[step, layer.shape.layer], int(likely[expert])))
        return moments

    def _load(self, layer: PlacedLayer, expert: int, moments: Moments, router: int) -> int:
        size = layer.loaded_bytes(expert)
        held = self._slots(layer, expert) * self.slot_bytes
        if held > self.plan.staging_bytes:
            raise InputError(
                f"lower-to-tasks: expert {expert} of layer {layer.shape.layer} takes {held:,} bytes of staging, "
                f"which has {self.plan.staging_bytes:,}; valid: memories.hb.staging_gb of at least {2 * held / 1e9:.4f}"
            )
        uses = ((0, 1), (self.streamline, self.engines.load_units()))
        first = moments[0][0] if moments else router
        work = Work("load", self.plan.length, layer.shape.layer, expert, hb_write_bytes=size, external_read_bytes=size)
        after = () if first < 0 else (first,)
        return self._add((Mode(nanoseconds(self.cost.external_read_seconds(size)), uses),), after, work)

    def _slots(self, layer: PlacedLayer, expert: int) -> int:
        return -(-layer.loaded_bytes(expert) // self.slot_bytes)

    def _expert(
        self, layer: PlacedLayer, expert: int, home: tuple[int, ...] | None, tokens: int, after: tuple[int, ...]
    ) -> int:
        """Add an expert computation; `home` is the replica that the dispatcher chose, the first of the alternatives."""
        macs = tokens * layer.shape.parameters
        others = [copy for copy in layer.replicas[expert] if copy != home]
        homes = (home, *others) if home else ()
        modes = self.engines.modes(
            ExpertWork(layer.resident_bytes(expert), layer.loaded_bytes(expert), macs), tuple(homes)
        )
        whole = layer.shape.whole_bytes
        work = Work("expert", self.plan.length, layer.shape.layer, expert, hb_read_bytes=whole, w8a8_macs=macs)
        return self._add(modes, after, work)

    def _write_hot_set(
        self,
        layer: PlacedLayer,
        promoted: dict[int, int],
        loads: dict[int, int],
        computed: dict[int, int],
    ) -> dict[int, int]:
        """Add what makes the next hot set; returns the task of each promoted expert."""
        writes = {}
        for expert, replaced in promoted.items():
            size, copies = layer.resident_bytes(replaced), layer.replicas[replaced]
            narrowest = min(len(copy) for copy in copies)
            seconds = self.cost.local_read_seconds(size / self.banks + len(copies) * size / narrowest)
            work = Work(
                "write",
                self.plan.length,
                layer.shape.layer,
                expert,
                hb_read_bytes=size,
                hb_write_bytes=size * len(copies),
                replaces=replaced,
            )
            after = (loads[expert], computed[expert], *([computed[replaced]] if replaced in computed else []))
            writes[expert] = self._add((Mode(nanoseconds(seconds), self.all_banks),), after, work)
        return writes

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

    def _partial_sums(self, choices: np.ndarray, homes: dict[int, tuple[int, ...]]) -> int:
        """Bytes of partial sums: for every token, the distinct banks that hold a part of its experts."""
        holds = np.zeros((choices.shape[1], self.banks), dtype=np.bool_)
        for expert, banks in homes.items():
            holds[expert, list(banks)] = True
        heard = choices.astype(np.float32) @ holds.astype(np.float32) > 0
        return int(heard.sum()) * self.plan.hidden * BYTES_PER_ACTIVATION


def _dispatcher(layer: PlacedLayer, banks: int) -> Dispatcher:
    sizes = [float(layer.resident_bytes(expert)) for expert in range(layer.shape.experts)]
    return Dispatcher(banks, layer.replicas, sizes)
