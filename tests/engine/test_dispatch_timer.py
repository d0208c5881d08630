"""When a scheduler looks for work: once a turn, and once at the end of a wait."""

from fakes import FakeClock, FakeLoop

from mooring.engine.dispatch_timer import DispatchTimer


class Calls:
    def __init__(self):
        self.times = []
        self.loop = FakeLoop(FakeClock(0.0))
        self.timer = DispatchTimer(self._dispatch, self.loop)

    def _dispatch(self):
        self.timer.pending = False
        self.times.append(self.loop.clock.now)


def test_however_often_it_is_asked_for_in_a_turn_there_is_one_dispatch_at_its_end():
    calls = Calls()
    calls.timer.dispatch_soon()
    calls.timer.dispatch_soon()
    assert (calls.times, calls.timer.pending) == ([], True)
    calls.loop.turn()
    assert (calls.times, calls.timer.pending) == ([0.0], False)


def test_a_wait_ends_once_and_later_ones_that_are_asked_for_meanwhile_do_not_prolong_it():
    calls = Calls()
    calls.timer.dispatch_later(1.0)
    calls.timer.dispatch_later(5.0)
    calls.loop.advance(10)
    assert calls.times == [1.0]


def test_after_a_wait_there_may_be_another():
    calls = Calls()
    calls.timer.dispatch_later(1.0)
    calls.loop.advance(1)
    calls.timer.dispatch_later(1.0)
    calls.loop.advance(1)
    assert calls.times == [1.0, 2.0]
