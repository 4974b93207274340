import json

import numpy as np
import pytest
import torch
from moe_passes.plan.errors import InputError

from moe_compiler.formats.eplb import (
    Decoder,
    EplbTriple,
    from_eplb,
    from_expert_location,
    from_expert_map,
    to_eplb,
    to_expert_location,
    to_expert_map,
)

PLACED = (((0,), (1,)), ((1,),), ((0,),), ((1,),), ((0,),))
"""Five experts, six replicas, three in each of two banks."""


def test_eplb_triple_by_hand():
    triple = to_eplb([PLACED], 2)
    assert triple.physical_to_logical.tolist() == [[0, 2, 4, 0, 1, 3]]
    assert triple.logical_to_physical.tolist() == [[[0, 3], [4, -1], [1, -1], [5, -1], [2, -1]]]
    assert triple.counts.tolist() == [[2, 1, 1, 1, 1]]
    assert from_eplb(triple, 2) == [PLACED]


DEEPSEEK = Decoder(4, (2, 3))
"""Four decoder layers, of which the last two are MoE: as DeepSeek-V2's, whose first is dense."""


def test_an_expert_location_has_a_row_for_every_decoder_layer():
    document = to_expert_location([PLACED, PLACED], 2, DEEPSEEK)
    assert document == {"physical_to_logical_map": [[0, 1, 2, 3, 4, 0]] * 2 + [[0, 2, 4, 0, 1, 3]] * 2}
    assert from_expert_location(document, 2, 5, DEEPSEEK) == [PLACED, PLACED]
    with pytest.raises(InputError, match="has 4 rows; valid: 3"):
        from_expert_location(document, 2, 5, Decoder(3, (1, 2)))


def test_sglang_can_load_an_expert_location():
    """The rules of `ExpertLocationMetadata.init_by_mapping` (SGLang 0.5), on its own tensors.

    A row for each of `num_hidden_layers`, slots that divide among ranks, and of every expert, in every layer, a slot.
    """
    rows = torch.tensor(to_expert_location([PLACED, PLACED], 2, DEEPSEEK)["physical_to_logical_map"])
    assert rows.shape == (DEEPSEEK.layers, 6)
    assert rows.shape[1] % 2 == 0
    for row in rows:
        assert all((row == expert).any() for expert in range(5))
        assert int(row.max()) < 5


def test_vllm_ascend_can_load_an_expert_map():
    """The rules of `_expert_file_to_tensor` (vllm-ascend 0.11): MoE layers only, [layer, device, slot] in a tensor."""
    data = json.loads(json.dumps(to_expert_map([PLACED, PLACED], 2)))
    assert data["layer_list"][0]["device_count"] == 2
    devices = [[device["device_expert"] for device in layer["device_list"]] for layer in data["layer_list"]]
    assert torch.tensor(devices).shape == (data["moe_layer_count"], 2, 3)
    assert devices[1] == [[0, 2, 4], [0, 1, 3]]
    assert from_expert_map(data, 2, 5) == [PLACED, PLACED]


@pytest.mark.parametrize(
    "layer",
    [
        {},
        [],
        {"device_list": 3},
        {"device_list": [{"device_expert": [0, 1]}]},
        {"device_list": [{"device_expert": [0, 1]}, {"device_expert": [0]}]},
        {"device_list": [{"device_expert": []}, {"device_expert": []}]},
        {"device_list": [{"device_expert": 4}, {"device_expert": 4}]},
        {"device_list": [{"device_expert": [0]}, {"device_expert": ["1"]}]},
    ],
)
def test_malformed_expert_maps_are_refused(layer):
    with pytest.raises(InputError, match="expert map: layer 0"):
        from_expert_map({"moe_layer_count": 1, "layer_list": [layer]}, 2, 2)
    with pytest.raises(InputError, match="moe_layer_count"):
        from_expert_map({"moe_layer_count": 2, "layer_list": [layer]}, 2, 2)


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
    document = {"physical_to_logical_map": [[0, 0, 1, 2]]}
    assert from_expert_location(document, 2, 3, Decoder(1, (0,))) == [(((0,),), ((1,),), ((1,),))]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (3, "valid: an object"),
        ([], "valid: an object"),
        ([[0, 1, 2]], "do not divide"),
        ([[0, 9]], "slot 1 holds 9"),
        ([[0, True]], "slot 1 holds True"),
        ([[0, 0]], r"experts \[1\] have no slot"),
    ],
)
def test_malformed_documents_are_refused(document, says):
    with pytest.raises(InputError, match=says):
        from_expert_location({"physical_to_logical_map": document}, 2, 2, Decoder(1, (0,)))
    with pytest.raises(InputError, match="valid: an object"):
        from_expert_location(document, 2, 2, Decoder(1, (0,)))


def test_contradicting_triples_are_refused():
    good = to_eplb([PLACED], 2)
    for bad in (
        EplbTriple(good.physical_to_logical, good.logical_to_physical, good.counts + 1),
        EplbTriple(good.physical_to_logical, good.logical_to_physical[:, ::-1], good.counts),
    ):
        with pytest.raises(InputError, match="EPLB triple"):
            from_eplb(bad, 2)
    assert np.array_equal(good.counts.sum(axis=1), [6])
