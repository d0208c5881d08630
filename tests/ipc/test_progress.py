"""How far a worker is, as both sides of its shared memory see it."""

import os

import pytest

from mooring.ipc.arena import anonymous_file
from mooring.ipc.progress import Progress


@pytest.fixture
def both():
    """The server's view and the worker's, of the same memory."""
    fd = anonymous_file(Progress.size(3))
    yield Progress(fd, 3), Progress(fd, 3)
    os.close(fd)


def test_the_server_sees_what_the_worker_has_done_and_started_on_each_channel(both):
    server, worker = both
    worker.start(0, 2, 5)
    worker.start(2, 70_000, 70_001)
    assert [(server.done(n), server.started(n)) for n in range(3)] == [(2, 5), (0, 0), (70_000, 70_001)]


def test_of_a_new_message_nothing_is_started_whatever_was_of_the_last_one(both):
    server, worker = both
    worker.start(1, 3, 3)
    server.send(1, 4)
    assert (server.done(1), server.started(1)) == (0, 0)


def test_a_sender_sees_whether_others_have_something_in_the_worker(both):
    server, other = both
    server.send(0, 2)
    assert not server.wanted_by_others(0)
    assert other.wanted_by_others(1)
    other.send(1, 1)
    assert server.wanted_by_others(0)
    other.send(1, 0)
    assert not server.wanted_by_others(0)
