"""Staging: the order of loads, and that nothing is ever held beyond the slots."""

import gc
import random
import threading
import weakref
from functools import partial

import pytest
import torch

from moe_compiler.runtime import native
from moe_compiler.runtime.far import Transfer
from moe_compiler.runtime.host_memory import HostMemory
from moe_compiler.runtime.packing import PAGE, REST, SLICE, Layout
from moe_compiler.runtime.quantise import quantise
from moe_compiler.runtime.reader import Addressed
from moe_compiler.runtime.record import Record
from moe_compiler.runtime.staging import WAITED_FOR, Staging

BOTH = (SLICE, REST)


class Far(Addressed):
    """A far memory that can be made to wait, and that says what was read where it was to go."""

    def __init__(self, broken=()):
        super().__init__()
        self.layouts = {0: Layout(((2, 32),)), 1: Layout(((4, 64),))}
        self.go, self.begun, self.broken = threading.Event(), threading.Event(), broken
        self.go.set()
        self.values = torch.arange(256, dtype=torch.uint8).repeat_interleave(PAGE)

    def transfer(self, layer, expert, into):
        sources = [self.values[PAGE * (10 * expert + (piece == REST)) :].data_ptr() for piece in into]
        parts = zip(sources, map(len, into.values()), (room.data_ptr() for room in into.values()), strict=True)
        return Transfer(native.MEMORY, tuple(parts), 0, True, partial(self.check, layer, expert), self.values)

    def check(self, layer, expert, status):
        self.begun.set()
        assert self.go.wait(5)
        if (layer, expert) in self.broken:
            raise ValueError(f"expert {expert} is damaged")


@pytest.fixture
def made():
    found = []

    def make(slots, **options):
        far = Far(**options)
        found.append((Staging(far, slots), far))
        return found[-1]

    yield make
    for staging, far in found:
        far.go.set()
        staging.close()


def load(staging, key, priority=WAITED_FOR, pieces=BOTH):
    staging.request([(key, priority, pieces)])
    staging.wait_for_any([key])


def test_what_was_loaded_lies_in_its_slots(made):
    staging, _ = made(4)
    load(staging, (0, 3))
    load(staging, (1, 7), pieces=(REST,))
    held = staging.pieces((0, 3))
    assert {int(held[SLICE][0]), int(held[REST][-1])} == {30, 31}
    assert int(staging.pieces((1, 7))[REST][0]) == 71
    assert staging.traffic.loads == [(0, 3), (1, 7)]
    # 2 · 16 bytes of nibbles and 2 · 2 of scales, 2 · 16 of nibbles; then 4 · 32 of nibbles.
    assert staging.traffic.bytes == 36 + 32 + 128
    assert staging.traffic.most_slots == 3


def test_urgent_loads_go_first_and_prefetches_wait_for_slots(made):
    staging, far = made(4)
    far.go.clear()
    staging.request([((0, 0), 9, BOTH)])
    assert far.begun.wait(5)
    for expert, priority in ((1, 9), (2, 5), (3, WAITED_FOR)):
        staging.request([((0, expert), priority, BOTH)])
    staging.request([((0, 1), 4, BOTH)])
    far.go.set()
    staging.wait_for_any([(0, 3)])
    held = staging.pieces((0, 3))
    assert not staging.is_here((0, 1)), "the first and the one that is needed hold all slots"
    staging.keep(0, [1, 2, 3])
    staging.wait_for_any([(0, 1)])
    assert not staging.is_here((0, 2))
    assert int(held[SLICE][0]) == 30
    staging.used((0, 3))
    staging.wait_for_any([(0, 2)])
    assert staging.traffic.loads == [(0, 0), (0, 3), (0, 1), (0, 2)]


def test_of_loads_that_are_asked_for_together_the_most_urgent_begins_and_none_is_loaded_twice(made):
    staging, _ = made(8)
    staging.request([((0, 1), 7, BOTH), ((0, 2), WAITED_FOR, BOTH), ((0, 3), 4, BOTH), ((0, 1), 3, BOTH)])
    for expert in (2, 1, 3):
        staging.wait_for_any([(0, expert)])
    assert staging.traffic.loads == [(0, 2), (0, 1), (0, 3)]


