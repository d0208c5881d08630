"""The account of what request bodies take: what has come counts, what was announced does not, and nothing is lost."""

import gc
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core import buffers
from mooring.core.buffers import HeapAllocator
from mooring.core.errors import BodyMemoryFull
from mooring.core.memory import RESERVE, BodyMemory, Claim

LIMIT = 10_000_000


def allocator(limit=LIMIT):
    return HeapAllocator(BodyMemory(limit))


def test_what_is_announced_takes_a_small_reserve_and_no_more():
    memory = allocator()
    held = [memory.expect(LIMIT // 2) for _ in range(3)]
    assert memory.memory.used == 3 * RESERVE
    assert memory.allocate(LIMIT // 2)
    assert len(held) == 3


def test_what_comes_counts_once_the_reserve_is_used_up():
    memory = allocator()
    body = memory.expect(1_000_000)
    body.received(RESERVE - 1)
    assert memory.memory.used == RESERVE
    body.received(1_000_000 - RESERVE + 1)
    assert memory.memory.used == 1_000_000


def test_a_body_that_finds_no_room_is_refused_when_it_is_announced_or_as_it_comes():
    memory = allocator()
    first, second = memory.expect(LIMIT - RESERVE), memory.expect(5_000_000)
    first.received(LIMIT - RESERVE)
    with pytest.raises(BodyMemoryFull, match=rf"{LIMIT} of {LIMIT} bytes are taken \(max_body_memory\)"):
        memory.expect(100)
    with pytest.raises(BodyMemoryFull, match="memory for request bodies has no room"):
        second.received(RESERVE + 1)
    first.release()
    second.received(RESERVE + 1)


def test_a_body_that_can_never_fit_is_told_so():
    with pytest.raises(BodyMemoryFull, match="more than all request bodies together may take"):
        allocator().expect(LIMIT + 1)


def test_no_limit_is_none():
    assert allocator(0).expect(10 * LIMIT)


PARTS = {
    "whole": lambda whole: whole,
    "tail": lambda whole: whole.tail(10),
    "shortened": lambda whole: whole.shortened(10),
    "tail of a tail": lambda whole: whole.tail(10).tail(10),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_whoever_holds_a_part_of_it_keeps_it_counted(part):
    memory = allocator()
    whole = memory.allocate(1_000_000)
    kept = part(whole)
    del whole
    gc.collect()
    assert memory.memory.used == 1_000_000
    kept.release()
    assert memory.memory.used == 0
    kept.release()
    assert memory.memory.used == 0


def test_what_nobody_holds_any_more_counts_no_more():
    memory = allocator()
    body = memory.expect(1_000_000)
    body.received(500_000)
    del body
    assert memory.memory.used == 0


def test_memory_that_the_system_does_not_give_leaves_nothing_counted(monkeypatch):
    monkeypatch.setattr(buffers, "heap", lambda _size: (_ for _ in ()).throw(MemoryError))
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    memory = allocator()
    with pytest.raises(MemoryError):
        memory.expect(1_000_000)
    gc.collect()
    assert memory.memory.used == 0
    assert not unraisable


@given(st.lists(st.tuples(st.sampled_from(["grow", "shrink", "release"]), st.integers(0, 3000)), max_size=20))
def test_the_account_is_the_sum_of_its_claims(steps):
    account = BodyMemory(50_000)
    claims = [Claim(account), Claim(account, announced=2000), Claim(account)]
    for number, (step, size) in enumerate(steps):
        claim = claims[number % 3]
        try:
            claim.release() if step == "release" else getattr(claim, step)(size)
        except BodyMemoryFull:
            assert account.used + size > account.limit
        assert account.used == sum(each.size for each in claims) <= account.limit
    claims.clear()
    claim = None
    assert account.used == 0
