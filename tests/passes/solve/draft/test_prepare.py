"""From a model, a machine and a trace to what select-draft weighs."""

from dataclasses import replace

import numpy as np
import pytest
from moe_passes.estimate.feasibility import footprint
from moe_passes.plan import known
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ModelShape
from moe_passes.plan.request import AUTO_LENGTH, Request
from moe_passes.routing.traces import RoutingTrace
from moe_passes.solve.draft.prepare import LONGEST_AUTO, prepare
from moe_passes.tasks.stages import parts, stages

from tests.plans import EXPERTS, LAYERS, SHAPES, TOP_K, cost, phase

SHAPE = ModelShape("made", "Made", 64, LAYERS, 100, 10**6, 6400, 8.5, 4.5)
STAGED = SHAPES[0].staged_bytes
DENSE = 2 * (1000 + 100) + 500 + 2000


def made_trace(tokens):
    random = np.random.default_rng(0)
    draft, verify = random.random((2, tokens, LAYERS, EXPERTS)).argsort(axis=3)[..., :TOP_K]
    return RoutingTrace(verify, draft, EXPERTS)


TRACE = made_trace(200)


def problem(length, machine, batch=2, shapes=SHAPES, tokens=200, **changes):
    request = Request(batch, 16, length, 0, 1.0)
    works = [parts(stages(phase(name, name == "draft_step"))) for name in ("draft_step", "verify_step")]
    of = footprint(replace(SHAPE, **changes), request, shapes, works[1])
    return prepare(machine, request, of, *works, made_trace(tokens))


def machine(capacity, staging="auto"):
    """A machine of 4 banks with so many bytes of HB."""
    return cost("memories.hb.banks=4", f"memories.hb.capacity_gb={capacity / 1e9}", f"memories.hb.staging_gb={staging}")


def test_auto_weighs_every_length_up_to_the_longest():
    of = problem(AUTO_LENGTH, machine(100_000), batch=1)
    assert of.lengths == tuple(range(LONGEST_AUTO + 1))
    assert {n for n, _ in of.rates.verify_dense_seconds} == set(of.lengths)


def test_auto_weighs_lengths_of_which_every_split_has_a_round():
    """200 tokens: 50 are held out, so that batch 4 has rounds of 12 tokens and of no more."""
    assert problem(AUTO_LENGTH, machine(100_000), batch=4).lengths == tuple(range(12))


@pytest.mark.parametrize("length", [3, 1, 0])
def test_a_length_that_is_asked_for_is_the_only_one_beside_plain_decoding(length):
    of = problem(length, machine(100_000))
    assert of.lengths == (length,)
    assert {n for n, _ in of.rates.verify_dense_seconds} == {0, length}


def test_a_trace_that_is_too_short_is_refused():
    with pytest.raises(InputError, match="too few"):
        problem(60, machine(100_000))


def test_auto_weighs_every_staging_size_up_to_half_of_what_is_free():
    """HB is so large that 33 experts make half of what dense weights and the cache leave; sizes are 2, 4, … 32."""
    kv = 2 * 2 * 2 * 4 * 16
    of = problem(AUTO_LENGTH, machine(2 * 33 * STAGED + DENSE + kv))
    assert of.capacity_bytes == 2 * 33 * STAGED
    assert of.staging_choices == tuple(n * STAGED for n in (2, 4, 8, 16, 32))


def test_where_little_is_free_staging_is_two_experts():
    kv = 2 * 2 * 2 * 4 * 16
    assert problem(AUTO_LENGTH, machine(3 * STAGED + DENSE + kv)).staging_choices == (2 * STAGED,)


def test_a_staging_size_that_is_asked_for_is_the_only_one():
    assert problem(AUTO_LENGTH, machine(100_000, 10_000 / 1e9)).staging_choices == (10_000,)


def test_what_cannot_be_sliced_is_kept_whole_alone():
    def formats(shapes, bits=8.5):
        of = problem(2, machine(100_000), shapes=shapes, expert_bits=bits, msb_bits=4.25)
        return [(form.bits, form.resident_bytes, form.residual_bytes) for form in of.slices]

    assert formats(SHAPES) == [(4, 640, 576), (8, 1216, 0)]
    whole = tuple(replace(shape, msb_bytes=1216, residual_bytes=0) for shape in SHAPES)
    assert formats(whole) == [(8, 1216, 0)]
    assert formats(whole, 4.25) == [(4, 1216, 0)]


def test_the_first_half_of_training_chooses_and_the_second_judges():
    """200 tokens: 150 train; 75 choose, 75 judge."""
    of, trace = problem(2, machine(100_000)), TRACE
    assert of.popularity.sum() == 75 * LAYERS * TOP_K
    assert of.popularity[0, 0] == (trace.experts[:75, 0] == 0).sum()
    assert (of.chosen == trace.experts[75:150]).all()
    assert (of.asked == trace.draft_experts[75:150]).all()
    assert len(problem(24, machine(100_000)).chosen) == 75, "as long as one round of two runs of 25 tokens is held out"


def test_dense_weights_are_read_whole_or_in_slices():
    found = problem(2, machine(100_000))
    assert found.dense_bits == (8, 4)
    assert found.rates.draft_dense_seconds[4, 4] < found.rates.draft_dense_seconds[8, 4]


def test_caches_may_lie_in_fewer_banks_as_far_as_copies_fit():
    """Four banks and one cache of 256 B: in two banks it is there twice, in one four times. Two caches halve that."""
    kv = 2 * 2 * 4 * 16
    room = 2 * STAGED + DENSE + kv
    assert problem(2, machine(room + 3 * kv), batch=1).copies_bytes == {4: 0, 2: kv, 1: 3 * kv}
    assert problem(2, machine(room + kv), batch=1).copies_bytes == {4: 0, 2: kv}
    assert problem(2, machine(room + 99 * kv)).copies_bytes == {4: 0, 2: 0, 1: 2 * kv}


def test_dense_weights_are_sliced_where_the_format_has_slices():
    assert {bits for bits, _ in problem(2, machine(100_000)).rates.draft_dense_seconds} == {4, 8}
    whole = problem(2, machine(100_000), dense_bits=16.0, dense_msb_bits=16.0)
    assert {bits for bits, _ in whole.rates.draft_dense_seconds} == {8}


def test_a_set_that_follows_covers_more_than_its_share_and_more_if_it_is_larger(monkeypatch):
    """The curve of a published model is taken for one of its shape, whatever its name."""
    monkeypatch.setitem(known.KNOWN, "qwen3-30b-a3b", known.Facts(64, LAYERS, 10**6))
    (curve,) = problem(2, machine(100_000), name="anything").acceptance.curves
    monkeypatch.undo()
    assert len(curve.rates) == 10
    assert list(curve.coverages) == sorted(curve.coverages)
    assert curve.rates[-1] == 0.95
    assert len(problem(2, machine(100_000)).acceptance.curves) == 4


def test_of_the_active_weights_those_of_no_expert_are_dense():
    """Two routed experts of 1,000 in each of two layers; attention and router 990, a feed-forward of 400, a head."""
    of = problem(2, machine(100_000)).acceptance
    assert of.dense_share == pytest.approx((2 * 990 + 400 + 1900) / (2 * 990 + 400 + 1900 + 4000))
    whole = tuple(replace(shape, msb_bytes=1216, residual_bytes=0) for shape in SHAPES)
    assert problem(2, machine(100_000), shapes=whole).acceptance.dense_share == 1.0
