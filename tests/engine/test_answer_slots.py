"""When requests take memory for their answers along, and how much."""

import pytest
from fakes import FakeMemory

from mooring.engine.answer_slots import AnswerSlots


@pytest.fixture
def memory():
    return FakeMemory()


@pytest.fixture
def slots(memory):
    return AnswerSlots(memory.allocate)


def test_nothing_is_lent_before_an_answer_was_large(slots):
    assert slots.size == 0


def test_after_a_large_answer_slots_have_the_largest_size_that_was_seen(slots, memory):
    slots.note_large_answer(100_000)
    slots.note_large_answer(300_000)
    slots.note_large_answer(200_000)
    assert len(slots.lend_slot()) == 300_000


def test_where_memory_is_full_none_is_lent(slots, memory):
    slots.note_large_answer(100_000)
    memory.full = True
    assert slots.lend_slot() is None


def test_a_slot_that_comes_back_empty_is_released(slots, memory):
    slots.note_large_answer(100_000)
    slots.return_unused(slots.lend_slot())
    assert memory.out == 0


def test_after_thirty_two_unused_slots_in_a_row_and_one_more_nothing_is_lent(slots):
    slots.note_large_answer(100_000)
    for _ in range(32):
        slots.return_unused(slots.lend_slot())
    assert slots.size == 100_000
    slots.return_unused(slots.lend_slot())
    assert slots.size == 0


def test_a_large_answer_in_between_starts_the_count_anew(slots):
    slots.note_large_answer(100_000)
    for _ in range(32):
        slots.return_unused(slots.lend_slot())
    slots.note_large_answer(1)
    slots.return_unused(slots.lend_slot())
    assert slots.size == 100_000
