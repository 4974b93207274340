from dataclasses import replace

import pytest
from moe_passes.verify_plan.check import Facts, NeededBytes, PlannedBuffer, PlannedTask, violations

BANKS, EXTERNAL = (("banks", 1),), (("external", 1),)
TASKS = (
    PlannedTask("load", "load", 0, 0, 0, 0, 5, EXTERNAL, (), external_bytes=50),
    PlannedTask("router", "attention", 0, 0, -1, 0, 3, BANKS, (), hb_bytes=30, macs=3),
    PlannedTask("expert", "expert", 0, 0, 0, 5, 2, BANKS, (0, 1), hb_bytes=100, macs=2),
    PlannedTask("load 2", "load", 0, 0, 1, 5, 5, EXTERNAL, (1,), external_bytes=50),
    PlannedTask("expert 2", "expert", 0, 0, 1, 10, 2, BANKS, (3,), hb_bytes=60, macs=2),
    PlannedTask("head", "head", 0, 1, -1, 12, 1, BANKS, (4,), hb_bytes=10, macs=1),
)
FACTS = Facts(
    layers=1,
    routed={0: (1, 2)},
    draft_length=0,
    external_bytes_per_second=10e9,
    hb_bytes_per_second=100e9,
    macs_per_second=1e9,
    staging_bytes=128,
    hb_bytes=1000,
    hb_used_bytes=900,
    bank_bytes=(40.0, 30.0),
    bank_capacity_bytes=50.0,
)
BUFFERS = (PlannedBuffer(0, 2, 60, 0), PlannedBuffer(3, 4, 60, 64))
NEEDS = (NeededBytes(2, 100, 40, 0), NeededBytes(4, 60, 0, 0))
CAPACITIES = {"external": 1, "banks": 1, "staging": 128}


def check(tasks=TASKS, buffers=BUFFERS, needs=NEEDS, capacities=CAPACITIES, facts=FACTS):
    return violations(tasks, buffers, needs, capacities, facts)


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
        ({"tasks": change(TASKS, 0, duration=3)}, "but its work takes 5 ns"),
        ({"tasks": change(TASKS, 1, macs=9)}, "but its work takes 9 ns"),
        ({"tasks": change(TASKS, 1, hb_bytes=900)}, "but its work takes 9 ns"),
        ({"tasks": change(TASKS, 0, uses=BANKS)}, "without occupying it"),
        ({"tasks": change(TASKS, 2, macs=0)}, "computes nothing"),
        ({"tasks": change(TASKS, 2, hb_bytes=0)}, "reads nothing"),
        ({"tasks": TASKS[:5]}, "0 'head' tasks"),
        ({"tasks": change(TASKS, 1, step=3)}, "0 'attention' tasks"),
        ({"tasks": change(TASKS, 4, expert=0)}, "each once"),
        ({"facts": replace(FACTS, routed={0: (3, 3)})}, "valid: 3 to 3"),
        ({"facts": replace(FACTS, draft_length=1)}, "step 1 has 0"),
        ({"facts": replace(FACTS, staging_bytes=64)}, "the draft plan 64"),
        ({"facts": replace(FACTS, hb_used_bytes=1001)}, "HB is to hold 1001"),
        ({"facts": replace(FACTS, bank_bytes=(40.0, 60.0))}, "bank 1 is to hold 60"),
    ],
)
def test_every_kind_of_broken_plan_is_rejected(plan, message):
    assert any(message in line for line in check(**plan)), check(**plan)
