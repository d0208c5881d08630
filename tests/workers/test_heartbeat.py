"""When a process counts as frozen: by its answers, by the CPU that it uses, and by what the kernel says of it."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.workers.heartbeat import Heartbeat, StopWatch, cpu_seconds, has_ended, is_stopped


class Process:
    """One that is looked at every 50 ms. It answers at once where it does, and uses so much of a core."""

    def __init__(self, timeout=10.0, *, answers=True, busy=0.0):
        self.heart = Heartbeat(timeout)
        self.answers, self.busy = answers, busy
        self.now = self.used = 0.0
        self.pings = 0

    def ping(self):
        self.pings += 1
        if self.answers:
            self.heart.record_pong()

    def frozen_within(self, seconds, step=0.05):
        """The seconds until it is frozen; None where it is not after so many."""
        begin = self.now
        while self.now - begin < seconds:
            self.now += step
            self.used += step * self.busy
            if self.heart.is_frozen(self.now, ping=self.ping, used=lambda: self.used):
                return self.now - begin
        return None


def test_a_process_that_answers_is_not_frozen_and_is_pinged_a_few_times_within_the_time_out():
    process = Process()
    assert process.frozen_within(100) is None
    assert 40 <= process.pings <= 60


def test_one_that_neither_answers_nor_works_is_frozen_after_the_time_out():
    assert 10 <= Process(answers=False).frozen_within(100) <= 16


def test_one_that_works_has_longer_but_not_for_ever():
    assert 60 <= Process(answers=False, busy=0.01).frozen_within(100) <= 70


def test_one_that_comes_back_in_time_is_not_frozen():
    process = Process(answers=False)
    assert process.frozen_within(9) is None
    process.heart.record_pong()
    assert process.frozen_within(9) is None


@given(st.floats(min_value=20, max_value=1e6))
def test_what_the_server_itself_slept_through_does_not_count(slept):
    process = Process(answers=False)
    assert process.frozen_within(3) is None
    process.now += slept  # nobody could answer
    assert process.frozen_within(0.05) is None
    process.heart.record_pong()
    process.answers = True
    assert process.frozen_within(100) is None


def test_without_a_time_out_nothing_is_frozen_or_asked():
    process = Process(0.0, answers=False)
    assert process.frozen_within(1000) is None
    assert process.pings == 0
    assert not StopWatch(0.0).is_frozen(1e9, 1)


@pytest.fixture
def sleeper():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def settled(process, stopped):
    while is_stopped(process.pid) != stopped:
        assert process.poll() is None


@pytest.mark.processes
def test_the_kernel_says_what_a_signal_has_stopped(sleeper):
    watch = StopWatch(1.0)
    assert not any(watch.is_frozen(now, sleeper.pid) for now in range(10))
    sleeper.send_signal(19)
    settled(sleeper, stopped=True)
    assert [watch.is_frozen(10 + now / 10, sleeper.pid) for now in range(1, 20)].index(True) >= 7
    sleeper.send_signal(18)
    settled(sleeper, stopped=False)
    assert not any(watch.is_frozen(20 + now, sleeper.pid) for now in range(10))


@pytest.mark.processes
def test_the_kernel_says_what_a_process_has_used_and_whether_it_has_ended(sleeper):
    assert not has_ended(sleeper.pid)
    assert cpu_seconds(sleeper.pid) >= 0.0
    sleeper.kill()
    while not has_ended(sleeper.pid):  # though nobody has waited for it yet
        pass
    sleeper.wait()
    assert has_ended(sleeper.pid)
    assert cpu_seconds(sleeper.pid) == 0.0
    assert not is_stopped(sleeper.pid)
