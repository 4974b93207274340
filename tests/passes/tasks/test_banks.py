"""Banks that no placement tells apart are one resource."""

from dataclasses import replace

import numpy as np
import pytest
from moe_passes.tasks.banks import bank_groups, group_name
from moe_passes.tasks.build import build

from tests.passes.tasks.test_tasks import hand_made, of_kind
from tests.plans import small_machine


def placed(*layers):
    """A plan of layers of four experts with these replicas."""
    plan, _ = hand_made()
    return replace(plan, layers=tuple(replace(plan.layers[0], replicas=replicas) for replicas in layers))


EVERYWHERE = ((0, 1, 2, 3),)


@pytest.mark.parametrize(
    ("layers", "groups"),
    [
        ([(EVERYWHERE, EVERYWHERE, (), ())], [0, 0, 0, 0]),
        ([(((0, 1),), EVERYWHERE, (), ())], [0, 0, 1, 1]),
        ([(((0, 1),), ((1, 2),), (), ())], [0, 1, 2, 3]),
        ([(((0, 1),), ((0, 1),), (), ())], [0, 0, 1, 1]),
        ([(((1, 3),), ((0, 2),), (), ())], [0, 1, 0, 1]),
        ([(((0,), (1,)), (), (), ())], [0, 1, 2, 2]),
        ([(((0, 1),), (), (), ()), (((1, 2),), (), (), ())], [0, 1, 2, 3]),
        ([(((0, 1),), (), (), ()), (((2, 3),), (), (), ())], [0, 0, 1, 1]),
    ],
)
def test_banks_are_told_apart_by_what_lies_in_them(layers, groups):
    assert bank_groups(placed(*layers), 4) == groups


def test_groups_are_named_by_their_banks():
    assert group_name([0, 1, 2, 3]) == "banks0-3"
    assert group_name([5]) == "banks5"
    assert group_name([0, 4, 5, 9]) == "banks0,4-5,9"


def test_tasks_on_different_groups_use_different_resources():
    """Whole expert 0 lies in banks 0 and 1, 1 in banks 2 and 3: near memory they are computed at the same time."""
    plan, routing = hand_made()
    layer = replace(plan.layers[0], residency=np.array([2, 2, 0, 0]), replicas=(((0, 1),), ((2, 3),), (), ()))
    routing.verify[0, 1, 2], routing.verify[0, 1, 1] = False, True
    graph = build(replace(plan, layers=(layer,)), routing, small_machine())
    assert graph.problem.names == ("external", "link", "banks0-1", "banks2-3", "staging")
    assert [graph.problem.tasks[n].modes[0].uses for n in of_kind(graph, "expert")] == [((2, 1),), ((3, 1),)]