def test_a_prefetch_gives_way_to_what_is_waited_for(made):
    staging, _ = made(2)
    load(staging, (0, 1), priority=5)
    load(staging, (0, 2))
    assert not staging.holds((0, 1))
    assert staging.traffic.most_slots == 2


def test_what_computation_stands_still_for_takes_the_slots_of_what_comes_later(made):
    """Program order: expert 1 is computed first, and expert 2 has come first."""
    staging, _ = made(2)
    load(staging, (0, 2))
    staging.request([((0, 1), WAITED_FOR, BOTH)])
    assert staging.wait_for_any([(0, 1)]) == (0, 1)
    staging.used((0, 1))
    assert staging.wait_for_any([(0, 2)]) == (0, 2)
    assert staging.traffic.loads == [(0, 2), (0, 1), (0, 2)]


def test_what_is_dropped_before_it_begins_is_never_loaded(made):
    staging, far = made(8)
    far.go.clear()
    staging.request([((0, 0), WAITED_FOR, BOTH)])
    assert far.begun.wait(5)
    for expert in (1, 2, 3):
        staging.request([((0, expert), 1, BOTH)])
    staging.request([((1, 1), 1, BOTH)])
    staging.keep(0, [0, 3])
    far.go.set()
    staging.wait_for_any([(0, 3)])
    staging.wait_for_any([(1, 1)])
    assert staging.traffic.loads == [(0, 0), (0, 3), (1, 1)]
    staging.clear()
    assert not staging.holds((0, 3))


def test_what_is_dropped_while_it_loads_gives_its_slots_back(made):
    staging, far = made(2)
    far.go.clear()
    staging.request([((0, 0), 1, BOTH)])
    assert far.begun.wait(5)
    staging.clear()
    far.go.set()
    load(staging, (0, 1))
    assert not staging.holds((0, 0))


def test_what_is_asked_for_in_other_pieces_while_it_loads_is_loaded_anew(made):
    """A resident's rest is on its way and dropped; then HB keeps nothing of it, and all of it is asked for."""
    staging, far = made(4)
    far.go.clear()
    staging.request([((0, 3), 5, (REST,))])
    assert far.begun.wait(5)
    staging.keep(0, [])
    threading.Timer(0.2, far.go.set).start()
    load(staging, (0, 3))
    held = staging.pieces((0, 3))
    assert {piece: int(bytes_[0]) for piece, bytes_ in held.items()} == {SLICE: 30, REST: 31}


def test_a_failing_load_raises_where_it_is_waited_for_and_nowhere_else(made):
    staging, _ = made(4, broken=[(0, 1)])
    staging.request([((0, 1), 5, BOTH)])
    load(staging, (0, 2))
    with pytest.raises(ValueError, match="expert 1 is damaged"):
        load(staging, (0, 1))
    assert not staging.copy((0, 1), SLICE, torch.zeros(4, dtype=torch.uint8))
    staging.clear()
    load(staging, (0, 2))


def test_a_piece_is_copied_while_it_is_here(made):
    staging, _ = made(2)
    into = torch.zeros(8, dtype=torch.uint8)
    assert not staging.copy((0, 4), SLICE, into)
    load(staging, (0, 4))
    staging.used((0, 4))
    assert staging.copy((0, 4), REST, into)
    assert into.tolist() == [41] * 8


@pytest.mark.parametrize("slots", [2, 3, 5])
@pytest.mark.parametrize("in_order", [True, False])
def test_any_order_of_requests_ends_and_never_exceeds_the_slots(made, slots, in_order):
    staging, _ = made(slots)
    choose = random.Random(slots)
    for _ in range(30):
        for _ in range(4):
            pieces = choose.choice((BOTH, (REST,)))
            if not staging.holds((0, expert := choose.randrange(6))):
                staging.request([((0, expert), choose.randrange(1, 9), pieces)])
        needed = sorted(choose.sample(range(6), 4))
        staging.keep(0, needed)
        for expert in needed:
            staging.request([((0, expert), WAITED_FOR, BOTH)])
        while needed:
            wanted = needed[:1] if in_order else needed
            _, expert = staging.wait_for_any([(0, e) for e in wanted])
            assert int(staging.pieces((0, expert))[REST][0]) == 10 * expert + 1
            staging.used((0, expert))
            needed.remove(expert)
        if choose.random() < 0.3:
            staging.clear()
    assert staging.traffic.most_slots <= slots


