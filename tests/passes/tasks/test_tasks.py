"""The task graph of a hand-made round, counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
from moe_passes.estimate.analytic import AnalyticCost
from moe_passes.plan.decisions import DispatchPlan
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import DensePart, ExpertLayer
from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.round import Mode, Traffic, add_up, nanoseconds
from moe_passes.routing.likelihood import likelihoods, look_up, share_needed, table
from moe_passes.routing.rounds import RoundRouting
from moe_passes.tasks.build import build, build_unknown
from moe_passes.tasks.modes import Engines, ExpertWork
from moe_passes.tasks.problem import StaticPlan
from moe_passes.tasks.rounds import without_wrong_asks
from moe_passes.tasks.stages import Stage

from moe_compiler.evaluate.report import roofline_seconds
from moe_compiler.hardware.loader import load_target
from tests.plans import with_far_engine

MSB, RESIDUAL, HIDDEN = 640, 576, 64
SLOT = 640
"""Half an expert (608), aligned to 64."""
DISPATCH = DispatchPlan(1001, 1001, table(), "program", "free")


def phase(parts):
    """Attention and router, the layer's experts, the head."""
    return (Stage("attention", (), parts[0]), Stage("experts", (0,), None, "layer0", 0), Stage("head", (1,), parts[1]))


def hand_made():
    """One layer of 4 experts, top-1, γ = 1, batch 1; experts 0 and 1 are resident as msb slices in all 32 banks."""
    shape = ExpertLayer("layer0", 0, experts=4, top_k=1, parameters=1000, msb_bytes=MSB, residual_bytes=RESIDUAL)
    residency = np.array([1, 1, 0, 0])
    everywhere = (tuple(range(32)),)
    placed = PlacedLayer(shape, residency, (everywhere, everywhere, (), ()), np.zeros(4, dtype=np.int64))
    parts = (DensePart(0, 1000, 900, 10, 0, 0, 0), DensePart(1, 2000, 1900, 20, 0, 0, 0))
    plan = StaticPlan(1, 16, 1, 4, HIDDEN, 4 * SLOT, phase(parts), phase(parts), (placed,), DISPATCH)
    verify = np.zeros((1, 2, 4), dtype=bool)
    verify[0, 0, 0] = verify[0, 1, 2] = True  # token 0 → expert 0 (hot), token 1 → expert 2 (cold)
    asked = np.zeros((1, 1, 1, 4), dtype=bool)
    asked[0, 0, 0, 2] = True  # the draft asked for expert 2,
    drafted = np.zeros((1, 1, 1, 4), dtype=bool)
    drafted[0, 0, 0, 0] = True  # and computed resident expert 0 instead
    return plan, RoundRouting(verify, asked, drafted, np.zeros((1, 4), dtype=np.int64), ((),))


@pytest.fixture(scope="module")
def graph():
    plan, routing = hand_made()
    return build(plan, routing, AnalyticCost(load_target("elmoe3d-8gb").machine()))


def of_kind(graph, kind):
    return [n for n, work in enumerate(graph.work) if work.kind == kind]


def test_tasks_and_precedence(graph):
    kinds = [work.kind for work in graph.work]
    assert kinds == [
        *("attention", "draft-experts", "head"),
        *("attention", "load", "expert", "load", "expert", "gather", "head"),
    ]
    draft_router, verify_router = of_kind(graph, "attention")
    hot, cold = of_kind(graph, "load")
    tasks = graph.problem.tasks
    assert tasks[cold].after == (draft_router,), "the draft asked for it: released at the draft's router"
    assert tasks[hot].after == (verify_router,), "nobody asked for it before verify"
    assert tasks[of_kind(graph, "expert")[1]].after == (verify_router, cold)


