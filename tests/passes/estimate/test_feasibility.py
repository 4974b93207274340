"""What fits a machine, to the byte, and what is said where something does not."""

import pytest
from moe_passes.estimate.feasibility import check_fits, deep_experts, footprint, free_bytes, least_staging
from moe_passes.plan.errors import InfeasibleError
from moe_passes.plan.model import DensePart, ExpertLayer, ModelShape
from moe_passes.plan.request import Request

from tests.plans import cost, with_deep_memory

MODEL = ModelShape("made", "Made", 64, 1, 100, 10**6, 500, 8.5, 4.5)
LAYER = ExpertLayer("layer0", 0, experts=4, top_k=1, parameters=1000, msb_bytes=640, residual_bytes=576)
PART = DensePart(0, 5_000, kv_elements=10)
ROUTED, EMBEDDING, CACHE = 4 * 1216, 2 * 500, 2 * 3 * 10 * 100
STAGING = 2 * 2 * 640
"""Two experts of two slots each; a slot is half an expert, 608 bytes, aligned to 64."""


def fits(near=10**6, far=10**6, staging="auto", target="elmoe3d-8gb"):
    """Three sequences of 100 tokens on a machine of so many bytes."""
    changes = [f"memories.external.capacity_gb={far / 1e9}"]
    if target != "xpu-lpddr5":
        changes += [f"memories.hb.capacity_gb={near / 1e9}", f"memories.hb.staging_gb={staging}"]
    machine = cost(*changes, name=target)
    of = footprint(MODEL, Request(3, 100, 2, 0, 1.0), [LAYER], [PART])
    check_fits(machine, of)
    return machine, of


def test_a_footprint_adds_up():
    _, of = fits()
    assert (of.dense_bytes, of.kv_bytes, of.two_experts) == (5_000, CACHE, STAGING)


def test_near_memory_must_hold_dense_weights_the_cache_and_two_experts():
    needed = 5_000 + CACHE + STAGING
    machine, of = fits(near=needed)
    assert free_bytes(machine, of) == STAGING == least_staging(machine, of)
    with pytest.raises(InfeasibleError, match=r"(?s)hb.*smaller --batch.*--context of at most"):
        fits(near=needed - 1)


def test_far_memory_must_hold_the_experts_and_the_embedding():
    fits(far=ROUTED + EMBEDDING)
    with pytest.raises(InfeasibleError, match=r"(?s)routed experts.*external"):
        fits(far=ROUTED + EMBEDDING - 1)


def test_one_memory_must_hold_everything():
    """Dense weights, caches, two experts of staging, all routed experts and the embedding."""
    needed = 5_000 + CACHE + STAGING + ROUTED + EMBEDDING

    def unified(capacity):
        machine = cost(f"memories.unified.capacity_gb={capacity / 1e9}", name="strix-halo-128gb")
        of = footprint(MODEL, Request(3, 100, 2, 0, 1.0), [LAYER], [PART])
        check_fits(machine, of)
        return free_bytes(machine, of)

    assert unified(needed) == STAGING + ROUTED
    with pytest.raises(InfeasibleError, match=r"memories\.unified\.capacity_gb of at least"):
        unified(needed - 1)


def test_what_the_far_memory_does_not_hold_lies_behind_it():
    """Of 4,864 B of experts and 1,000 of the embedding, 3,000 fit: three experts of 1,216 B do not."""

    def deep(far, behind):
        machine = with_deep_memory(cost(f"memories.external.capacity_gb={far / 1e9}"), capacity_bytes=behind)
        of = footprint(MODEL, Request(3, 100, 2, 0, 1.0), [LAYER], [PART])
        check_fits(machine, of)
        return deep_experts(machine, of)

    assert deep(3000, ROUTED + EMBEDDING) == 3
    assert deep(ROUTED + EMBEDDING, 10**9) == 0
    with pytest.raises(InfeasibleError, match=r"memories\.deep\.capacity_gb of at least"):
        deep(3000, ROUTED + EMBEDDING - 1)


def test_every_memory_that_is_too_small_is_in_one_report():
    with pytest.raises(InfeasibleError, match=r"(?s)external.*\n.*hb"):
        fits(near=5_000, far=ROUTED)


def test_staging_that_is_asked_for_holds_two_experts():
    machine, of = fits(staging=STAGING / 1e9)
    assert least_staging(machine, of) == STAGING
    machine, of = fits(staging=3 * STAGING / 1e9)
    assert least_staging(machine, of) == 3 * STAGING
    with pytest.raises(InfeasibleError, match="the next one on its way"):
        fits(staging=(STAGING - 1) / 1e9)
