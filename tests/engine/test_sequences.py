"""The rules of sequences: order, one place, one step at a time, and when a sequence is over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mooring.core.errors import InvalidInput, SequenceLost, SequencesFull
from mooring.core.options import SequenceOptions
from mooring.engine.sequences import Sequences


def one(_job):
    return 1


def made(most=100, waiting=100, **more):
    return Sequences("m", SequenceOptions(enabled=True, max_sequences=most, max_queued_steps=waiting, **more))


def ran(sequences, place, now=0.0, most=8):
    """Run the next call at a place: its jobs, as (job, start, end)."""
    sequences.assign_places([place])
    turns = sequences.take_steps(place, most, one)
    for turn in turns:
        sequences.finish_step(turn.job, now)
    return [(turn.job, turn.start, turn.end) for turn in turns]


def test_steps_run_in_order_and_one_at_a_time():
    sequences = made()
    for job in "abc":
        sequences.admit_step("s", job, 0.0, implicit=True, end=job == "c")
    assert [ran(sequences, 1) for _ in range(4)] == [
        [("a", True, False)],
        [("b", False, False)],
        [("c", False, True)],
        [],
    ]
    assert len(sequences) == 0


def test_many_sequences_share_a_call_and_none_of_them_twice():
    sequences = made()
    for number in range(3):
        for step in range(2):
            sequences.admit_step(f"s{number}", (number, step), 0.0, implicit=True)
    assert [job for job, _, _ in ran(sequences, 1)] == [(0, 0), (1, 0), (2, 0)]
    assert [job for job, _, _ in ran(sequences, 1, most=2)] == [(0, 1), (1, 1)]


def test_a_new_sequence_goes_where_there_are_fewest():
    sequences = made()
    for number in range(8):
        sequences.admit_step(f"s{number}", number, 0.0, implicit=True)
    sequences.assign_places([1, 2, 3, 4])
    assert [sequences.count_at(place) for place in (1, 2, 3, 4)] == [2, 2, 2, 2]


def test_where_a_place_is_full_new_sequences_wait_for_room():
    sequences = made(max_per_worker=1)
    for name in "ab":
        sequences.admit_step(name, name, 0.0, implicit=True)
    assert ran(sequences, 1) == [("a", True, False)]
    assert ran(sequences, 1) == []
    sequences.admit_step("a", "end", 0.0, end=True)
    assert ran(sequences, 1) == [("end", False, True)]
    assert ran(sequences, 1) == [("b", True, False)]


def test_an_unknown_sequence_is_only_started_by_who_may():
    sequences = made()
    with pytest.raises(InvalidInput) as refused:
        sequences.admit_step("s", 1, 0.0)
    assert refused.value.message == (
        "inference request for sequence s to model 'm' must specify the START flag on the first request of the sequence"
    )
    sequences.admit_step("s", 1, 0.0, start=True)
    sequences.admit_step("s", 2, 0.0)


def test_after_the_last_step_a_sequence_can_only_begin_anew():
    sequences = made()
    sequences.admit_step("s", 1, 0.0, start=True, end=True)
    with pytest.raises(InvalidInput, match="must specify the START flag"):
        sequences.admit_step("s", 2, 0.0)
    sequences.admit_step("s", 3, 0.0, implicit=True)
    assert ran(sequences, 1) == [(1, True, True)]
    assert ran(sequences, 1) == [(3, True, False)]
    assert len(sequences) == 1


def test_more_sequences_than_there_may_be_are_refused_and_a_free_slot_is_taken():
    sequences = made(most=2)
    sequences.admit_step("a", 1, 0.0, implicit=True, end=True)
    sequences.admit_step("b", 2, 0.0, implicit=True)
    with pytest.raises(SequencesFull, match="has 2 sequences open"):
        sequences.admit_step("c", 3, 0.0, implicit=True)
    ran(sequences, 1)
    sequences.admit_step("c", 3, 0.0, implicit=True)


def test_more_waiting_steps_than_there_may_be_are_refused_beside_the_one_that_runs():
    sequences = made(waiting=1)
    sequences.admit_step("a", 1, 0.0, implicit=True)
    sequences.assign_places([1])
    sequences.take_steps(1, 8, one)
    sequences.admit_step("a", 2, 0.0)
    with pytest.raises(SequencesFull, match="1 steps waiting"):
        sequences.admit_step("a", 3, 0.0)


def test_a_sequence_that_is_idle_for_too_long_is_over():
    sequences = made(max_idle=10.0)
    sequences.admit_step("a", 1, 0.0, start=True)
    sequences.end_expired(1000.0)  # its step has not run: it is not idle
    ran(sequences, 1, now=5.0)
    sequences.end_expired(14.9)
    sequences.admit_step("a", 2, 14.9)
    ran(sequences, 1, now=15.0)
    sequences.end_expired(24.9)
    assert len(sequences) == 1
    sequences.end_expired(25.0)
    assert len(sequences) == 0
    with pytest.raises(InvalidInput, match="must specify the START flag"):
        sequences.admit_step("a", 3, 26.0)


def test_a_sequence_that_has_lasted_too_long_is_over_once_its_steps_are_answered():
    sequences = made(timeout=10.0)
    sequences.admit_step("a", 1, 0.0, start=True)
    sequences.end_expired(11.0)
    assert len(sequences) == 1
    with pytest.raises(InvalidInput, match="must specify the START flag"):
        sequences.admit_step("a", 2, 12.0)
    ran(sequences, 1, now=12.0)
    assert len(sequences) == 0


def test_what_waits_for_a_state_that_is_lost_is_given_up_and_what_starts_anew_is_not():
    sequences = made()
    sequences.admit_step("a", 1, 0.0, start=True)
    ran(sequences, "dead")
    for job, start in ((2, False), (3, False), (4, True), (5, False)):
        sequences.admit_step("a", job, 0.0, start=start)
    assert sequences.drop_place("dead") == [2, 3]
    assert ran(sequences, "alive") == [(4, True, False)]
    assert ran(sequences, "alive") == [(5, False, False)]


def test_a_lost_sequence_says_so_until_it_is_started_anew():
    sequences = made()
    sequences.admit_step("a", 1, 0.0, implicit=True)
    ran(sequences, "dead")
    assert sequences.drop_place("dead") == []
    for _ in range(2):
        with pytest.raises(SequenceLost, match="the state of sequence 'a'"):
            sequences.admit_step("a", 2, 0.0, implicit=True)
    sequences.admit_step("a", 3, 0.0, start=True)
    sequences.admit_step("a", 4, 0.0)


def test_a_sequence_that_has_not_begun_goes_elsewhere_when_its_place_is_gone():
    sequences = made()
    sequences.admit_step("a", 1, 0.0, implicit=True)
    sequences.assign_places(["dead"])
    assert sequences.drop_place("dead") == []
    assert ran(sequences, "alive") == [(1, True, False)]


def test_a_step_that_was_taken_and_did_not_run_is_the_next_one_again():
    sequences = made()
    for job in (1, 2):
        sequences.admit_step("a", job, 0.0, implicit=True)
    sequences.assign_places(["dead"])
    sequences.take_steps("dead", 8, one)
    sequences.return_step(1)
    assert sequences.drop_place("dead") == []
    assert ran(sequences, "alive") == [(1, True, False)]
    assert ran(sequences, "alive") == [(2, False, False)]


def test_a_withdrawn_first_step_leaves_the_start_to_the_next_that_needs_none():
    sequences = made()
    for job in (1, 2):
        sequences.admit_step("a", job, 0.0, implicit=True)
    assert sequences.withdraw_step(1, 0.0) == []
    assert ran(sequences, 1) == [(2, True, False)]
    sequences.admit_step("a", 3, 0.0, start=True, implicit=True)
    assert sequences.withdraw_step(3, 0.0) == []
    sequences.admit_step("a", 4, 0.0, implicit=True)
    assert ran(sequences, 1) == [(4, True, False)]


def test_a_step_that_says_no_start_does_not_take_the_start_of_a_withdrawn_one():
    sequences = made()
    sequences.admit_step("a", 1, 0.0, start=True)
    ran(sequences, 1)
    sequences.admit_step("a", 2, 0.0, start=True, implicit=True)
    assert sequences.withdraw_step(2, 0.0) == []
    with pytest.raises(InvalidInput, match="must specify the START flag"):
        sequences.admit_step("a", 3, 0.0)
    sequences.admit_step("a", 4, 0.0, implicit=True)
    assert ran(sequences, 1) == [(4, True, False)]


@pytest.mark.parametrize("reason", ["withdrawn", "refused"])
def test_steps_that_say_no_start_are_given_up_with_the_one_that_was_to_start_them(reason):
    sequences = made()
    sequences.admit_step("a", 0, 0.0, start=True)
    ran(sequences, 1)
    for job, start in ((1, True), (2, False), (3, False), (4, True), (5, False)):
        sequences.admit_step("a", job, 0.0, start=start)
    if reason == "refused":
        sequences.take_steps(1, 8, one)
        assert sequences.refuse_step(1, 0.0) == [2, 3]
    else:
        assert sequences.withdraw_step(1, 0.0) == [2, 3]
    assert ran(sequences, 1) == [(4, True, False)]
    assert ran(sequences, 1) == [(5, False, False)]
    assert len(sequences) == 1


def test_a_refused_first_step_leaves_no_sequence_open():
    sequences = made(max_per_worker=1)
    sequences.admit_step("a", 1, 0.0, start=True)
    sequences.admit_step("b", 2, 0.0, start=True)
    sequences.assign_places([1])
    sequences.take_steps(1, 8, one)
    assert sequences.refuse_step(1, 0.0) == []
    with pytest.raises(InvalidInput, match="sequence a to model 'm' must specify the START flag"):
        sequences.admit_step("a", 3, 0.0)
    assert ran(sequences, 1) == [(2, True, False)]


def test_a_refused_last_step_can_be_sent_again():
    sequences = made()
    sequences.admit_step("a", 1, 0.0, start=True)
    ran(sequences, 1)
    sequences.admit_step("a", 2, 0.0, end=True)
    sequences.take_steps(1, 8, one)
    sequences.refuse_step(2, 0.0)
    sequences.admit_step("a", 3, 0.0, end=True)
    assert ran(sequences, 1) == [(3, False, True)]
    assert len(sequences) == 0


def test_the_backlog_is_served_in_the_order_in_which_it_came():
    sequences = made(most=0, max_per_worker=2)
    jobs = list("abcdef")
    for job in jobs:
        sequences.admit_step(job, job, 0.0, start=True, end=True)
    sequences.withdraw_step(jobs[3], 0.0)
    assert sequences.backlog == 5
    served = [[job for job, _, _ in ran(sequences, 1)] for _ in range(3)]
    assert served == [["a", "b"], ["c", "e"], ["f"]]
    assert sequences.backlog == 0


def test_a_sequence_that_begins_anew_under_its_name_waits_behind_those_that_wait():
    sequences = made(most=0, max_per_worker=1)
    for job, name in ((1, "a"), (2, "a"), (3, "b"), (4, "c")):
        sequences.admit_step(name, job, 0.0, start=True, end=True)
    assert [ran(sequences, 1)[0][0] for _ in range(4)] == [1, 3, 4, 2]


def test_a_sequence_that_loses_its_place_unbegun_comes_before_the_backlog():
    sequences = made(most=0, max_per_worker=2)
    for number, name in enumerate("abcd"):
        sequences.admit_step(name, name, float(number), start=True)
    sequences.assign_places(["dead"])
    assert sequences.drop_place("dead") == []
    assert [job for job, _, _ in ran(sequences, "alive")] == ["a", "b"]


def test_a_new_sequence_has_the_lowest_slot_that_is_free():
    sequences = made(max_per_worker=3)
    for name in "abc":
        sequences.admit_step(name, name, 0.0, start=True, end=name == "b")
    sequences.assign_places([1])
    assert [sequences.slot_of(job) for job in "abc"] == [0, 1, 2]
    ran(sequences, 1)
    sequences.admit_step("d", "d", 0.0, start=True)
    sequences.assign_places([1])
    assert sequences.slot_of("d") == 1


def test_a_withdrawn_last_step_ends_the_sequence_all_the_same():
    sequences = made()
    sequences.admit_step("a", 1, 0.0, implicit=True)
    sequences.admit_step("a", 2, 0.0, end=True)
    sequences.withdraw_step(2, 0.0)
    assert len(sequences) == 1
    ran(sequences, 1)
    assert len(sequences) == 0


def test_a_job_of_no_sequence_takes_no_slot():
    sequences = made(most=1)
    sequences.admit_step("a", 1, 0.0, implicit=True)
    sequences.admit_alone("lone", 0.0)
    assert {job for job, _, _ in ran(sequences, 1)} == {1, "lone"}
    assert sequences.count_at(1) == 1


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), most=st.integers(1, 8))
def test_a_call_has_at_most_so_many_rows_or_one_step(sizes, most):
    sequences = made()
    for number, size in enumerate(sizes):
        sequences.admit_step(str(number), (number, size), 0.0, implicit=True)
    sequences.assign_places([1])
    seen = 0
    while turns := sequences.take_steps(1, most, lambda job: job[1]):
        seen += len(turns)
        assert len(turns) == 1 or sum(turn.job[1] for turn in turns) <= most
    assert seen == len(sizes)


class Rules(RuleBasedStateMachine):
    """Whatever comes in whatever order, a model that keeps a count for every sequence never miscounts."""

    places = ("w1", "w2", "w3")
    names = st.sampled_from("abcdefghi")

    def __init__(self):
        super().__init__()
        self.sequences = made(most=0, waiting=3, max_idle=50.0, max_per_worker=2)
        self.now = 0.0
        self.number = 0
        self.waiting = {}  # job -> sequence
        self.running = {}  # job -> (place, sequence)
        self.states = {}  # (place, slot) -> the sequence that has it, and the last job seen there
        self.explicit = {}  # job -> whether it must not start a sequence of itself

    @rule(name=names, start=st.booleans(), end=st.booleans(), implicit=st.booleans())
    def come(self, name, start, end, implicit):
        self.number += 1
        before = len(self.sequences)
        try:
            self.sequences.admit_step(name, self.number, self.now, start=start, end=end, implicit=implicit)
        except (InvalidInput, SequencesFull, SequenceLost):
            assert len(self.sequences) == before
        else:
            self.waiting[self.number] = name
            self.explicit[self.number] = not start and not implicit

    @rule(place=st.sampled_from(places), most=st.integers(1, 3))
    def leave(self, place, most):
        if any(where == place for where, _ in self.running.values()):
            return  # a worker has one call at a time
        self.sequences.assign_places(list(self.places))
        turns = self.sequences.take_steps(place, most, one)
        names = [self.waiting[turn.job] for turn in turns]
        assert len(set(names)) == len(names)
        for turn, name in zip(turns, names, strict=True):
            assert turn.job == min(job for job, whose in self.waiting.items() if whose == name)
            slot = self.sequences.slot_of(turn.job)
            assert slot < 2, "a worker has more sequences than it may"
            if turn.start:
                assert not self.explicit[turn.job], "a step began a sequence that did not say so"
                self.states[place, slot] = name, 0
            owner, last = self.states[place, slot]
            assert owner == name, "a step ran where another sequence's state is"
            assert last < turn.job
            self.states[place, slot] = name, turn.job
            self.running[turn.job] = place, name
            del self.waiting[turn.job]
        slots = [self.sequences.slot_of(turn.job) for turn in turns]
        assert len(set(slots)) == len(slots)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def answer(self, data):
        job = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[job]
        self.sequences.finish_step(job, self.now)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def refuse(self, data):
        job = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[job]
        for lost in self.sequences.refuse_step(job, self.now):
            del self.waiting[lost]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def go_away(self, data):
        job = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[job]
        for lost in self.sequences.withdraw_step(job, self.now):
            del self.waiting[lost]

    @rule(place=st.sampled_from(places))
    def die(self, place):
        for job, (where, _) in list(self.running.items()):
            if where == place:
                del self.running[job]
                self.sequences.finish_step(job, self.now)
        self.states = {key: job for key, job in self.states.items() if key[0] != place}
        for job in self.sequences.drop_place(place):
            del self.waiting[job]

    @rule(seconds=st.floats(1, 100))
    def grow_old(self, seconds):
        self.now += seconds
        self.sequences.end_expired(self.now)

    @invariant()
    def nobody_waits_while_a_slot_is_free(self):
        self.sequences.assign_places(list(self.places))
        held = [self.sequences.count_at(place) for place in self.places]
        assert max(held) <= 2
        assert not self.sequences.backlog or min(held) == 2

    def teardown(self):
        for _ in range(100):
            for place in self.places:
                for job in [job for job, (where, _) in self.running.items() if where == place]:
                    del self.running[job]
                    self.sequences.finish_step(job, self.now)
                self.leave(place, 3)
            self.grow_old(100.0)
        assert not self.waiting, "a step was forgotten"
        assert len(self.sequences) == 0, "a sequence was forgotten"


TestRules = Rules.TestCase