def test_bytes_and_staging(graph):
    """Hot: only its residual is loaded, one slot. Cold: the whole expert, two slots. Slots are 640 B."""
    hot, cold = of_kind(graph, "load")
    assert graph.work[hot].traffic.external_read_bytes == RESIDUAL
    assert graph.work[cold].traffic.external_read_bytes == MSB + RESIDUAL
    assert [b.first for b in graph.problem.buffers] == [hot, cold, cold]
    assert {b.amount for b in graph.problem.buffers} == {SLOT}
    totals = add_up(graph.work)
    assert totals.external_read_bytes == totals.hb_write_bytes == MSB + 2 * RESIDUAL
    dense = 2 * (1000 + 2000)
    assert totals.hb_read_bytes == dense + MSB + 2 * (MSB + RESIDUAL)
    # Gathers: 1 draft and 2 verify tokens hear 32 banks each; dense parts gather (1 + 2) · (10 + 20) elements.
    assert totals.link_bytes == 3 * 32 * HIDDEN * 2 + 3 * 30 * 2
    assert totals.w4a8_macs == 1000
    assert totals.w8a8_macs == 2 * 1000 + 3 * (900 + 1900)


def test_energy_and_roofline(graph):
    cost = machine_cost()
    totals = add_up(graph.work)
    energy = cost.joules(totals, seconds=1e-3)
    assert energy["external_read"] == pytest.approx(totals.external_read_bytes * 8 * 3.88e-12)
    assert energy["hb_read"] == pytest.approx(totals.hb_read_bytes * 8 * 0.43e-12)
    assert energy["elements"] == pytest.approx(1000 * 0.1e-12 + totals.w8a8_macs * 0.2e-12)
    assert energy["static"] == pytest.approx(3e-3)
    roofline = roofline_seconds(cost, totals)
    assert roofline["external bandwidth"] == pytest.approx(totals.external_read_bytes / (102.4e9 * 0.99))
    assert roofline["hb bandwidth"] == pytest.approx(
        (totals.hb_read_bytes + totals.hb_write_bytes) / (32 * 51.2e9 * 0.97)
    )


def test_fixed_times_are_of_steps_layers_and_experts(graph):
    """A second a step, 10 ms a layer, 100 us an expert, on top of what each task takes without."""
    plan, routing = hand_made()
    slow = build(plan, routing, with_fixed_times(machine_cost()))
    extra = {"attention": 10**7, "head": 10**9, "expert": 10**5, "draft-experts": 10**5, "load": 0, "gather": 0}
    for work, before, after in zip(graph.work, graph.problem.tasks, slow.problem.tasks, strict=True):
        added = {b.duration - a.duration for a, b in zip(before.modes, after.modes, strict=True)}
        assert added <= {extra[work.kind] + n for n in (-1, 0, 1)}, work


def with_fixed_times(cost):
    """The same machine with fixed times."""
    engine = replace(cost.machine.engine, step_seconds=1.0, layer_seconds=0.01, expert_seconds=1e-4)
    return AnalyticCost(replace(cost.machine, engine=engine))


def machine_cost(*overrides):
    return AnalyticCost(load_target("elmoe3d-8gb", overrides).machine())


def test_a_sure_expert_is_loaded_from_the_start_and_an_unlikely_one_is_not_prefetched():
    plan, routing = hand_made()
    layer = replace(plan.layers[0], needed_permille=np.array([1000, 0, 0, 0]))
    plan = replace(plan, layers=(layer,), dispatch=replace(DISPATCH, sure_permille=1000, least_permille=900))
    known = build(plan, routing, machine_cost())
    hot, cold = of_kind(known, "load")
    draft_router, verify_router = of_kind(known, "attention")
    assert known.problem.tasks[hot].after == ()
    assert known.problem.tasks[cold].after == (draft_router,)
    unknown = build_unknown(plan, routing, machine_cost())
    assert unknown.problem.tasks[cold].after == (verify_router,), "likelihood 0 is below 900"
    assert [(g.task, g.decider, g.is_needed) for g in unknown.guesses] == [(hot, verify_router, True)]


def test_a_wrong_guess_is_a_load_of_the_unknown_round_alone():
    plan, routing = hand_made()
    routing.asked[0, 0, 0, 3] = True
    plan = replace(plan, dispatch=replace(DISPATCH, least_permille=0))
    assert [w.expert for w in build(plan, routing, machine_cost()).work if w.kind == "load"] == [0, 2]
    unknown = build_unknown(plan, routing, machine_cost())
    assert [w.expert for w in unknown.work if w.kind == "load"] == [0, 2, 3]
    assert [g.is_needed for g in unknown.guesses] == [True, False]
    informed = build_unknown(plan, without_wrong_asks(routing), machine_cost())
    assert [g.is_needed for g in informed.guesses] == [True]
    assert routing.asked[0, 0, 0, 3], "the round itself is left as it is"


