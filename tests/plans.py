"""Whole plans made by hand: small phases, a round, and every decision, without a model or MLIR."""

from dataclasses import replace

import numpy as np
from moe_passes.estimate.analytic import AnalyticCost
from moe_passes.plan.decisions import DispatchPlan, DraftPlan
from moe_passes.plan.machine import FarEngine, Link, Memory
from moe_passes.plan.model import DensePart, ExpertLayer, ModelShape
from moe_passes.plan.phase import MSB_SLICE, WHOLE_SLICE, Operation, Phase
from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.request import Request
from moe_passes.plan.round import LayerRouting
from moe_passes.routing.likelihood import table
from moe_passes.routing.rounds import RoundRouting
from moe_passes.routing.traces import restrict
from moe_passes.solve.allocation.problem import Lifetime
from moe_passes.solve.allocation.problem import Problem as Allocation
from moe_passes.solve.allocation.solver import solve as allocate
from moe_passes.solve.hot_set.follow import hottest_for_coldest
from moe_passes.solve.rcpsp.bound import lower_bound
from moe_passes.solve.rcpsp.greedy import list_schedule
from moe_passes.solve.steady_state.solver import addressed, may_cross, steady_state
from moe_passes.tasks.build import build
from moe_passes.tasks.problem import StaticPlan
from moe_passes.tasks.stages import stages
from moe_passes.verify.plan import Plan

from moe_compiler.hardware.loader import load_target

EXPERTS, TOP_K, HIDDEN, LAYERS = 6, 2, 64, 2
BANKS = 4
SHAPES = tuple(
    ExpertLayer(f"layer{n}", n, EXPERTS, TOP_K, parameters=1000, msb_bytes=640, residual_bytes=576)
    for n in range(LAYERS)
)


def cost(*overrides, name="elmoe3d-8gb"):
    return AnalyticCost(load_target(name, overrides).machine())


def small_machine():
    return cost(f"memories.hb.banks={BANKS}", "memories.hb.capacity_gb=0.0001")


def phase(name, is_draft):
    """Two layers: attention, router, experts, and in the second one a shared feed-forward block."""
    operations = [Operation("embed", ())]
    stream = 0
    for layer in range(LAYERS):
        operations.append(
            Operation(
                "attention",
                (stream,),
                DensePart(layer, 1000, 900, 10, 4, 0, 8, kv_heads=1, merged_elements=6),
                where=f"m.py:{layer}",
            )
        )
        attention = len(operations) - 1
        operations.append(Operation("router", (attention,), DensePart(layer, 100, 90)))
        routing = len(operations) - 1
        if is_draft:
            operations.append(Operation("restrict", (routing,), store=f"layer{layer}"))
            routing += 1
        slice_ = MSB_SLICE if is_draft else WHOLE_SLICE
        operations.append(Operation("experts", (attention, routing), store=f"layer{layer}", slice=slice_))
        experts = len(operations) - 1
        operations.append(Operation("add", (attention, experts)))
        stream = len(operations) - 1
        if layer == 1:
            operations.append(Operation("mlp", (attention,), DensePart(layer, 500, 400, 5)))
            operations.append(Operation("add", (stream, stream + 1)))
            stream += 2
    operations.append(Operation("head", (stream,), DensePart(LAYERS, 2000, 1900, 20)))
    return Phase(name, tuple(operations), len(operations) - 1)


def with_far_engine(prices, **changes):
    """The same machine, whose external memory has an engine."""
    engine = FarEngine("cpu", 1e12, 0.0, 80e9, 2e-6, 1e-7)
    return AnalyticCost(replace(prices.machine, far_engine=replace(engine, **changes)))


def with_deep_memory(prices, **changes):
    """The same machine, with a disk behind its external memory: 7 GB/s at most over its link."""
    disk = Memory("deep", 10**12, 1, 8e9, 1.0, 80e-6, 0.0, 0.0, 0, "deep")
    machine = replace(
        prices.machine, deep=replace(disk, **changes), deep_link=Link("deep_link", 7e9, 1e-5, 0.0, "deep")
    )
    return AnalyticCost(machine)


