"""The checker of whole plans: it agrees with what the passes build, and refuses every kind of illegal plan."""

from dataclasses import replace

import numpy as np
import pytest
from moe_passes.estimate.analytic import AnalyticCost
from moe_passes.plan.phase import Operation
from moe_passes.plan.round import Mode, Schedule, Traffic, nanoseconds
from moe_passes.solve.rcpsp.bound import lower_bound
from moe_passes.solve.rcpsp.problem import Problem
from moe_passes.solve.steady_state.solver import may_cross, steady_state
from moe_passes.verify.check import violations

from tests.plans import BANKS, cost, made, small_machine, with_deep_memory, with_far_engine


def first(plan, kind, step=None):
    return next(n for n, work in enumerate(plan.work) if work.kind == kind and (step is None or work.step == step))


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("sure", [1001, 500])
def test_what_the_passes_build_is_what_the_checker_derives(length, sure):
    """Two pieces of code without a line in common derive the same tasks from the same phases and decisions."""
    for seed in range(12):
        plan = made(seed, length, batch=1 + seed % 3, sure=sure)
        assert violations(plan) == []


def test_a_draft_on_sliced_dense_weights():
    plan = made(0, 2, dense_bits=4)
    assert violations(plan) == []
    assert any(work.kind == "attention" and work.traffic.w4a8_macs for work in plan.work)
    dense = replace(plan, draft=replace(plan.draft, dense_bits=8))
    assert any("attention" in text for text in violations(dense))
    odd = replace(plan, draft=replace(plan.draft, dense_bits=5))
    assert any("dense weights have 5 bits" in text for text in violations(odd))


