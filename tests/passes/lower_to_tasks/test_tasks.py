"""The task graph of a hand-made round, counted by hand."""

import math

import numpy as np
import pytest
from moe_passes.cost import AnalyticCost
from moe_passes.lower_to_tasks.likelihood import SHAPE
from moe_passes.lower_to_tasks.problem import PlacedLayer, RoundRouting, StaticPlan
from moe_passes.lower_to_tasks.tasks import build
from moe_passes.workload import DensePart, DispatchPlan, ExpertLayer

from moe_compiler.cost.report import add_up, joules, roofline_seconds
from moe_compiler.target.loader import load_target

MSB, RESIDUAL, HIDDEN = 640, 576, 64
SLOT = 640
"""Half an expert (608), aligned to 64."""
DISPATCH = DispatchPlan(1001, 1001, (0,) * math.prod(SHAPE), "program", "free")


def hand_made():
    """One layer of 4 experts, top-1, γ = 1, batch 1; experts 0 and 1 are resident as msb slices in all 32 banks."""
    shape = ExpertLayer("layer0", 0, experts=4, top_k=1, parameters=1000, msb_bytes=MSB, residual_bytes=RESIDUAL)
    residency = np.array([1, 1, 0, 0])
    everywhere = (tuple(range(32)),)
    placed = PlacedLayer(shape, residency, (everywhere, everywhere, (), ()), np.zeros(4, dtype=np.int64))
    parts = (DensePart(0, 1000, 900, 10, 0, 0, 0), DensePart(1, 2000, 1900, 20, 0, 0, 0))
    plan = StaticPlan(1, 16, 1, 4, HIDDEN, 4 * SLOT, parts, (placed,), DISPATCH)
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
    assert graph.work[hot].external_read_bytes == RESIDUAL
    assert graph.work[cold].external_read_bytes == MSB + RESIDUAL
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
    machine = load_target("elmoe3d-8gb").machine()
    totals = add_up(graph.work)
    energy = joules(machine, totals, seconds=1e-3)
    assert energy["external_read"] == pytest.approx(totals.external_read_bytes * 8 * 3.88e-12)
    assert energy["hb_read"] == pytest.approx(totals.hb_read_bytes * 8 * 0.43e-12)
    assert energy["elements"] == pytest.approx(1000 * 0.1e-12 + totals.w8a8_macs * 0.2e-12)
    assert energy["static"] == pytest.approx(3e-3)
    roofline = roofline_seconds(machine, totals)
    assert roofline["external bandwidth"] == pytest.approx(totals.external_read_bytes / (102.4e9 * 0.99))
    assert roofline["hb bandwidth"] == pytest.approx(
        (totals.hb_read_bytes + totals.hb_write_bytes) / (32 * 51.2e9 * 0.97)
    )


def test_without_hb_everything_streams():
    plan, routing = hand_made()
    layer = plan.layers[0]
    nothing = PlacedLayer(layer.shape, np.zeros(4, dtype=np.int64), ((),) * 4, layer.needed_permille)
    plain = StaticPlan(1, 16, 0, 8, HIDDEN, 0, plan.parts, (nothing,), DISPATCH)
    routing = RoundRouting(
        routing.verify[:, :1], routing.asked[:0], routing.drafted[:0], routing.recent, routing.promoted
    )
    graph = build(plain, routing, AnalyticCost(load_target("xpu-lpddr5").machine()))
    assert [work.kind for work in graph.work] == ["attention", "expert", "head"]
    assert add_up(graph.work).external_read_bytes == 1000 + MSB + RESIDUAL + 2000
    assert graph.problem.buffers == ()