def far_plan(most_far_tokens, **dispatch):
    plan, routing = hand_made()
    rule = replace(DISPATCH, most_far_tokens=most_far_tokens, **dispatch)
    return replace(plan, dispatch=rule), routing, with_far_engine(machine_cost())


def test_what_is_not_near_is_computed_far_by_hand():
    """Both experts of verify: 1,216 B at 80 GB/s are 15.2 ns, and 100 ns are fixed; 1,000 MACs take 1 ns.

    The memory has 101.376 GB/s, all of which a load takes: beside one, nothing is computed far.
    """
    plan, routing, cost = far_plan(1)
    graph = build(plan, routing, cost)
    assert [work.kind for work in graph.work[3:]] == ["attention", "expert", "expert", "gather", "head"]
    far, cpu = of_kind(graph, "expert"), graph.problem.names.index("far engine")
    assert [graph.problem.tasks[n].modes for n in far] == [(Mode(116, ((0, 1), (cpu, 1))),)] * 2
    assert all(graph.problem.tasks[n].after == (3,) for n in far)
    assert graph.problem.buffers == ()
    totals = add_up(graph.work)
    assert (totals.far_read_bytes, totals.far_macs, totals.external_read_bytes) == (2 * 1216, 2000, 0)
    # Nothing is summed up, but two tokens of 64 · 2 B go there and back over the link, and the layer takes 2 µs there.
    (gather,) = of_kind(graph, "gather")
    assert graph.work[gather].traffic.link_bytes == 0
    link = cost.machine.streamline
    assert graph.problem.tasks[gather].modes[0].duration == nanoseconds(
        2e-6 + 2 * (link.latency_seconds + 256 / link.bytes_per_second)
    )


def test_beside_a_load_the_far_engine_has_what_the_memory_leaves():
    """Loads take the link's 64 GB/s of 101.376: 37.376 GB/s are left, and 1,216 B take 32.5 ns more than 100."""
    plan, routing, _ = far_plan(1)
    cost = with_far_engine(machine_cost("links.streamline.bandwidth_gb_s=64"))
    modes = build(plan, routing, cost).problem.tasks[4].modes
    assert [mode.duration for mode in modes] == [116, 133]
    assert [len(mode.uses) for mode in modes] == [2, 1]


def test_what_many_tokens_need_or_is_loaded_ahead_or_becomes_resident_is_not_computed_far():
    plan, routing, cost = far_plan(0)
    assert add_up(build(plan, routing, cost).work).far_macs == 0
    plan, routing, cost = far_plan(1)
    routing.verify[0, 0] = routing.verify[0, 1]  # both tokens choose expert 2
    assert add_up(build(plan, routing, cost).work).far_macs == 0
    plan, routing, cost = far_plan(1, least_permille=0)
    ahead = build_unknown(plan, routing, cost)
    assert [(w.kind, w.expert) for w in ahead.work if w.expert >= 0] == [("expert", 0), ("load", 2), ("expert", 2)]
    plan, routing, cost = far_plan(1)
    graph = build(plan, replace(routing, promoted=(((2, 0),),)), cost)
    assert [(w.kind, w.expert) for w in graph.work if w.expert >= 0] == [
        ("expert", 0),
        ("load", 2),
        ("expert", 2),
        ("write", 2),
    ]


def test_without_an_engine_nothing_can_be_computed_far():
    plan, routing, _ = far_plan(1)
    with pytest.raises(InputError, match="no engine does that"):
        build(plan, routing, machine_cost())


def test_energy_of_the_far_engine_is_its_own():
    cost = with_far_engine(machine_cost(), joules_per_mac=2e-12)
    joules = cost.joules(Traffic(far_read_bytes=10**6, far_macs=10**6), 0.0)
    assert joules["far_engine"] == pytest.approx(2e-6)
    assert joules["external_read"] == pytest.approx(8e6 * 3.88e-12)
    assert joules["streamline_link"] == 0, "it crosses no link"


