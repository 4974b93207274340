from dataclasses import replace

import pytest
from moe_passes.verify_plan.check import NeededBytes, PlannedBuffer, PlannedTask, violations

TASKS = (
    PlannedTask("load", 0, 5, (("external", 1),), ()),
    PlannedTask("router", 0, 3, (("banks", 1),), ()),
    PlannedTask("expert", 5, 2, (("banks", 1),), (0, 1)),
    PlannedTask("load 2", 5, 5, (("external", 1),), (1,)),
    PlannedTask("expert 2", 10, 2, (("banks", 1),), (3,)),
)
BUFFERS = (PlannedBuffer(0, 2, 60, 0), PlannedBuffer(3, 4, 60, 64))
NEEDS = (NeededBytes(2, 100, 40, 0), NeededBytes(4, 60, 0, 0))
CAPACITIES = {"external": 1, "banks": 1, "staging": 128}


def check(tasks=TASKS, buffers=BUFFERS, needs=NEEDS, capacities=CAPACITIES):
    return violations(tasks, buffers, needs, capacities, "staging")


def change(items, index, **fields):
    return tuple(replace(item, **fields) if n == index else item for n, item in enumerate(items))


def test_a_sound_plan_passes():
    assert check() == []


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"tasks": change(TASKS, 2, start=4)}, "waits for"),
        ({"tasks": change(TASKS, 1, start=4)}, "waits for"),
        ({"tasks": change(TASKS, 3, start=4)}, "overloads 'external'"),
        ({"tasks": change(TASKS, 4, start=6)}, "waits for"),
        ({"tasks": change(TASKS, 0, start=-1)}, "starts at -1"),
        ({"tasks": change(TASKS, 2, after=(9,))}, "does not exist"),
        ({"tasks": change(TASKS, 2, uses=(("gpu", 1),))}, "does not exist"),
        ({"buffers": change(BUFFERS, 1, offset=32)}, "share addresses"),
        ({"buffers": change(BUFFERS, 1, offset=100)}, "outside staging"),
        ({"buffers": change(BUFFERS, 1, offset=None)}, "has no address"),
        ({"buffers": BUFFERS[:1]}, "needs 60 bytes, but 0 are there"),
        ({"buffers": change(BUFFERS, 0, size=10)}, "needs 100 bytes, but 50 are there"),
        ({"needs": change(NEEDS, 0, needed=101)}, "needs 101 bytes"),
        ({"capacities": {**CAPACITIES, "staging": 100}}, "outside staging"),
        ({"tasks": change(change(TASKS, 2, after=(1,), start=3), 0, start=0)}, "before load has brought"),
    ],
)
def test_every_kind_of_broken_plan_is_rejected(plan, message):
    assert any(message in line for line in check(**plan)), check(**plan)
