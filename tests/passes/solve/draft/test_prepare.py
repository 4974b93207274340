"""From a model, a machine and a trace to what select-draft weighs."""

from dataclasses import replace

import numpy as np
import pytest
from moe_passes.estimate.feasibility import footprint
from moe_passes.plan.model import ModelShape
from moe_passes.plan.request import AUTO_LENGTH, Request
from moe_passes.routing.traces import RoutingTrace
from moe_passes.solve.draft.prepare import LONGEST_AUTO, prepare
from moe_passes.tasks.stages import parts, stages

from tests.plans import EXPERTS, LAYERS, SHAPES, TOP_K, cost, phase

MODEL = ModelShape("made", "Made", 64, LAYERS, 100, 10**6, 6400, 8.5, 4.5)
STAGED = SHAPES[0].staged_bytes
DENSE = 2 * (1000 + 100) + 500 + 2000


def problem(length, machine, batch=2, shapes=SHAPES):
    random = np.random.default_rng(0)
    draft, verify = random.random((2, 200, LAYERS, EXPERTS)).argsort(axis=3)[..., :TOP_K]
    request = Request(batch, 16, length, 0, 1.0)
    works = [parts(stages(phase(name, name == "draft_step"))) for name in ("draft_step", "verify_step")]
    of = footprint(MODEL, request, shapes, works[1])
    return prepare(machine, request, of, *works, RoutingTrace(verify, draft, EXPERTS))


def machine(capacity, staging="auto"):
    """A machine of 4 banks with so many bytes of HB."""
    return cost("memories.hb.banks=4", f"memories.hb.capacity_gb={capacity / 1e9}", f"memories.hb.staging_gb={staging}")


def test_auto_weighs_every_length_up_to_the_longest():
    of = problem(AUTO_LENGTH, machine(100_000))
    assert of.lengths == of.allowed == tuple(range(LONGEST_AUTO + 1))
    assert of.used.shape[1] == LONGEST_AUTO + 1
    assert len(of.acceptance) == len(of.rates.verify_dense_seconds) == LONGEST_AUTO + 1


@pytest.mark.parametrize(("length", "lengths"), [(3, (0, 3)), (1, (0, 1)), (0, (0,))])
def test_a_length_that_is_asked_for_is_weighed_against_plain_decoding_alone(length, lengths):
    of = problem(length, machine(100_000))
    assert (of.lengths, of.allowed) == (lengths, (length,))


def test_auto_weighs_every_staging_size_up_to_a_quarter_of_what_is_free():
    """HB is so large that 33 experts make a quarter of what dense weights and the cache leave; sizes are 2, 4, … 32."""
    kv = 2 * 2 * 2 * 4 * 16
    of = problem(AUTO_LENGTH, machine(4 * 33 * STAGED + DENSE + kv))
    assert of.capacity_bytes == 4 * 33 * STAGED
    assert of.staging_choices == tuple(n * STAGED for n in (2, 4, 8, 16, 32))


def test_where_little_is_free_staging_is_two_experts():
    kv = 2 * 2 * 2 * 4 * 16
    assert problem(AUTO_LENGTH, machine(3 * STAGED + DENSE + kv)).staging_choices == (2 * STAGED,)


def test_a_staging_size_that_is_asked_for_is_the_only_one():
    assert problem(AUTO_LENGTH, machine(100_000, 10_000 / 1e9)).staging_choices == (10_000,)


def test_what_cannot_be_sliced_is_kept_whole_alone():
    def formats(shapes):
        of = problem(2, machine(100_000), shapes=shapes)
        return [(form.bits, form.resident_bytes, form.residual_bytes) for form in of.slices]

    assert formats(SHAPES) == [(4, 640, 576), (8, 1216, 0)]
    assert formats(tuple(replace(shape, msb_bytes=1216, residual_bytes=0) for shape in SHAPES)) == [(4, 1216, 0)]


def test_use_is_that_of_the_tokens_of_each_position():
    """200 tokens: 150 train; batch 2 and rounds of 3 tokens: 25 rounds, of which 16 are kept; each uses 2 to 4."""
    of = problem(2, machine(100_000))
    assert of.used.shape == of.asked.shape == (16, 3, LAYERS, EXPERTS)
    assert of.token_asked.shape == (8, 2, LAYERS, EXPERTS)
    assert (of.token_asked.sum(axis=-1) == TOP_K).all()
    counts = of.used.sum(axis=-1)
    assert counts.min() >= TOP_K
    assert counts.max() <= 2 * TOP_K
    assert (of.token_asked.any(axis=1) == of.asked[:8, 0]).all()
    assert of.popularity.sum() == 150 * LAYERS * TOP_K