def made(seed=0, length=2, batch=1, sure=1001, replicas=True, machine=None, dense_bits=8, kv_banks=0, **options):
    """Return a whole plan of a seeded round.

    Args:
        seed: of routing and decisions.
        length: γ.
        batch: sequences.
        sure: threshold in ‰ of what is loaded at the start.
        replicas: whether some residents have two replicas.
        machine: a cost model; with HB by default.
        dense_bits: of the draft's dense weights.
        kv_banks: banks that the cache of a head and sequence is striped over; 0: all.
        options: `whole`, the share of residents that HB keeps all of; `far_tokens`, of an expert that is computed far;
            `late`, what becomes of others that are not near.
    """
    random = np.random.default_rng(seed)
    prices = machine or small_machine()
    banks = prices.space().banks
    phases = phase("draft_step", True), phase("verify_step", False)
    layers = tuple(_placed(random, shape, banks, replicas) for shape in SHAPES)
    layers = tuple(_kept_whole(layer, seed, options.get("whole", 0.0)) for layer in layers)
    if prices.space().deep_bytes:
        deep = np.random.default_rng(seed).random((LAYERS, EXPERTS)) < 0.4
        layers = tuple(replace(layer, deep=row) for layer, row in zip(layers, deep, strict=True))
    staging = 12 * SHAPES[0].slot_bytes
    copies = max(1, banks // ((kv_banks or banks) * batch))
    dense, kv = 2 * (1000 + 100) + 500 + 2000, copies * batch * 2 * 2 * 4 * 16
    residents = sum(int((layer.residency > 0).sum()) for layer in layers)
    request = Request(batch, 16, length, 0, 1.0)
    near = prices.space().near_bytes
    draft = DraftPlan(
        length,
        4,
        dense_bits,
        residents / (LAYERS * EXPERTS),
        0.5,
        0.2,
        "made up",
        staging,
        max(0, near - dense - kv - staging),
        dense,
        kv,
        kv_banks,
    )
    late = options.get("late", "load")
    dispatch = DispatchPlan(
        sure if length else 1001, 1001, table(), "program", "free", options.get("far_tokens", 0), late
    )
    static = StaticPlan(
        batch,
        16,
        length,
        4,
        HIDDEN,
        staging,
        stages(phases[0]),
        stages(phases[1]),
        layers,
        dispatch,
        dense_bits=dense_bits,
        kv_banks=kv_banks,
    )
    routing = _routing(random, static)
    graph = build(static, routing, prices)
    schedule = list_schedule(graph.problem, "program")
    buffers = graph.problem.buffers
    lifetimes = tuple(
        Lifetime(schedule.starts[b.first], schedule.end(graph.problem, b.last), b.amount) for b in buffers
    )
    offsets = allocate(Allocation(staging, lifetimes)).offsets if buffers else ()
    ahead, after = may_cross(graph.problem, graph.work)
    steady = steady_state(graph.problem, ahead, after, schedule, lower_bound(graph.problem))
    return Plan(
        prices=prices,
        model=ModelShape("made", "Made", HIDDEN, LAYERS, 100, 10**6, 6400, 8.5, 4.5),
        request=request,
        draft=draft,
        dispatch=dispatch,
        draft_phase=phases[0],
        verify_phase=phases[1],
        layers=layers,
        routing={shape.name: _of_layer(routing, row) for row, shape in enumerate(SHAPES)},
        names=graph.problem.names,
        capacities=graph.problem.capacities,
        tasks=graph.problem.tasks,
        work=graph.work,
        buffers=buffers,
        schedule=schedule,
        offsets=offsets,
        steady=addressed(graph.problem, steady, schedule, offsets),
    )


def _placed(random, shape, banks, replicas):
    residency = (random.random(EXPERTS) < 0.5).astype(np.int64)
    copies = []
    for resident in residency:
        first = tuple(sorted(random.permutation(banks)[: random.integers(1, banks + 1)].tolist()))
        second = int(random.integers(banks))
        copies.append(((first, (second,)) if replicas and second not in first else (first,)) if resident else ())
    return PlacedLayer(shape, residency, tuple(copies), random.integers(0, 1001, EXPERTS))


def _kept_whole(layer, seed, share):
    is_whole = (layer.residency > 0) & (np.random.default_rng(seed + layer.shape.layer).random(EXPERTS) < share)
    return replace(layer, residency=np.where(is_whole, 2, layer.residency))


def _choices(random, *shape):
    mask = np.zeros((*shape, EXPERTS), dtype=bool)
    np.put_along_axis(mask, random.random((*shape, EXPERTS)).argsort(axis=-1)[..., :TOP_K], True, axis=-1)
    return mask


def _routing(random, static):
    verify = _choices(random, LAYERS, static.batch * (static.length + 1))
    asked = _choices(random, static.length, LAYERS, static.batch)
    drafted = np.zeros_like(asked)
    pairs = []
    for row, layer in enumerate(static.layers):
        resident = layer.residency > 0
        drafted[:, row] = restrict(asked[:, row], resident, np.arange(EXPERTS), TOP_K)
        heat = random.integers(0, 100, EXPERTS).astype(float)
        pairs += hottest_for_coldest(resident[None], verify[row].any(axis=0)[None], heat[None], EXPERTS).by_layer(1)
    return RoundRouting(verify, asked, drafted, np.zeros((LAYERS, EXPERTS), dtype=np.int64), tuple(pairs))


def _ids(mask):
    order = np.argsort(~mask, axis=-1, kind="stable")[..., :TOP_K]
    return np.where(np.take_along_axis(mask, order, axis=-1), order, -1)


def _of_layer(routing, row):
    return LayerRouting(
        _ids(routing.verify[row]), _ids(routing.asked[:, row]), _ids(routing.drafted[:, row]), routing.promoted[row]
    )