@pytest.mark.parametrize("kv_banks", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_caches_of_a_head_in_a_part_of_the_banks(kv_banks, batch):
    plan = made(0, 2, batch=batch, kv_banks=kv_banks)
    assert violations(plan) == []
    other = replace(plan, draft=replace(plan.draft, kv_banks=0))
    assert kv_banks == 4 or any("attention" in text or "bytes aside" in text for text in violations(other))
    odd = replace(plan, draft=replace(plan.draft, kv_banks=3))
    assert any("striped over 3 banks" in text for text in violations(odd))


@pytest.mark.parametrize(
    "override",
    ["links.aggregation.reduces=true", "engines.elements.tops.attention=1e-4"],
)
def test_what_a_machine_can_do(override):
    machine = cost("memories.hb.banks=4", "memories.hb.capacity_gb=0.0001", override)
    plan = made(0, 2, machine=machine)
    assert violations(plan) == []
    assert any(violations(replace(plan, prices=small_machine())))


@pytest.mark.parametrize("field", ["step_seconds", "layer_seconds", "expert_seconds"])
def test_fixed_times_are_derived_too(field):
    plain = small_machine().machine
    machine = AnalyticCost(replace(plain, engine=replace(plain.engine, **{field: 1e-3})))
    plan = made(0, 2, machine=machine)
    assert violations(plan) == []
    assert any("has a mode of" in text for text in violations(replace(plan, prices=small_machine())))


@pytest.mark.parametrize("length", [0, 2])
def test_residents_that_are_kept_whole(length):
    """Verify loads nothing of them, and a draft on slices reads their slice."""
    for seed in range(8):
        plan = made(seed, length, batch=1 + seed % 3, whole=0.5)
        assert violations(plan) == []
    layer = next(n for n, layer in enumerate(plan.layers) if (layer.residency == 2).any())
    slices = np.minimum(plan.layers[layer].residency, 1)
    assert any("lacks 'load'" in text for text in violations(layer_with(plan, layer, residency=slices)))


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("gb_s", [80, 300])
def test_what_is_computed_in_the_far_memory(length, gb_s):
    """Beside a load its engine has what the memory leaves: 300 GB/s are more than the memory has."""
    for seed in range(8):
        machine = with_far_engine(small_machine(), bytes_per_second=gb_s * 1e9)
        plan = made(seed, length, batch=1 + seed % 3, sure=700, machine=machine, far_tokens=2)
        assert violations(plan) == []
    far = next(n for n, work in enumerate(plan.work) if work.traffic.far_macs)
    assert plan.work[far].traffic.far_read_bytes == 640 + 576
    assert "far engine" in {plan.names[resource] for mode in plan.tasks[far].modes for resource, _ in mode.uses}
    loading = replace(plan, dispatch=replace(plan.dispatch, most_far_tokens=0))
    assert any("lacks 'load'" in text for text in violations(loading))
    for changes in ({"bytes_per_second": 70e9}, {"layer_seconds": 1e-3}, {"macs_per_second": 1e9}):
        other = replace(plan, prices=with_far_engine(small_machine(), **({"bytes_per_second": gb_s * 1e9} | changes)))
        assert any("has a mode of" in text for text in violations(other)), changes
    nowhere = replace(plan, prices=small_machine())
    assert any("resources" in text for text in violations(nowhere))


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("change", [None, "memories.hb.bank_bandwidth_gb_s=0.1", "engines.elements.tops.w8a8=1e-5"])
def test_what_streams_past_the_elements(length, change):
    """Every one of the ways that its time may be bounded in: its bytes, its resident part, its products."""
    for seed in range(6):
        changes = filter(None, ["memories.hb.capacity_gb=0.0001", change])
        machine = cost(f"memories.hb.banks={BANKS}", *changes)
        plan = made(seed, length, batch=1 + seed % 3, sure=700, machine=machine, late="stream")
        assert violations(plan) == []
    loading = replace(plan, dispatch=replace(plan.dispatch, late="load"))
    assert any("lacks 'load'" in text for text in violations(loading))
    plain = AnalyticCost(replace(machine.machine, engine=replace(machine.machine.engine, streams=0)))
    assert any("cannot compute so" in text for text in violations(replace(plan, prices=plain)))


@pytest.mark.parametrize("changes", [{"shared": 1}, {"half_duplex": 1}, {"shared": 1, "half_duplex": 1}])
@pytest.mark.parametrize("late", ["load", "stream"])
def test_links_that_are_shared_or_carry_one_way_at_a_time(changes, late):
    plain = with_far_engine(small_machine())
    machine = AnalyticCost(replace(plain.machine, streamline=replace(plain.machine.streamline, **changes)))
    for seed in range(6):
        plan = made(seed, 2, batch=1 + seed % 3, machine=machine, late=late, far_tokens=seed % 2)
        assert violations(plan) == []
    assert any(violations(replace(plan, prices=plain)))


def test_a_far_engine_of_the_same_silicon():
    machine = with_far_engine(small_machine(), same_unit=1)
    for seed in range(6):
        plan = made(seed, 2, machine=machine, far_tokens=2)
        assert violations(plan) == []
    assert any("has a mode of" in text for text in violations(replace(plan, prices=with_far_engine(small_machine()))))


@pytest.mark.parametrize(("name", "value"), [("width_seconds", 1e-4), ("widths", (2, 5))])
def test_what_depends_on_the_tokens_of_a_step(name, value):
    plain = small_machine().machine
    rates = {"width_macs_per_second": (10**9, 10**10)} if name == "widths" else {}
    machine = AnalyticCost(replace(plain, engine=replace(plain.engine, **{name: value}, **rates)))
    for seed in range(6):
        plan = made(seed, 2, batch=1 + seed % 3, machine=machine)
        assert violations(plan) == []
    assert any("has a mode of" in text for text in violations(replace(plan, prices=small_machine())))


@pytest.mark.parametrize("far_tokens", [0, 2])
@pytest.mark.parametrize("length", [0, 2])
def test_what_the_far_memory_does_not_hold(length, far_tokens):
    """It takes 80 + 10 µs and 7 GB/s to come out of the deep memory, one expert at a time."""
    for seed in range(8):
        machine = with_deep_memory(with_far_engine(small_machine()))
        plan = made(seed, length, batch=2, machine=machine, far_tokens=far_tokens)
        assert violations(plan) == []
    number = next(
        n
        for n, work in enumerate(plan.work)
        if work.kind in ("load", "expert") and "deep" in {plan.names[r] for r, _ in plan.tasks[n].modes[0].uses}
    )
    size = max(plan.work[number].traffic.far_read_bytes, plan.work[number].traffic.external_read_bytes)
    assert plan.tasks[number].modes[0].duration == nanoseconds(9e-5 + size / 7e9)
    faster = replace(plan, prices=with_deep_memory(with_far_engine(small_machine()), latency_seconds=0.0))
    assert any("has a mode of" in text for text in violations(faster))
    row = next(n for n, layer in enumerate(plan.layers) if layer.deep.any())
    assert any("has a mode of" in text for text in violations(layer_with(plan, row, deep=~plan.layers[row].deep)))
    small = replace(plan, prices=with_deep_memory(with_far_engine(small_machine()), capacity_bytes=1000))
    assert any("deep memory is to hold" in text for text in violations(small))


def test_where_there_is_one_memory_all_experts_are_near():
    """Dense weights, caches, staging, all experts and the embedding share it."""
    machine = AnalyticCost(replace(small_machine().machine, external=small_machine().machine.hb))
    plan = made(0, 2, machine=machine, whole=1.0)
    assert any("not near, and there is no other memory" in text for text in violations(plan))
    embedding = plan.model.embedding_parameters * 2
    full = replace(plan, draft=replace(plan.draft, expert_bytes=plan.draft.expert_bytes - embedding))
    assert any("shares out more" in text for text in violations(plan))
    assert not any("shares out more" in text for text in violations(full))


@pytest.fixture(scope="module")
def plan():
    """A round with promotions, replicas, sure loads and residents in both layers."""
    for seed in range(100):
        found = made(seed, 2, batch=2, sure=600)
        kinds = {work.kind for work in found.work}
        sure = any(w.kind == "load" and not t.after for w, t in zip(found.work, found.tasks, strict=True))
        alive = found.offsets and len(set(found.offsets)) > 1
        if "write" in kinds and sure and alive and all(layer.residency.any() for layer in found.layers):
            assert violations(found) == []
            return found
    raise AssertionError("no such round")


def sure_load(plan):
    """A load that waits for nothing, past the first task."""
    return next(n for n, w in enumerate(plan.work) if n and w.kind == "load" and not plan.tasks[n].after)


def tasks_with(plan, number, **changes):
    tasks = list(plan.tasks)
    tasks[number] = replace(tasks[number], **changes)
    return replace(plan, tasks=tuple(tasks))


def work_with(plan, number, **changes):
    work = list(plan.work)
    work[number] = replace(work[number], **changes)
    return replace(plan, work=tuple(work))


def layer_with(plan, row, **changes):
    layers = list(plan.layers)
    layers[row] = replace(layers[row], **changes)
    return replace(plan, layers=tuple(layers))


def starts_with(plan, number, start):
    starts = list(plan.schedule.starts)
    starts[number] = start
    return replace(plan, schedule=Schedule(tuple(starts), plan.schedule.modes))


def routing_with(plan, name, **changes):
    return replace(plan, routing={**plan.routing, name: replace(plan.routing[name], **changes)})


def resident(plan, row=0):
    return int(np.flatnonzero(plan.layers[row].residency)[0])


def replicas_with(plan, copies, row=0):
    replicas = list(plan.layers[row].replicas)
    replicas[resident(plan, row)] = copies
    return layer_with(plan, row, replicas=tuple(replicas))


def without_operation(phase, kind, layer):
    """Take an operation out: its users listen to what it listened to."""
    number = next(n for n, op in enumerate(phase.operations) if op.kind == kind and op.part and op.part.layer == layer)
    source = phase.operations[number].operands[0]
    kept = [replace(op, operands=tuple(_moved(o, number, source) for o in op.operands)) for op in phase.operations]
    return replace(phase, operations=tuple(kept[:number] + kept[number + 1 :]), result=phase.result - 1)


def _moved(operand, number, source):
    return source if operand == number else operand - (operand > number)


def rewired(phase):
    """Every attention reads the embedding."""
    return replace(
        phase,
        operations=tuple(replace(op, operands=(0,)) if op.kind == "attention" else op for op in phase.operations),
    )


def duplicated_router(phase):
    """A dead router is added at the end of the phase."""
    router = next(op for op in phase.operations if op.kind == "router")
    return replace(phase, operations=(*phase.operations, router))


def dead_attention(phase):
    """An attention is added whose result nobody uses: it still writes the KV cache."""
    attention = next(op for op in phase.operations if op.kind == "attention")
    return replace(phase, operations=(*phase.operations, replace(attention, operands=(0,))))


def changed(phase, kind, **changes):
    """The first operation of a kind, changed."""
    place = next(n for n, op in enumerate(phase.operations) if op.kind == kind)
    operations = list(phase.operations)
    operations[place] = replace(operations[place], **changes)
    return replace(phase, operations=tuple(operations))


def unrestricted(phase):
    """The first experts listen to the router itself."""
    experts = next(op for op in phase.operations if op.kind == "experts")
    router = phase.operations[experts.operands[1]].operands[0]
    return changed(phase, "experts", operands=(experts.operands[0], router, *experts.operands[2:]))


def restricted(phase):
    """The first experts listen to a restricted choice."""
    place = next(n for n, op in enumerate(phase.operations) if op.kind == "experts")
    experts = phase.operations[place]

    def moved(numbers):
        return tuple(n + (n >= place) for n in numbers)

    restrict = Operation("restrict", (experts.operands[1],), None, experts.store)
    later = [replace(op, operands=moved(op.operands)) for op in phase.operations[place:]]
    later[0] = replace(later[0], operands=(later[0].operands[0], place))
    operations = (*phase.operations[:place], restrict, *later)
    return replace(phase, operations=operations, result=phase.result + 1)


ILLEGAL = {
    # Residency and memory.
    "a resident is not": (lambda p: layer_with(p, 0, residency=np.zeros(6, dtype=np.int64)), "replicas"),
    "residents of another level": (lambda p: layer_with(p, 0, residency=2 * p.layers[0].residency), "nothing asks for"),
    "a draft on more than residents have": (
        lambda p: replace(p, draft_phase=changed(p.draft_phase, "experts", slice="whole")),
        "something else",
    ),
    "the draft computes with whole experts": (lambda p: replace(p, draft=replace(p.draft, bits=8)), "8 bits"),
    "dense bytes are wrong": (lambda p: replace(p, draft=replace(p.draft, dense_bytes=1)), "dense weights"),
    "the cache is wrong": (lambda p: replace(p, draft=replace(p.draft, kv_bytes=1)), "KV cache"),
    "more is shared out than there is": (
        lambda p: replace(p, draft=replace(p.draft, expert_bytes=10**9)),
        "shares out",
    ),
    "the share of residents is wrong": (lambda p: replace(p, draft=replace(p.draft, expert_fraction=0.9)), "resident"),
    # Placement.
    "no replicas": (lambda p: replicas_with(p, ()), "0 replicas"),
    "a bank that does not exist": (lambda p: replicas_with(p, ((BANKS,),)), "lies in"),
    "a bank twice": (lambda p: replicas_with(p, ((0, 0),)), "lies in"),
    "two replicas in one bank": (lambda p: replicas_with(p, ((0, 1), (1, 2))), "several replicas in banks [1]"),
    "a bank is overfull": (lambda p: replace(p, draft=replace(p.draft, expert_bytes=400)), "is to hold"),
    "an expert that is not resident has a place": (
        lambda p: layer_with(p, 0, replicas=tuple(copies or ((0,),) for copies in p.layers[0].replicas)),
        "replicas",
    ),
    # Routing of the round.
    "a token of one expert twice": (
        lambda p: routing_with(p, "layer0", verify=np.zeros_like(p.routing["layer0"].verify)),
        "distinct experts",
    ),
    "too few tokens": (lambda p: routing_with(p, "layer0", verify=p.routing["layer0"].verify[1:]), "shape"),
    "the draft computes what is not resident": (
        lambda p: routing_with(
            p,
            "layer0",
            drafted=np.full_like(p.routing["layer0"].drafted, np.flatnonzero(p.layers[0].residency == 0)[0]),
        ),
        "a draft token",
    ),
    "no routing of a layer": (lambda p: replace(p, routing={"layer0": p.routing["layer0"]}), "no routing of @layer1"),
    "a resident is promoted": (
        lambda p: routing_with(p, "layer0", promoted=((resident(p), resident(p)),)),
        "promoted",
    ),
    # Phases.
    "a layer reads the embedding": (lambda p: replace(p, draft_phase=rewired(p.draft_phase)), "nothing asks for"),
    "verify is rewired": (lambda p: replace(p, verify_phase=rewired(p.verify_phase)), "dense weights"),
    "a layer is skipped": (
        lambda p: replace(p, draft_phase=without_operation(p.draft_phase, "attention", 1)),
        "only one of the phases has the attention of layer 1",
    ),
    "an attention that nobody listens to": (
        lambda p: replace(p, draft_phase=dead_attention(p.draft_phase)),
        "has the attention of layer 0 twice",
    ),
    "verify computes on slices": (
        lambda p: replace(p, verify_phase=changed(p.verify_phase, "experts", slice="msb")),
        "compute on slices",
    ),
    "verify computes what is resident": (
        lambda p: replace(p, verify_phase=restricted(p.verify_phase)),
        "are restricted",
    ),
    "the draft asks for more than residents": (
        lambda p: replace(p, draft_phase=unrestricted(p.draft_phase)),
        "restricted to residents of nothing",
    ),
    "the draft asks for residents of another layer": (
        lambda p: replace(p, draft_phase=changed(p.draft_phase, "restrict", store=p.layers[1].shape.name)),
        "restricted to residents of @",
    ),
    "experts are computed twice": (
        lambda p: replace(p, draft_phase=changed(p.draft_phase, "experts", store=p.layers[1].shape.name)),
        "twice",
    ),
    "a draft of odd bits": (lambda p: replace(p, draft=replace(p.draft, bits=5)), "computes with 5 bits"),
    "a draft of another length was asked for": (
        lambda p: replace(p, request=replace(p.request, draft_length=p.draft.length + 1)),
        "was asked for",
    ),
    # Tasks.
    "a task is missing": (lambda p: replace(p, tasks=p.tasks[:-1], work=p.work[:-1]), "lacks 'head'"),
    "a task too many": (
        lambda p: replace(p, tasks=(*p.tasks, p.tasks[-1]), work=(*p.work, p.work[-1])),
        "2 times",
    ),
    "an expert that nobody asked for": (lambda p: work_with(p, first(p, "expert"), expert=-7), "nothing asks for"),
    "a shorter duration": (
        lambda p: tasks_with(p, first(p, "load"), modes=(Mode(1, p.tasks[first(p, "load")].modes[0].uses),)),
        "has a mode of 1 ns",
    ),
    "a mode without its resources": (
        lambda p: tasks_with(p, first(p, "gather"), modes=(Mode(p.tasks[first(p, "gather")].modes[0].duration, ()),)),
        "has a mode of",
    ),
    "fewer bytes": (lambda p: work_with(p, first(p, "expert"), traffic=Traffic()), "valid: Traffic"),
    "a dependency less": (lambda p: tasks_with(p, first(p, "gather"), after=()), "does not wait for"),
    "a dependency more": (lambda p: tasks_with(p, sure_load(p), after=(0,)), "waits in vain for"),
    "another replica than it says": (
        lambda p: work_with(
            p, first(p, "draft-experts"), served=tuple((e, 9) for e, _ in p.work[first(p, "draft-experts")].served)
        ),
        "replica",
    ),
    "another resident gives way": (lambda p: work_with(p, first(p, "write"), replaces=5), "the routing says"),
    # Resources.
    "a bank is missing": (
        lambda p: replace(p, names=tuple("spare" if name.startswith("banks") else name for name in p.names)),
        "resources",
    ),
    "a second channel": (
        lambda p: replace(p, capacities=(2, *p.capacities[1:])),
        "resources",
    ),
    "staging of another size": (
        lambda p: replace(p, capacities=(*p.capacities[:-1], p.capacities[-1] + 64)),
        "resources",
    ),
    # What is staged.
    "a slot less": (lambda p: replace(p, buffers=p.buffers[1:], offsets=p.offsets[1:]), "slots too few"),
    "a slot more": (
        lambda p: replace(p, buffers=(*p.buffers, p.buffers[0]), offsets=(*p.offsets, p.offsets[0])),
        "that it must not",
    ),
    "dropped too early": (
        lambda p: replace(p, buffers=(replace(p.buffers[0], last=p.buffers[0].first), *p.buffers[1:])),
        "slots too few",
    ),
    # Time.
    "a negative start": (lambda p: starts_with(p, 0, -1), "starts at -1"),
    "before what it waits for": (lambda p: starts_with(p, first(p, "gather"), 0), "has ended"),
    "all at once": (
        lambda p: replace(p, schedule=replace(p.schedule, starts=tuple(0 for _ in p.schedule.starts))),
        "has ended",
    ),
    # Addresses.
    "outside staging": (lambda p: replace(p, offsets=(p.draft.staging_bytes, *p.offsets[1:])), "outside staging"),
    "not aligned": (lambda p: replace(p, offsets=(1, *p.offsets[1:])), "multiple of 64"),
    "one address for all": (lambda p: replace(p, offsets=tuple(0 for _ in p.offsets)), "share addresses"),
    # The steady state.
    "no steady state": (lambda p: replace(p, steady=None), "is open"),
    "a shorter period": (
        lambda p: replace(p, steady=replace(p.steady, period=p.steady.period // 2, lower_bound=0)),
        "steady state",
    ),
    "a period below its bound": (
        lambda p: replace(p, steady=replace(p.steady, lower_bound=p.steady.period + 1)),
        "below its bound",
    ),
    "a computation is carried": (
        lambda p: replace(p, steady=replace(p.steady, carried=(0,), schedule=p.schedule)),
        "is carried",
    ),
    # The dispatcher's tables.
    "a table without its classes": (
        lambda p: replace(p, dispatch=replace(p.dispatch, likelihoods=replace(p.dispatch.likelihoods, permille=(1,)))),
        "likelihoods for",
    ),
}


@pytest.mark.parametrize("name", list(ILLEGAL))
def test_every_kind_of_illegal_plan_is_refused(plan, name):
    change, message = ILLEGAL[name]
    found = violations(change(plan))
    assert any(message in text for text in found), found


def test_a_dead_router_changes_nothing(plan):
    """It has no effect and no user, so it does not run; `canonicalize` would remove it."""
    assert violations(replace(plan, draft_phase=duplicated_router(plan.draft_phase))) == []
    assert violations(replace(plan, verify_phase=duplicated_router(plan.verify_phase))) == []


def test_every_single_dependency_and_start_matters(plan):
    """Take each dependency away, and start each task one nanosecond before what it waits for has ended."""
    for number, task in enumerate(plan.tasks):
        for before in task.after:
            rest = tuple(other for other in task.after if other != before)
            found = violations(tasks_with(plan, number, after=rest))
            implied = any(_reaches(plan, other, before) for other in rest)
            assert bool(found) is not implied
        if task.after:
            ends = max(plan.end(before) for before in task.after)
            assert violations(starts_with(plan, number, ends - 1))


def _reaches(plan, number, target):
    return number == target or any(_reaches(plan, before, target) for before in plan.tasks[number].after)


def test_plans_that_load_ahead_without_a_draft_are_refused():
    plain = made(0, 0)
    ahead = replace(plain, dispatch=replace(plain.dispatch, least_permille=0))
    assert any("nothing can be" in text for text in violations(ahead))


def test_a_phase_of_another_model_is_refused(plan):
    """Operations that stand in a phase and not in the round are missed by name."""
    extra = Operation("attention", (0,), plan.verify_phase.operations[1].part.__class__(7, 1))
    longer = replace(plan.verify_phase, operations=(*plan.verify_phase.operations, extra))
    assert any("work of layers [7]" in text for text in violations(replace(plan, verify_phase=longer)))
    fewer = replace(plan, model=replace(plan.model, layers=plan.model.layers + 3))
    assert any("has nothing of layers [2, 3, 4]" in text for text in violations(fewer))


def test_staged_slices_of_rounds_that_follow_each_other_do_not_meet():
    """Loads that are carried bring their bytes while those of the round before lie there."""
    met = 0
    for seed in range(60):
        found = made(seed, 2, batch=2, sure=300)
        problem = Problem(found.capacities, found.names, found.tasks, found.buffers)
        ahead, after = may_cross(problem, found.work)
        steady = steady_state(problem, ahead, after, found.schedule, lower_bound(problem))
        wrong = violations(replace(found, steady=steady))
        assert all("share addresses" in text for text in wrong)
        assert bool(wrong) == (steady != found.steady)
        met += bool(wrong)
    assert met
