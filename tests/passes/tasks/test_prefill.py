"""The time to the first token, by hand on a machine where one thing decides."""

from dataclasses import replace

import numpy as np
import pytest
from moe_passes.estimate.analytic import AnalyticCost
from moe_passes.routing.traces import RoutingTrace
from moe_passes.tasks.prefill import PASS_TOKENS, prefill

from tests.passes.tasks.test_tasks import MSB, RESIDUAL, hand_made
from tests.plans import cost

SLOW = ("memories.external.bandwidth_gb_s=1e-3", "memories.external.latency_ns=0", "memories.external.efficiency=1")
"""Loading takes 1 µs a byte, and everything else nothing beside it."""


def trace(*experts, tokens=64):
    chosen = np.resize(np.array(experts), tokens)[:, None, None]
    return RoutingTrace(chosen, chosen, 4)


def test_each_expert_that_is_not_resident_is_loaded_once_a_pass():
    """Experts 0 and 1 are resident as slices, 2 and 3 not at all: two residual slices and two whole experts."""
    plan, _ = hand_made()
    found = prefill(cost(*SLOW), plan, trace(0, 1, 2, 3), 16)
    assert (found.prompt_tokens, found.passes) == (16, 1)
    loads = 2 * RESIDUAL + 2 * (MSB + RESIDUAL)
    assert found.seconds == pytest.approx(loads * 1e-6, rel=0.02)
    assert prefill(cost(*SLOW), plan, trace(0, 1, 2, 3), 64).seconds == pytest.approx(found.seconds, rel=0.02)
    assert prefill(cost(*SLOW), plan, trace(0), 16).seconds == pytest.approx(RESIDUAL * 1e-6, rel=0.02)


def test_long_prompts_take_several_passes_and_each_loads_anew():
    plan, _ = hand_made()
    one = prefill(cost(*SLOW), plan, trace(0, 1, 2, 3), PASS_TOKENS)
    many = prefill(cost(*SLOW), plan, trace(0, 1, 2, 3), 10 * PASS_TOKENS)
    assert (one.passes, many.passes) == (1, 10)
    assert many.seconds == pytest.approx(10 * one.seconds, rel=0.02)
    batched = prefill(cost(*SLOW), replace(plan, batch=2), trace(0, 1, 2, 3), PASS_TOKENS)
    assert batched.passes == 2


def test_computing_grows_with_the_tokens_and_attention_with_what_came_before():
    """Slow elements: 1e6 multiply-accumulates a second. A token takes 900 in the layer and one expert of 1,000; 1,900
    more for the head of the last one; and 2 for each token of context, half of the prompt on the mean.
    """
    plan, _ = hand_made()
    stages = tuple(
        replace(stage, part=replace(stage.part, attention_macs=2)) if stage.kind == "attention" else stage
        for stage in plan.verify
    )
    plan = replace(plan, verify=stages)
    slow = cost(*(f"engines.elements.tops.{name}=2e-6" for name in ("w8a8", "w4a8", "attention")))
    for tokens in (10, 100):
        macs = tokens * (900 + 1000) + 1900 + tokens * 2 * ((tokens + 1) // 2)
        assert prefill(slow, plan, trace(0), tokens).seconds == pytest.approx(macs * 1e-6, rel=0.01)


def test_a_prompt_streams_past_the_elements_where_its_partial_sums_take_longer():
    """Of what streams past, a token sends one sum, not one a bank: with a slow link for sums, that decides."""
    plan, _ = hand_made()
    nothing = replace(plan.layers[0], residency=np.zeros(4, dtype=np.int64), replicas=((),) * 4)
    plan = replace(plan, layers=(nothing,))
    slow = cost("links.aggregation.bandwidth_gb_s=0.001")
    assert slow.rates().streams
    loading = AnalyticCost(replace(slow.machine, engine=replace(slow.machine.engine, streams=0)))
    streamed, loaded = (prefill(machine, plan, trace(0, 1, 2, 3), 64) for machine in (slow, loading))
    # 64 · 2 B of every token: 8.192 ms for one sum of each, 32 times that for one a bank; and what dense work gathers.
    gathered = (64 * 10 + 20) * 2 * 1e-6
    assert streamed.seconds == pytest.approx(8.192e-3 + gathered, rel=0.01)
    assert loaded.seconds == pytest.approx(32 * 8.192e-3 + gathered, rel=0.01)