def test_a_resident_that_is_kept_whole_is_drafted_on_as_a_slice_and_not_loaded():
    plan, routing = hand_made()
    layer = replace(plan.layers[0], residency=np.array([2, 1, 0, 0]))
    graph = build(replace(plan, layers=(layer,)), routing, machine_cost())
    assert [work.expert for work in graph.work if work.kind == "load"] == [2]
    (drafted,) = of_kind(graph, "draft-experts")
    assert graph.work[drafted].traffic.hb_read_bytes == MSB
    hot = next(work for work in graph.work if work.kind == "expert")
    assert hot.traffic.hb_read_bytes == MSB + RESIDUAL


def test_the_next_hot_set_is_written_after_all_that_reads_what_it_replaces():
    plan, routing = hand_made()
    graph = build(plan, replace(routing, promoted=(((2, 0),),)), machine_cost())
    (write,) = of_kind(graph, "write")
    hot, cold = of_kind(graph, "expert")
    work = graph.work[write]
    assert (work.expert, work.replaces, work.traffic.hb_read_bytes, work.traffic.hb_write_bytes) == (2, 0, MSB, MSB)
    assert set(graph.problem.tasks[write].after) == {of_kind(graph, "load")[1], hot, cold}
    held = {b.first: b.last for b in graph.problem.buffers}
    assert held[of_kind(graph, "load")[1]] == write, "the slice stays in staging until it is written"


def test_an_expert_that_staging_cannot_hold_is_named():
    plan, routing = hand_made()
    with pytest.raises(InputError, match=r"expert 2 of layer 0 takes 1,280 bytes of staging, which has 640"):
        build(replace(plan, staging_bytes=SLOT), routing, machine_cost())


def streaming_plan(**dispatch):
    plan, routing = hand_made()
    return replace(plan, dispatch=replace(DISPATCH, late="stream", **dispatch)), routing, machine_cost()


def test_what_is_not_near_streams_past_the_elements_by_hand():
    """Expert 0 is resident as a slice, expert 2 not at all: 576 and 1,216 B at 101.376 GB/s, after 120 ns."""
    plan, routing, cost = streaming_plan()
    graph = build(plan, routing, cost)
    assert [work.kind for work in graph.work[3:]] == ["attention", "expert", "expert", "gather", "head"]
    hot, cold = of_kind(graph, "expert")
    everything = ((0, 1), (2, 1))
    assert graph.problem.tasks[cold].modes == (Mode(nanoseconds(120e-9 + 1216 / 101.376e9), everything),)
    assert graph.problem.tasks[hot].modes == (Mode(nanoseconds(120e-9 + RESIDUAL / 101.376e9), everything),)
    assert graph.problem.buffers == ()
    totals = add_up([graph.work[hot], graph.work[cold]])
    assert (totals.hb_read_bytes, totals.external_read_bytes, totals.hb_write_bytes) == (MSB, RESIDUAL + 1216, 0)
    # Two tokens: one hears the element that has the whole of expert 0 and the banks of its slice, one that of expert 2.
    (gather,) = of_kind(graph, "gather")
    homes = len(plan.layers[0].replicas[0][0])
    assert graph.work[gather].traffic.link_bytes == (homes + 1 + 1) * HIDDEN * 2


def test_what_is_loaded_ahead_or_becomes_resident_does_not_stream():
    plan, routing, cost = streaming_plan(least_permille=0)
    ahead = build_unknown(plan, routing, cost)
    assert [(w.kind, w.expert) for w in ahead.work if w.expert >= 0] == [("expert", 0), ("load", 2), ("expert", 2)]
    plan, routing, cost = streaming_plan()
    graph = build(plan, replace(routing, promoted=(((2, 0),),)), cost)
    assert "load" in [w.kind for w in graph.work if w.expert == 2]


def test_an_expert_that_streams_computes_no_faster_than_its_bytes_come_or_its_products_take():
    plan, routing, _ = streaming_plan()
    slow = machine_cost("engines.elements.tops.w8a8=1e-6")
    graph = build(plan, routing, slow)
    (hot, _) = of_kind(graph, "expert")
    assert graph.problem.tasks[hot].modes[0].duration == nanoseconds(slow.mac_seconds(1000, 8, 32, 1))


