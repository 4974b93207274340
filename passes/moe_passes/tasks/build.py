"""Build the task graph of a round: which tasks, on what, for how long, after what.

The stages of the two phases (`stages.py`) say what there is and what waits for what. Of a draft step, a dense stage is
an `attention` task (or the `head`), the experts of a layer with residents are one `draft-experts` task; nothing is
loaded. Of verify, for every distinct expert of a layer there is an `expert` task, after the `load` of what is not
resident, and a `gather` of the partial sums ends the layer. A load of an expert that is surely needed may start at
once, another when the draft's router asked for its expert (after the first such `attention` task), else after verify's
router. What the next hot set keeps of an expert goes from staging to the banks of the resident that it replaces
(`write`), once verify is done with that one. What is loaded lies striped over all banks of staging from the start of
the load to the end of the computation, or of the write. Staging is handed out in slots of half an expert (one that
comes whole takes two, which need not be neighbours), so it cannot fragment: whatever fits by count also fits by
address. What is neither near nor loaded ahead may be computed by an engine of the far memory, where the plan's
dispatcher says so: beside a load, or with the memory for itself; activations go there and back in the layer's `gather`.
Or it streams past the elements, if the dispatcher says so and they can: one task, which stages nothing.
"""

from collections.abc import Iterable
from functools import cache, partial

import numpy as np

from moe_passes.estimate.cost import CostModel
from moe_passes.estimate.dense import DenseStep, DenseTime, dense_time
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import WHOLE_BITS
from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.round import (
    BYTES_PER_ACTIVATION,
    DEEP,
    EXTERNAL,
    FAR_ENGINE,
    LONGEST_NS,
    Buffer,
    Mode,
    Task,
    Traffic,
    Work,
    nanoseconds,
)
from moe_passes.routing.likelihood import look_up
from moe_passes.routing.rounds import RoundRouting
from moe_passes.solve.dispatch.problem import Guess
from moe_passes.solve.rcpsp.problem import Problem
from moe_passes.solve.replica.dispatcher import Dispatcher
from moe_passes.tasks.banks import bank_groups, group_name
from moe_passes.tasks.modes import Engines, ExpertWork
from moe_passes.tasks.problem import StaticPlan, TaskGraph
from moe_passes.tasks.stages import Stage

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


def build_prefill(plan: StaticPlan, routing: RoundRouting, cost: CostModel, width: int) -> TaskGraph:
    """Build one pass over `width` prompt tokens of every sequence, as the dispatcher meets it.

    Args:
        plan: with γ = 0, and the context that a token attends to on the mean.
        routing: of batch · width tokens.
        cost: the machine.
        width: tokens of a sequence; the head runs for the last one.
    """
    return _build(_Builder(plan, cost, is_known=False, width=width), routing)


def _build(builder: "_Builder", routing: RoundRouting) -> TaskGraph:
    for step in range(builder.plan.length):
        builder.draft_step(step, routing.drafted[step])
    builder.verify_step(routing)
    return builder.graph()


