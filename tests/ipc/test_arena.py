"""The arena: no two slots overlap, whatever is freed can be had again, and a full arena still serves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.buffers import LARGE
from mooring.ipc.arena import Arena, BuddyAllocator


@given(st.lists(st.one_of(st.integers(1, 20), st.none()), max_size=200), st.randoms())
def test_blocks_never_overlap_and_all_memory_comes_back(orders, random):
    buddy = BuddyAllocator(total=64, smallest=1)
    taken: dict[int, int] = {}
    for size in orders:
        if size is None:
            if taken:
                offset = random.choice(sorted(taken))
                del taken[offset]
                buddy.give_back(offset)
            continue
        offset = buddy.take(size)
        if offset is None:
            continue
        assert 0 <= offset <= 64 - size
        for other, length in taken.items():
            assert offset + size <= other or other + length <= offset
        taken[offset] = size
    assert buddy.blocks_in_use == len(taken)
    for offset in taken:
        buddy.give_back(offset)
    assert buddy.take(64) == 0


def test_a_block_given_back_twice_is_an_error():
    buddy = BuddyAllocator(total=4, smallest=1)
    offset = buddy.take(1)
    buddy.give_back(offset)
    with pytest.raises(KeyError):
        buddy.give_back(offset)


def test_the_whole_arena_can_be_one_slot():
    arena = Arena(4 * LARGE)
    buffer = arena.allocate(arena.size)
    assert buffer.slot is not None
    buffer.release()
    assert arena.slots_in_use == 0


def test_a_full_arena_lends_memory_of_the_heap():
    arena = Arena(2 * LARGE)
    first = arena.allocate(2 * LARGE)
    second = arena.allocate(100)
    assert first.slot is not None
    assert second.slot is None
    second.view[:] = b"x" * 100
    second.release()
    first.release()
    assert arena.slots_in_use == 0


def test_a_second_release_does_not_free_somebody_elses_slot():
    arena = Arena(LARGE)
    first = arena.allocate(LARGE)
    first.release()
    second = arena.allocate(LARGE)
    first.release()
    assert arena.slots_in_use == 1
    second.release()


def test_a_shortened_buffer_owns_the_slot_alone():
    arena = Arena(LARGE)
    whole = arena.allocate(LARGE)
    part = whole.shortened(10)
    whole.release()
    assert len(part) == 10
    assert part.slot is not None
    assert part.slot.size == 10
    assert arena.slots_in_use == 1
    part.release()
    assert arena.slots_in_use == 0


def test_the_slot_used_last_is_the_next_of_its_size():
    arena = Arena(64 * LARGE)
    first, second = arena.allocate(3 * LARGE), arena.allocate(4 * LARGE)
    places = first.slot.offset, second.slot.offset
    first.release()
    second.release()
    assert (arena.allocate(4 * LARGE).slot.offset, arena.allocate(3 * LARGE).slot.offset) == places[::-1]


def test_slots_given_back_make_room_for_a_larger_one():
    buddy = BuddyAllocator(total=8, smallest=1)
    blocks = [buddy.take(1) for _ in range(8)]
    for block in blocks:
        buddy.give_back(block)
    assert sorted([buddy.take(4), buddy.take(4)]) == [0, 4]
    assert buddy.take(1) is None
