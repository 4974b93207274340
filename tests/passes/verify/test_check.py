from dataclasses import replace

import pytest
from moe_passes.verify.check import Facts, NeededBytes, PlannedBuffer, PlannedTask, violations

BANKS, EXTERNAL = (("banks", 1),), (("external", 1),)
TASKS = (
    PlannedTask("load", "load", 1, 0, 0, 0, 5, EXTERNAL, (), external_bytes=50),
    PlannedTask("draft router", "attention", 0, 0, -1, 0, 1, BANKS, (), hb_bytes=30, macs=1),
    PlannedTask("draft", "draft-experts", 0, 0, -1, 1, 1, BANKS, (1,), hb_bytes=40, macs=1),
    PlannedTask("draft head", "head", 0, 1, -1, 2, 1, BANKS, (2,), hb_bytes=10, macs=1),
    PlannedTask("router", "attention", 1, 0, -1, 3, 1, BANKS, (3,), hb_bytes=30, macs=1),
    PlannedTask("expert", "expert", 1, 0, 0, 5, 2, BANKS, (0, 4), hb_bytes=100, macs=2),
    PlannedTask("load 2", "load", 1, 0, 1, 5, 5, EXTERNAL, (4,), external_bytes=50),
    PlannedTask("expert 2", "expert", 1, 0, 1, 10, 2, BANKS, (6,), hb_bytes=60, macs=2),
    PlannedTask("write", "write", 1, 0, 1, 12, 1, BANKS, (5, 7), hb_bytes=80, replaces=0),
    PlannedTask("head", "head", 1, 1, -1, 13, 1, BANKS, (7,), hb_bytes=10, macs=1),
)
FACTS = Facts(
    layers=1,
    routed={0: (1, 2)},
    draft_length=1,
    external_bytes_per_second=10e9,
    hb_bytes_per_second=100e9,
    macs_per_second=1e9,
    staging_bytes=128,
    hb_bytes=1000,
    hb_used_bytes=900,
    bank_bytes=(40.0, 30.0),
    bank_capacity_bytes=50.0,
    residents={0: frozenset({0})},
)
BUFFERS = (PlannedBuffer(0, 5, 60, 0), PlannedBuffer(6, 8, 60, 64))
NEEDS = (NeededBytes(5, 100, 50, 0), NeededBytes(7, 50, 0, 0), NeededBytes(8, 40, 0, 0))
CAPACITIES = {"external": 1, "banks": 1, "staging": 128}


def check(tasks=TASKS, buffers=BUFFERS, needs=NEEDS, capacities=CAPACITIES, facts=FACTS):
    return violations(tasks, buffers, needs, capacities, facts)


def change(items, index, **fields):
    return tuple(replace(item, **fields) if n == index else item for n, item in enumerate(items))


def test_a_sound_plan_passes():
    assert check() == []


BROKEN = [
    # Time and precedence.
    ({"tasks": change(TASKS, 0, start=-1)}, "starts at -1"),
    ({"tasks": change(TASKS, 2, start=0)}, "waits for"),
    ({"tasks": change(TASKS, 5, start=4)}, "waits for"),
    ({"tasks": change(TASKS, 7, start=6)}, "waits for"),
    ({"tasks": change(TASKS, 5, after=(99,))}, "does not exist"),
    ({"tasks": change(TASKS, 5, after=(-1,))}, "does not exist"),
    # Resources.
    ({"tasks": change(TASKS, 6, start=4)}, "overloads 'external'"),
    ({"tasks": change(TASKS, 9, start=12)}, "overloads 'banks'"),
    ({"tasks": change(TASKS, 5, uses=(("banks", 2),))}, "overloads 'banks'"),
    ({"tasks": change(TASKS, 5, uses=(("gpu", 1),))}, "does not exist"),
    ({"tasks": change(TASKS, 0, uses=BANKS)}, "without occupying it"),
    # Staging: addresses and capacity.
    ({"buffers": change(change(BUFFERS, 0, last=8), 1, offset=32)}, "share addresses"),
    ({"buffers": change(BUFFERS, 1, offset=100)}, "outside staging"),
    ({"buffers": change(BUFFERS, 1, offset=-1)}, "outside staging"),
    ({"buffers": change(BUFFERS, 1, offset=None)}, "has no address"),
    ({"capacities": {**CAPACITIES, "staging": 100}}, "outside staging"),
    ({"buffers": change(BUFFERS, 1, last=4)}, "dropped before it is loaded"),
    # Bytes: there before use, until the end of it.
    ({"buffers": BUFFERS[:1]}, "needs 50 bytes, but 0 are there"),
    ({"buffers": change(BUFFERS, 0, size=10)}, "needs 100 bytes, but 60 are there"),
    ({"needs": change(NEEDS, 0, needed=101)}, "needs 101 bytes"),
    ({"tasks": change(change(TASKS, 5, after=(4,), start=4), 0, start=0)}, "before load has brought"),
    ({"buffers": change(BUFFERS, 0, last=0)}, "dropped before expert ends"),
    ({"buffers": change(BUFFERS, 1, last=7)}, "dropped before write ends"),
    ({"tasks": change(TASKS, 0, external_bytes=1)}, "needs 100 bytes, but 51 are there"),
    ({"tasks": change(TASKS, 5, hb_bytes=99)}, "reads 99 bytes of the 100"),
    # The machine.
    ({"tasks": change(TASKS, 0, duration=3)}, "but its work takes 5 ns"),
    ({"tasks": change(TASKS, 4, macs=9)}, "but its work takes 9 ns"),
    ({"tasks": change(TASKS, 4, hb_bytes=900)}, "but its work takes 9 ns"),
    ({"tasks": change(TASKS, 8, hb_bytes=900)}, "but its work takes 9 ns"),
    ({"tasks": change(TASKS, 5, macs=0)}, "computes nothing"),
    ({"tasks": change(TASKS, 5, hb_bytes=0)}, "reads nothing"),
    # The round is whole.
    ({"tasks": TASKS[:9]}, "0 'head' tasks"),
    ({"tasks": change(TASKS, 4, step=3)}, "0 'attention' tasks"),
    ({"tasks": (*TASKS, replace(TASKS[9], start=20))}, "2 'head' tasks"),
    ({"tasks": change(TASKS, 7, expert=0)}, "each once"),
    ({"facts": replace(FACTS, routed={0: (3, 3)})}, "valid: 3 to 3"),
    ({"facts": replace(FACTS, draft_length=2)}, "step 2 has 0"),
    # HB.
    ({"facts": replace(FACTS, staging_bytes=64)}, "the draft plan 64"),
    ({"facts": replace(FACTS, hb_used_bytes=1001)}, "HB is to hold 1001"),
    ({"facts": replace(FACTS, bank_bytes=(40.0, 60.0))}, "bank 1 is to hold 60"),
    # The next hot set.
    ({"tasks": change(TASKS, 8, replaces=1)}, "replaces expert 1"),
    ({"tasks": change(TASKS, 8, expert=0)}, "replaces expert 0"),
    ({"facts": replace(FACTS, residents={0: frozenset({0, 1})})}, "replaces expert 0"),
    ({"tasks": (*TASKS, replace(TASKS[8], start=20))}, "replaces expert 0"),
    ({"tasks": change(TASKS, 8, start=6, after=())}, "before expert has read it"),
    ({"tasks": change(TASKS, 2, start=13, after=())}, "before draft has read it"),
]


@pytest.mark.parametrize(("plan", "message"), BROKEN)
def test_every_kind_of_broken_plan_is_rejected(plan, message):
    assert any(message in line for line in check(**plan)), check(**plan)