class _Builder:
    """Collects tasks in program order."""

    def __init__(self, plan: StaticPlan, cost: CostModel, is_known: bool, width: int = 0) -> None:
        self.plan, self.cost, self.banks, self.is_known = plan, cost, cost.space().banks, is_known
        self.width, self.head_width = width or plan.length + 1, 1 if width else plan.length + 1
        self.rows = {layer.shape.name: row for row, layer in enumerate(plan.layers)}
        self.tasks: list[Task] = []
        self.work: list[Work] = []
        self.buffers: list[Buffer] = []
        self.guesses: list[Guess] = []
        self.asking: dict[int, list[int]] = {}
        self.last: tuple[int, ...] = ()
        self._add_resources()

    def _add_resources(self) -> None:
        group_of = bank_groups(self.plan, self.banks)
        groups = max(group_of) + 1
        names = [group_name([b for b, of in enumerate(group_of) if of == group]) for group in range(groups)]
        self.names = [EXTERNAL, "link", *names, "staging"]
        self.capacities = [self.cost.rates().loads_at_once, 1] + [1] * groups + [self.plan.staging_bytes]
        if self.cost.rates().computes_far:
            self.far = len(self.names)
            self.names.append(FAR_ENGINE)
            self.capacities.append(1)
        if self.cost.space().deep_bytes:
            self.deep = len(self.names)
            self.names.append(DEEP)
            self.capacities.append(1)
        self.external, self.link, self.staging = 0, 1, 2 + groups
        # A name of its own: what refers to the builder would keep it and its tasks alive.
        every = self.all_banks = tuple((2 + g, 1) for g in range(groups))
        self.engines = Engines(
            self.cost,
            self.external,
            self.all_banks,
            lambda home: tuple(every[g] for g in sorted({group_of[bank] for bank in home})),
        )
        # Experts of a round are much alike: few of their loads and computations differ.
        self.near, self.loads = cache(self.engines.near), cache(self.engines.loads)
        self.mask = cache(partial(_mask, banks=self.banks))
        self.slot_bytes = max(layer.shape.slot_bytes for layer in self.plan.layers)
        self.dispatchers = [_dispatcher(layer, self.banks, self.plan.bits) for layer in self.plan.layers]

    def graph(self) -> TaskGraph:
        """Return what was collected."""
        problem = Problem(tuple(self.capacities), tuple(self.names), tuple(self.tasks), tuple(self.buffers))
        return TaskGraph(problem, tuple(self.work), tuple(self.guesses))

    def _add(self, modes: tuple[Mode, ...], after: tuple[int, ...], work: Work) -> int:
        longest = max(mode.duration for mode in modes)
        if longest > LONGEST_NS:
            raise InputError(
                f"lower-to-tasks: {work.kind} of layer {work.layer} takes {longest / 1e9:.3g} s on this machine; "
                f"valid: at most {LONGEST_NS / 1e9:g} s"
            )
        self.tasks.append(Task(modes, tuple(sorted(set(after)))))
        self.work.append(work)
        return len(self.tasks) - 1

    def draft_step(self, step: int, drafted: np.ndarray) -> None:
        """Add one draft step; `drafted` is [MoE layer, batch, expert]."""
        ends = _Ends(self.last)
        for stage in self.plan.draft:
            after = ends.before(stage)
            if stage.part is not None:
                ends.add(self._dense(stage, step, after))
                continue
            row = self.rows[stage.store]
            self.asking.setdefault(row, []).append(ends.of[stage.router][0])
            layer, chosen = self.plan.layers[row], drafted[row]
            ends.add(self._draft_experts(step, layer, chosen, after, stage.where) if chosen.any() else after)
        self.last = ends.open()

    def verify_step(self, routing: RoundRouting) -> None:
        """Add the verify step."""
        ends = _Ends(self.last)
        for stage in self.plan.verify:
            after = ends.before(stage)
            if stage.part is not None:
                ends.add(self._dense(stage, self.plan.length, after))
            else:
                ends.add(self._verify_experts(stage, routing, after, ends.of[stage.router][0]))

    def _dense(self, stage: Stage, step: int, after: tuple[int, ...]) -> tuple[int, ...]:
        assert stage.part is not None
        plan = self.plan
        is_draft = step < plan.length
        verified = self.head_width if stage.kind == "head" else self.width
        width, bits = (1, plan.dense_bits) if is_draft else (verified, WHOLE_BITS)
        dense = DenseStep(plan.batch, width, plan.context, bits, plan.kv_banks)
        time = dense_time(self.cost, stage.part, dense)
        what = "step" if stage.kind == "head" else "layer"
        seconds = time.seconds + self.cost.fixed_seconds(what, plan.batch * (1 if is_draft else self.width))
        mode = Mode(nanoseconds(seconds), (*self.all_banks, (self.link, 1)))
        return (self._add((mode,), after, self._dense_work(stage, step, time)),)

    def _dense_work(self, stage: Stage, step: int, time: DenseTime) -> Work:
        assert stage.part is not None
        read = time.weight_and_kv_bytes
        traffic = Traffic(
            hb_read_bytes=read,
            link_bytes=time.link_bytes,
            w4a8_macs=time.sliced_macs,
            w8a8_macs=time.macs,
            attention_macs=time.attention_macs,
        )
        return Work(stage.kind, step, stage.part.layer, traffic=traffic, where=stage.where)

    def _draft_experts(
        self, step: int, layer: PlacedLayer, drafted: np.ndarray, after: tuple[int, ...], where: str
    ) -> tuple[int, ...]:
        """One task for all experts of a draft step: the busiest bank, then the partial sums."""
        tokens_of = drafted.sum(axis=0)
        served = self._dispatch(layer, tokens_of > 0)
        homes = _homes(layer, served)
        sizes = np.array([layer.drafted_bytes(expert, self.plan.bits) for expert in homes], dtype=np.int64)
        holds = self._holds(homes.values())
        widths = holds.sum(axis=1)
        load = (holds * (sizes / widths)[:, None]).sum(axis=0)
        macs = (holds * (tokens_of[list(homes)] * layer.shape.parameters / widths)[:, None]).sum(axis=0)
        link_bytes = self._partial_sums(drafted, homes)
        compute = max(
            self.cost.local_read_seconds(float(load.max())),
            self.cost.mac_seconds(float(macs.max()), self.plan.bits, 1, float(tokens_of.sum()) / max(1, len(homes))),
        )
        seconds = compute + self.cost.aggregate_seconds(link_bytes) + len(homes) * self.cost.fixed_seconds("expert")
        total = round(float(macs.sum()))
        traffic = Traffic(
            hb_read_bytes=int(sizes.sum()),
            link_bytes=link_bytes,
            w4a8_macs=total if self.plan.bits < WHOLE_BITS else 0,
            w8a8_macs=0 if self.plan.bits < WHOLE_BITS else total,
        )
        pairs = tuple(served.items())
        work = Work("draft-experts", step, layer.shape.layer, traffic=traffic, served=pairs, where=where)
        mode = Mode(nanoseconds(seconds), (*self.all_banks, (self.link, 1)))
        return (self._add((mode,), after, work),)

    def _verify_experts(
        self, stage: Stage, routing: RoundRouting, after: tuple[int, ...], router: int
    ) -> tuple[int, ...]:
        """Add loads, expert computations, writes of the next hot set and the gather of one verify layer."""
        row = self.rows[stage.store]
        layer, verify = self.plan.layers[row], routing.verify[row]
        tokens_of: list[int] = verify.sum(axis=0).tolist()
        everywhere = tuple(range(self.banks))
        promoted = dict(routing.promoted[row])
        moments, ahead = self._load_moments(row, routing)
        late = self._late(layer, tokens_of, ahead.union(promoted))
        far = {e for e in late if late[e] <= self.plan.dispatch.most_far_tokens}
        streamed = set(late) - far if self.plan.dispatch.late == "stream" else set()
        chosen = _homes(layer, self._dispatch(layer, verify.any(axis=0)))
        # Of what streams past, the resident part is read where its first replica lies.
        chosen |= {expert: layer.replicas[expert][0] for expert in streamed if layer.replicas[expert]}
        homes = {expert: home for expert, home in chosen.items() if expert not in far}
        loads: dict[int, int] = {}
        computed: dict[int, int] = {}
        # What is promoted keeps its bytes for others' sake, so it comes last: list scheduling keeps room in this order.
        for expert in (*(e for e in range(layer.shape.experts) if e not in promoted), *sorted(promoted)):
            is_needed = tokens_of[expert] > 0
            if expert in far:
                computed[expert] = self._far_expert(stage, layer, expert, late[expert], after)
                continue
            if expert in streamed:
                home = homes.get(expert, ())
                computed[expert] = self._streamed_expert(stage, layer, expert, home, late[expert], after)
                continue
            if layer.loaded_bytes(expert) and (is_needed or (moments[expert] and not self.is_known)):
                loads[expert] = self._load(stage, layer, expert, moments[expert], router)
                if moments[expert]:
                    self.guesses.append(Guess(loads[expert], router, is_needed, moments[expert]))
            if is_needed:
                waits = (*after, *([loads[expert]] if expert in loads else []))
                computed[expert] = self._expert(stage, layer, expert, homes.get(expert), tokens_of[expert], waits)
        writes = self._write_hot_set(stage, layer, promoted, loads, computed)
        for expert, load in loads.items():
            last = writes.get(expert, computed.get(expert, load))
            self.buffers += [Buffer(self.staging, self.slot_bytes, load, last)] * self._slots(layer, expert)
        passing = far | streamed
        staged = {e: everywhere for e in computed if layer.loaded_bytes(e) and e not in passing}
        traffic = Traffic(link_bytes=self._partial_sums(verify, homes | staged, streamed))
        work = Work("gather", self.plan.length, layer.shape.layer, traffic=traffic, where=stage.where)
        seconds, rates = self.cost.aggregate_seconds(traffic.link_bytes), self.cost.rates()
        uses: Moments = ((self.link, 1),)
        if far:
            seconds += self.cost.send_seconds(len(verify) * self.plan.hidden * BYTES_PER_ACTIVATION)
            uses += ((self.external, rates.loads_at_once),) if rates.is_half_duplex else ()
        return (self._add((Mode(nanoseconds(seconds), uses),), (*after, *computed.values()), work),)

    def _late(self, layer: PlacedLayer, tokens_of: list[int], loaded: set[int]) -> dict[int, int]:
        """Return the experts of a verify layer that are neither near nor loaded ahead, and the tokens of each."""
        needed = ((e, tokens) for e, tokens in enumerate(tokens_of) if tokens and e not in loaded)
        return {e: tokens for e, tokens in needed if layer.loaded_bytes(e)}

    def _far_expert(self, stage: Stage, layer: PlacedLayer, expert: int, tokens: int, after: tuple[int, ...]) -> int:
        size, macs = layer.shape.whole_bytes, tokens * layer.shape.parameters
        rates = self.cost.rates()
        if not rates.computes_far:
            raise InputError("lower-to-tasks: the dispatcher computes experts far, and no engine does that; valid: 0")
        alone, beside = (self.cost.far_seconds(size, macs, tokens, beside_load) for beside_load in (False, True))
        least, deep = self._deep_seconds(layer, expert, size)
        uses = ((self.far, 1), *deep, *(self.all_banks if rates.far_shares_unit else ()))
        modes = [] if beside is None else [Mode(nanoseconds(max(beside, least)), uses)]
        if alone is not None and (beside is None or max(alone, least) < max(beside, least)):
            everything = ((self.external, rates.loads_at_once), *uses)
            modes.insert(0, Mode(nanoseconds(max(alone, least)), everything))
        traffic = Traffic(far_read_bytes=size, far_macs=macs)
        work = Work("expert", self.plan.length, layer.shape.layer, expert, traffic, where=stage.where)
        return self._add(tuple(modes), after, work)

    def _streamed_expert(
        self,
        stage: Stage,
        layer: PlacedLayer,
        expert: int,
        home: tuple[int, ...],
        tokens: int,
        after: tuple[int, ...],
    ) -> int:
        resident, missing = layer.resident_bytes(expert), layer.loaded_bytes(expert)
        macs = tokens * layer.shape.parameters
        least, deep = self._deep_seconds(layer, expert, missing)
        mode = self.engines.streamed(ExpertWork(resident, missing, macs, tokens), home, least, deep)
        traffic = Traffic(hb_read_bytes=resident, external_read_bytes=missing, w8a8_macs=macs)
        work = Work("expert", self.plan.length, layer.shape.layer, expert, traffic, where=stage.where)
        return self._add((mode,), after, work)

    def _load_moments(self, row: int, routing: RoundRouting) -> tuple[list[Moments], set[int]]:
        """Return, for each expert, from when on it may be loaded before verify's router has run; and which are.

        A round that is known waits for the first router that asked for an expert; the dispatcher also weighs how likely
        it is to be needed.
        """
        plan, layer, asked = self.plan.dispatch, self.plan.layers[row], routing.asked[:, row]
        least = 0 if self.is_known else plan.least_permille
        asks = asked.sum(axis=1).cumsum(axis=0)
        sure = np.flatnonzero(layer.needed_permille >= plan.sure_permille).tolist()
        nothing = np.zeros(layer.shape.experts, dtype=np.int64)
        likely = look_up(plan.likelihoods, layer.needed_permille, routing.recent[row], nothing)
        moments: list[Moments] = [()] * layer.shape.experts
        ahead = set(sure)
        for expert in sure:
            moments[expert] = ((-1, int(likely[expert])),)
        for step in range(len(self.asking.get(row, ()))):
            likely = look_up(plan.likelihoods, layer.needed_permille, routing.recent[row], asks[step])
            for expert in np.flatnonzero(asked[step].any(axis=0) & (likely >= least)).tolist():
                moments[expert] = (*moments[expert], (self.asking[row][step], int(likely[expert])))
            ahead.update(np.flatnonzero(asked[step].any(axis=0) & (likely >= plan.least_permille)).tolist())
        return moments, ahead

    def _load(self, stage: Stage, layer: PlacedLayer, expert: int, moments: Moments, router: int) -> int:
        size = layer.loaded_bytes(expert)
        held = self._slots(layer, expert) * self.slot_bytes
        if held > self.plan.staging_bytes:
            raise InputError(
                f"lower-to-tasks: expert {expert} of layer {layer.shape.layer} takes {held:,} bytes of staging, "
                f"which has {self.plan.staging_bytes:,}; valid: memories.{self.cost.space().near_name}.staging_gb "
                f"of at least {2 * held / 1e9:.4f}"
            )
        modes = self.loads(size, *self._deep_seconds(layer, expert, size))
        first = moments[0][0] if moments else router
        traffic = Traffic(hb_write_bytes=size, external_read_bytes=size)
        work = Work("load", self.plan.length, layer.shape.layer, expert, traffic, where=stage.where)
        after = () if first < 0 else (first,)
        return self._add(modes, after, work)

    def _deep_seconds(self, layer: PlacedLayer, expert: int, size: int) -> tuple[float, Moments]:
        """Return how long bytes of an expert take out of the deep memory, and what that takes; nothing of others."""
        return (self.cost.deep_seconds(size), ((self.deep, 1),)) if layer.is_deep(expert) else (0.0, ())

    def _slots(self, layer: PlacedLayer, expert: int) -> int:
        return -(-layer.loaded_bytes(expert) // self.slot_bytes)

    def _expert(
        self,
        stage: Stage,
        layer: PlacedLayer,
        expert: int,
        home: tuple[int, ...] | None,
        tokens: int,
        after: tuple[int, ...],
    ) -> int:
        """Add an expert computation; `home` is the replica that the dispatcher chose, the first of the alternatives."""
        macs = tokens * layer.shape.parameters
        others = [copy for copy in layer.replicas[expert] if copy != home]
        homes = (home, *others) if home else ()
        sizes = layer.resident_bytes(expert), layer.loaded_bytes(expert)
        modes = self.near(ExpertWork(*sizes, macs, tokens), tuple(homes))
        traffic = Traffic(hb_read_bytes=layer.shape.whole_bytes, w8a8_macs=macs)
        work = Work("expert", self.plan.length, layer.shape.layer, expert, traffic, where=stage.where)
        return self._add(modes, after, work)

    def _write_hot_set(
        self,
        stage: Stage,
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
            traffic = Traffic(hb_read_bytes=size, hb_write_bytes=size * len(copies))
            work = Work("write", self.plan.length, layer.shape.layer, expert, traffic, replaced, where=stage.where)
            after = (loads[expert], computed[expert], *([computed[replaced]] if replaced in computed else []))
            writes[expert] = self._add((Mode(nanoseconds(seconds), self.all_banks),), after, work)
        return writes

    def _dispatch(self, layer: PlacedLayer, used: np.ndarray) -> dict[int, int]:
        """Return the replica that serves each resident expert of a step."""
        experts = [e for e in np.flatnonzero(used).tolist() if layer.replicas[e]]
        dispatcher = self.dispatchers[self.rows[layer.shape.name]]
        return dict(zip(experts, dispatcher.choose(experts), strict=True)) if dispatcher else dict.fromkeys(experts, 0)

    def _partial_sums(
        self, choices: np.ndarray, homes: dict[int, tuple[int, ...]], streamed: Iterable[int] = ()
    ) -> int:
        """Bytes of partial sums: for every token, the distinct banks that hold a part of its experts.

        One element has the whole of what streamed past for a token. On a link that adds sums up on the way, one of
        every token arrives.
        """
        heard = choices[:, list(homes)].astype(np.float32) @ self._holds(homes.values()).astype(np.float32) > 0
        passed = choices[:, sorted(streamed)].any(axis=1, keepdims=True)
        sums = np.concatenate([heard, passed], axis=1)
        arriving = sums.any(axis=1) if self.cost.rates().link_reduces else sums
        return int(arriving.sum()) * self.plan.hidden * BYTES_PER_ACTIVATION

    def _holds(self, homes: Iterable[tuple[int, ...]]) -> np.ndarray:
        """Return which banks each of these homes is: [home, bank]."""
        rows = [self.mask(home) for home in homes]
        return np.array(rows) if rows else np.zeros((0, self.banks), dtype=np.bool_)


class _Ends:
    """The tasks that end each stage of a step."""

    def __init__(self, start: tuple[int, ...]) -> None:
        self.start = start
        self.of: list[tuple[int, ...]] = []
        self.is_waited_for: set[int] = set()

    def before(self, stage: Stage) -> tuple[int, ...]:
        """Return the tasks that a stage waits for; one that waits for no stage waits for the step before."""
        self.is_waited_for.update(stage.after)
        return tuple(sorted({task for number in stage.after for task in self.of[number]})) or self.start

    def add(self, tasks: tuple[int, ...]) -> None:
        """Note the tasks that end the next stage."""
        self.of.append(tasks)

    def open(self) -> tuple[int, ...]:
        """Return the tasks that nothing in the step waits for: the next step waits for them."""
        last = {t for n, tasks in enumerate(self.of) if n not in self.is_waited_for for t in tasks}
        return tuple(sorted(last))


def _homes(layer: PlacedLayer, served: dict[int, int]) -> dict[int, tuple[int, ...]]:
    """Return the banks of the replica that serves each expert."""
    return {expert: layer.replicas[expert][replica] for expert, replica in served.items()}


def _mask(home: tuple[int, ...], banks: int) -> np.ndarray:
    mask = np.zeros(banks, dtype=np.bool_)
    mask[list(home)] = True
    return mask


def _dispatcher(layer: PlacedLayer, banks: int, bits: int) -> Dispatcher | None:
    """Make the dispatcher of replicas, which goes by what the draft reads: of all residents as much.

    None where no expert has a second replica: there is nothing to choose.
    """
    if all(len(copies) < 2 for copies in layer.replicas):
        return None
    sizes = [float(layer.drafted_bytes(expert, bits)) for expert in range(layer.shape.experts)]
    return Dispatcher(banks, layer.replicas, sizes)
