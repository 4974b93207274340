"""What runs as one stage, and what it waits for: read off hand-made phases."""

import pytest
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import DensePart
from moe_passes.plan.phase import MSB_SLICE, Operation, Phase
from moe_passes.tasks.stages import parts, stages

from tests.plans import phase


def dense(kind, operands, layer=0, size=100):
    return Operation(kind, operands, DensePart(layer, size, size), where=f"m.py:{size}")


def shapes(found):
    return [(stage.kind, stage.after) for stage in found]


def of(*operations, result=None):
    return Phase("verify_step", operations, len(operations) - 1 if result is None else result)


def test_two_layers_and_a_head():
    """The shared block of the second layer is part of its dense work; the head waits for it and for the experts."""
    found = stages(phase("verify_step", False))
    assert shapes(found) == [
        ("attention", ()),
        ("experts", (0,)),
        ("attention", (1,)),
        ("experts", (2,)),
        ("head", (3,)),
    ]
    assert [stage.router for stage in found if stage.kind == "experts"] == [0, 2]
    assert [part.weight_bytes for part in parts(found)] == [1100, 1600, 2000]
    assert [stage.where for stage in found if stage.kind == "attention"] == ["m.py:0", "m.py:1"]


def test_what_the_result_does_not_depend_on_does_not_run():
    attention, router = dense("attention", (0,)), dense("router", (1,), size=10)
    experts = Operation("experts", (1, 2), store="layer0")
    unused = dense("mlp", (1,), size=7)
    head = dense("head", (3,), 1)
    found = stages(of(Operation("embed", ()), attention, router, experts, unused, head))
    assert [part.weight_bytes for part in parts(found)] == [110, 100]
    used = stages(of(Operation("embed", ()), attention, router, experts, unused, dense("head", (3, 4), 1)))
    assert [part.weight_bytes for part in parts(used)] == [117, 100]


def test_experts_that_nobody_uses_do_not_run_and_an_attention_does():
    """It writes the KV cache."""
    operations = [
        Operation("embed", ()),
        dense("attention", (0,)),
        dense("router", (1,), size=10),
        Operation("experts", (1, 2), store="layer0"),
        dense("head", (1,), 2),
        dense("attention", (4,), 1, size=30),
    ]
    found = stages(of(*operations, result=4))
    assert shapes(found) == [("attention", ()), ("head", (0,)), ("attention", (1,))]
    assert parts(found)[0].weight_bytes == 100, "without experts, the router is not asked either"


def test_what_a_stage_waits_for_through_another_is_left_out():
    """The head adds up the attention and the experts, which wait for it: it waits for the experts alone."""
    operations = [
        Operation("embed", ()),
        dense("attention", (0,)),
        dense("router", (1,)),
        Operation("experts", (1, 2), store="layer0"),
        Operation("add", (1, 3)),
        dense("head", (4,), 1),
    ]
    assert shapes(stages(of(*operations))) == [("attention", ()), ("experts", (0,)), ("head", (1,))]
    aside = [*operations[:4], dense("attention", (0,), 1), Operation("add", (3, 4)), dense("head", (5,), 2)]
    assert shapes(stages(of(*aside))) == [("attention", ()), ("experts", (0,)), ("attention", ()), ("head", (1, 2))]


def test_the_draft_is_restricted_to_residents():
    unrestricted = [
        Operation("embed", ()),
        dense("attention", (0,)),
        dense("router", (1,)),
        Operation("experts", (1, 2), store="layer0", slice=MSB_SLICE),
        dense("head", (3,), 1),
    ]
    with pytest.raises(InputError, match="not restricted to residents"):
        stages(of(*unrestricted))
    restricted = [
        *unrestricted[:3],
        Operation("restrict", (2,), store="layer0"),
        Operation("experts", (1, 3), store="layer0", slice=MSB_SLICE),
        dense("head", (4,), 1),
    ]
    assert shapes(stages(of(*restricted))) == [("attention", ()), ("experts", (0,)), ("head", (1,))]
    foreign = [*restricted[:3], Operation("restrict", (2,), store="layer9"), *restricted[4:]]
    with pytest.raises(InputError, match="@layer9"):
        stages(of(*foreign))


def test_what_there_must_be_one_of_is_refused_twice():
    twice = [
        Operation("embed", ()),
        dense("attention", (0,)),
        dense("attention", (1,), size=50),
        dense("head", (2,), 1),
    ]
    with pytest.raises(InputError, match="a second 'attention' of layer 0"):
        stages(of(*twice))
    operations = [
        Operation("embed", ()),
        dense("attention", (0,)),
        dense("router", (1,)),
        Operation("experts", (1, 2), store="layer0"),
        Operation("experts", (3, 2), store="layer0"),
        dense("head", (4,), 1),
    ]
    with pytest.raises(InputError, match="a second 'experts' of store @layer0"):
        stages(of(*operations))


def test_dense_work_after_the_experts_of_its_layer_is_refused():
    operations = [
        Operation("embed", ()),
        dense("attention", (0,)),
        dense("router", (1,)),
        Operation("experts", (1, 2), store="layer0"),
        dense("mlp", (3,)),
        dense("head", (4,), 1),
    ]
    with pytest.raises(InputError, match="the dense work of a layer before its routed experts"):
        stages(of(*operations))
