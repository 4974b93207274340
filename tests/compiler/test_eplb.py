import numpy as np
import pytest
from moe_passes.plan.errors import InputError

from moe_compiler.formats.eplb import EplbTriple, from_eplb, from_expert_location, to_eplb, to_expert_location

PLACED = (((0,), (1,)), ((1,),), ((0,),), ((1,),), ((0,),))
"""Five experts, six replicas, three in each of two banks."""


def test_eplb_triple_by_hand():
    triple = to_eplb([PLACED], 2)
    assert triple.physical_to_logical.tolist() == [[0, 2, 4, 0, 1, 3]]
    assert triple.logical_to_physical.tolist() == [[[0, 3], [4, -1], [1, -1], [5, -1], [2, -1]]]
    assert triple.counts.tolist() == [[2, 1, 1, 1, 1]]
    assert from_eplb(triple, 2) == [PLACED]


def test_expert_location_round_trip_in_both_spellings():
    document = to_expert_location([PLACED, PLACED], 2)
    assert document == {"physical_to_logical_map": [[0, 2, 4, 0, 1, 3]] * 2}
    assert from_expert_location(document, 2, 5) == [PLACED, PLACED]
    assert from_expert_location(document["physical_to_logical_map"], 2, 5) == [PLACED, PLACED]


@pytest.mark.parametrize(
    ("replicas", "says"),
    [
        ((((0, 1),), ((1,),)), "expert 0 is sharded over 2 banks"),
        (((), ((1,),)), "expert 0 is not resident"),
        ((((0,),), ((0,),)), "bank 1 holds 0 replicas and bank 0 2"),
    ],
)
def test_what_cannot_be_expressed_is_refused(replicas, says):
    with pytest.raises(InputError, match=says):
        to_eplb([replicas], 2)


def test_several_replicas_in_one_bank_are_read_as_one():
    """Balancers put them there; the second one serves nothing."""
    assert from_expert_location([[0, 0, 1, 2]], 2, 3) == [(((0,),), ((1,),), ((1,),))]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "physical_to_logical_map"),
        ([], "valid"),
        ([[0, 1, 2]], "do not divide"),
        ([[0, 9]], "slot 1 holds 9"),
        ([[0, True]], "slot 1 holds True"),
        ([[0, 0]], r"experts \[1\] have no slot"),
    ],
)
def test_malformed_documents_are_refused(document, says):
    with pytest.raises(InputError, match=says):
        from_expert_location(document, 2, 2)


def test_contradicting_triples_are_refused():
    good = to_eplb([PLACED], 2)
    for bad in (
        EplbTriple(good.physical_to_logical, good.logical_to_physical, good.counts + 1),
        EplbTriple(good.physical_to_logical, good.logical_to_physical[:, ::-1], good.counts),
    ):
        with pytest.raises(InputError, match="EPLB triple"):
            from_eplb(bad, 2)
    assert np.array_equal(good.counts.sum(axis=1), [6])