def test_what_was_waited_for_and_did_not_come_first_waits_again_in_its_turn(made):
    """Two slots: of two that were awaited one came; then a third is, and takes the place of the first."""
    staging, _ = made(2)
    staging.request([((0, expert), WAITED_FOR, BOTH) for expert in (1, 2, 3)])
    assert staging.wait_for_any([(0, 1), (0, 2)]) == (0, 1)
    assert staging.wait_for_any([(0, 3)]) == (0, 3)
    staging.used((0, 3))
    assert staging.wait_for_any([(0, 1), (0, 2)]) == (0, 1)
    assert staging.traffic.loads == [(0, 1), (0, 3), (0, 1)]


def test_a_load_that_cannot_begin_leaves_everything_as_it_was(made):
    staging, far = made(4)
    transfer = far.transfer
    far.transfer = None
    with pytest.raises(TypeError):
        staging.request([((0, 1), 5, BOTH)])
    far.transfer = transfer
    staging.clear()
    for expert in (1, 2):
        load(staging, (0, expert))
    assert staging.traffic.most_slots == 4


def test_what_moves_outlives_a_staging_that_was_left_open():
    """Held to a rate at which the load ends when nobody has the slots any more."""
    packed = quantise(torch.ones(64, 64))
    far = HostMemory()
    far.add(0, 0, (packed,))
    far.pace[native.RATE] = 20_000
    staging = Staging(far, 2)
    staging.request([((0, 0), WAITED_FOR, BOTH)])
    reader = weakref.ref(staging._reader)
    del staging
    gc.collect()
    assert reader() is not None
    assert all(transfer.keeps for transfer in reader()._transfers if transfer is not None)
    reader().close()


def test_what_has_not_begun_gives_its_slots_to_what_is_more_urgent(made):
    """One is moving, and slots for one more: whatever comes, the most urgent has them when that has moved."""
    staging, far = made(4)
    far.go.clear()
    staging.request([((0, 0), 9, BOTH)])
    assert far.begun.wait(5)
    for expert, priority in ((1, 9), (2, 5), (3, 7), (4, 4)):
        staging.request([((0, expert), priority, BOTH)])
    assert all(staging.holds((0, expert)) for expert in range(5)), "none is forgotten"
    staging.keep(0, [0, 1, 2, 3])
    far.go.set()
    staging.wait_for_any([(0, 2)])
    for expert in (0, 2, 3):
        staging.wait_for_any([(0, expert)])
        staging.used((0, expert))
    staging.wait_for_any([(0, 1)])
    assert staging.traffic.loads == [(0, 0), (0, 2), (0, 3), (0, 1)]


def test_a_load_is_recorded_as_long_as_it_took_and_wasted_until_it_is_used():
    far, record = Far(), Record()
    record.begin()
    staging = Staging(far, 4, record)
    begun = record.now()
    for expert in (1, 2):
        load(staging, (0, expert))
    staging.pieces((0, 2))
    ended = record.now()
    staging.close()
    first, second = (span for span in record.spans if span.kind == "load")
    assert begun <= first.start <= first.end <= second.start <= second.end <= ended
    assert [(span.layer, span.expert, span.bytes, span.is_wasted) for span in (first, second)] == [
        (0, 1, 68, True),
        (0, 2, 68, False),
    ]
    assert staging.traffic.seconds == pytest.approx((first.end - first.start + second.end - second.start) * 1e-9)


def test_a_closed_one_takes_nothing():
    staging = Staging(Far(), 2)
    staging.close()
    with pytest.raises(RuntimeError, match="closed"):
        staging.request([((0, 0), 1, BOTH)])