def with_link(cost, **changes):
    """The same machine, with another link from its far memory."""
    return AnalyticCost(replace(cost.machine, streamline=replace(cost.machine.streamline, **changes)))


def test_loads_over_a_shared_link_take_all_of_it_or_half():
    plan, routing = hand_made()
    graph = build(plan, routing, with_link(machine_cost(), shared=1))
    load = of_kind(graph, "load")[1]
    whole, half = graph.problem.tasks[load].modes
    assert (graph.problem.capacities[0], whole.uses, half.uses) == (2, ((0, 2),), ((0, 1),))
    assert (whole.duration, half.duration) == tuple(nanoseconds(120e-9 + n * 1216 / 101.376e9) for n in (1, 2))


def test_what_comes_back_over_a_half_duplex_link_waits_for_loads():
    plan, routing, cost = far_plan(1)
    for half_duplex, uses in ((0, ((1, 1),)), (1, ((1, 1), (0, 1)))):
        graph = build(plan, routing, with_link(cost, half_duplex=half_duplex))
        (gather,) = of_kind(graph, "gather")
        assert graph.problem.tasks[gather].modes[0].uses == uses


def test_a_far_engine_of_the_same_silicon_takes_the_elements():
    plan, routing, _ = far_plan(1)
    graph = build(plan, routing, with_far_engine(machine_cost(), same_unit=1))
    cpu = graph.problem.names.index("far engine")
    far = of_kind(graph, "expert")[0]
    assert graph.problem.tasks[far].modes[0].uses == ((0, 1), (cpu, 1), (2, 1))


def engines(*overrides):
    return Engines(machine_cost(*overrides), 0, ((2, 1), (3, 1)), lambda home: ((2 + home[0] // 16, 1),))


def test_an_expert_on_one_bank_is_computed_by_its_element():
    """100 kB on one of 32 banks, which computes a 32nd of the peak."""
    cost = engines().cost
    read = nanoseconds(cost.local_read_seconds(100_000))
    assert engines().near(ExpertWork(100_000, 0, 1000, 1), ((0,),)) == (Mode(read, ((2, 1),)),)
    macs = round(4 * read * 1e-9 * cost.rates().w8a8_macs_per_second / 32)
    (one,) = engines().near(ExpertWork(100_000, 0, macs, 1), ((0,),))
    assert round(one.duration / read) == 4


def test_replicas_are_alternatives_and_staged_bytes_need_all_banks():
    two = engines().near(ExpertWork(100_000, 0, 1000, 1), ((20,), (0,)))
    assert [mode.uses for mode in two] == [((3, 1),), ((2, 1),)]
    staged = engines().near(ExpertWork(1_000, 1_000, 1000, 1), ((0,),))
    assert all({(2, 1), (3, 1)} <= set(mode.uses) for mode in staged)


def test_likelihoods_count_cases():
    """One layer of two experts, two rounds of one draft step: expert 0 is asked for and needed in one of them."""
    _, first = hand_made()
    rounds = []
    for needed in (True, False):
        verify = np.zeros((1, 2, 2), dtype=bool)
        verify[0, 0, 0], verify[0, 1, 1] = needed, True
        asked = np.zeros((1, 1, 1, 2), dtype=bool)
        asked[0, 0, 0, 0] = True
        recent = np.zeros((1, 2), dtype=np.int64)
        rounds.append(replace(first, verify=verify, asked=asked, drafted=asked, recent=recent, promoted=((),)))
    shares = share_needed(rounds)
    assert shares.tolist() == [[500, 1000]]
    counted = likelihoods(rounds, shares)

    def likelihood(share, asks):
        return int(look_up(counted, np.array([share]), np.array([0]), np.array([asks]))[0])

    # Asked once: 1 of 2 cases. All classes with one ask: (1 + ½) / (2 + 1) = ½, so the prior changes nothing.
    assert likelihood(500, 1) == 500
    # Expert 1, never asked for: needed in 4 of 4 cases (before and after the step of each round). All classes without
    # an ask: 5 of 6 cases, (5 + ½) / 7; with the weight of 4 cases: (4 + 4 · 0.786) / 8.
    assert likelihood(1000, 0) == round(1000 * (4 + 4 * 5.5 / 7) / 8)
