"""Residents follow the prompt and what is verified, and whoever goes on with them."""

import pytest
import torch

from moe_compiler.runtime.decoder import Decoder, decode, plain_round
from moe_compiler.runtime.hot_set import HotSetRule
from moe_compiler.runtime.model import build
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.store import EngineRule, ExpertStore
from tests.conftest import tiny_config

FOLLOWING = HotSetRule(window_tokens=8, most=64)


def following(prompt, rule=FOLLOWING, slots=4, near=None):
    """A model of which the first eighth is near, and follows."""
    model = build(tiny_config("olmoe"), None, seed=3)
    resident = {part.layer: list(range(part.experts // 8)) for part in model.experts}
    plan = Plan(staging_slots=slots, resident=resident, whole=resident, hot_set=rule)
    return Decoder(model, plan, [prompt], 200, near=near)


@pytest.mark.parametrize("engine", ["first", "free"])
@pytest.mark.parametrize("slots", [1, 4])
def test_what_becomes_resident_is_written_from_what_was_loaded(engine, slots):
    """So a round loads what it needs and has not, once, whatever changes; and the text stays."""
    decoder, frozen = following([5], slots=slots), following([5], HotSetRule())
    for _ in range(12):
        decoder.begin_round()
        needed, before = set(), {layer: set(experts) for layer, experts in decoder.store.hot_set.resident.items()}
        decoder.kernels.routed = lambda layer, _, index, needed=needed: needed.update(
            (layer, expert) for expert in index.flatten().tolist()
        )
        decoder.store.loads.clear()
        decoder.verify([], EngineRule(engine))
        decoder.release_staging()
        frozen.verify([])
        missing = [(layer, expert) for layer, expert in needed if expert not in before[layer]]
        assert sorted(decoder.store.loads) == sorted(missing)
        assert decoder.store.hot_set.resident == decoder.store.near.experts()
    assert decoder.tokens == frozen.tokens
    assert decoder.store.promoted > 0 == frozen.store.promoted
    for of in (decoder, frozen):
        of.close()


def test_what_becomes_resident_takes_its_place_when_both_are_computed():
    """2 is asked for twice, 5 is near and asked for once, and so the colder of the two, but of this layer as well."""
    far = build(tiny_config("olmoe"), None, seed=3).far
    layer = min(far.layouts)
    plan = Plan(staging_slots=4, resident={layer: [5]}, whole={layer: [5]})
    for is_planned in (True, False):
        store = ExpertStore(plan, far)
        store.following = FOLLOWING
        store.decided(layer, [[2], [2], [5]])
        computed = []
        for expert in store.arriving(layer, [2, 5], "first") if is_planned else [2, 5]:
            computed.append(expert)
            assert store.near.experts() == {layer: {5}}
            with store.verified(layer, expert) as matrices:
                for found, expected in zip(matrices, far.matrices(layer, expert), strict=True):
                    assert torch.equal(found.weights(False), expected.weights(False))
        assert store.near.experts() == store.hot_set.resident == {layer: {2}}
        for found, expected in zip(store.near.matrices((layer, 2)), far.matrices(layer, 2), strict=True):
            assert torch.equal(found.weights(False), expected.weights(False))
        assert store.loads == [(layer, 2)]
        assert computed == ([5, 2] if is_planned else [2, 5]), "last, so that it is written from staging"
        store.close()


def test_what_becomes_resident_waits_for_what_it_replaces():
    """A newcomer that was loaded ahead is there before the rest of the resident of which only a slice is near."""
    far = build(tiny_config("olmoe"), None, seed=3).far
    layer = min(far.layouts)
    store = ExpertStore(Plan(staging_slots=1, resident={layer: [5]}), far)
    store.following = FOLLOWING
    store.prefetch([(layer, 2)])
    store.staging.wait_for_any([(layer, 2)])
    store.decided(layer, [[2], [2], [5]])
    computed = []
    for expert in store.arriving(layer, [2, 5], "free"):
        with store.verified(layer, expert) as matrices:
            computed.append(expert)
            for found, expected in zip(matrices, far.matrices(layer, expert), strict=True):
                assert torch.equal(found.weights(False), expected.weights(False))
    assert computed == [5, 2]
    assert store.near.experts() == {layer: {2}}
    found, expected = store.near.pieces((layer, 2)), far.layouts[layer].pack(far.matrices(layer, 2))[0]
    assert torch.equal(found["slice"][: len(expected)], expected)
    store.close()


@pytest.mark.parametrize("rule", [EngineRule(late="stream"), EngineRule(most_far_tokens=1)])
def test_what_becomes_resident_is_loaded_though_the_rest_is_not(rule):
    """The estimate says so: what streams past, or is computed where it lies, is nowhere to be written from."""
    decoder = following([5])
    kept = sum(map(len, decoder.store.near.experts().values()))
    decoder.store.loads.clear()
    decoder.verify([], rule)
    assert 0 < decoder.store.promoted <= kept
    assert len(decoder.store.loads) == len(set(decoder.store.loads))
    decoder.close()


def test_residents_follow_the_prompt():
    """Of a block, as many as are hotter; what the prompt's last tokens chose is near, and stays for the first round."""
    decoder, frozen = following([7] * 40), following([7] * 40, HotSetRule())
    assert decoder.store.promoted > 0 == frozen.store.promoted
    missed = []
    for of in (decoder, frozen):
        of.store.loads.clear()
        of.verify([])
        missed.append(len(of.store.loads))
        of.close()
    assert missed[0] < missed[1]


def test_a_decoder_goes_on_with_the_residents_of_an_earlier_one(monkeypatch):
    first = following([5, 6, 7])
    decode(first, plain_round, 8)
    first.close()
    monkeypatch.setattr("moe_compiler.runtime.store.read", None)
    second = following([8, 9], near=first.store.near)
    assert second.store.hot_set.resident == second.store.near.experts()
    assert second.store.near.bytes == first.store.near.bytes
    found = decode(second, plain_round, 8)
    monkeypatch.undo()
    fresh = following([8, 9])
    assert found == decode(fresh, plain_round, 8)
    for of in (second, fresh):
        of.close()
