"""The orders of a template and its answers, with a fork that makes no process."""

import errno
import os
import signal
import socket

import pytest

from mooring.ipc.template_protocol import (
    FORK_FAILED,
    FORKED,
    LENGTH,
    MODEL,
    ORDER,
    PING,
    PONG,
    RECORD,
    TRIAL,
)
from mooring.worker_process import template


class Stage:
    """The two ends of a control socket. ``descriptors`` are sent with every order of a process."""

    def __init__(self, monkeypatch):
        self.server, self.control = socket.socketpair()
        self.children = template._Children()
        self.killed = []
        self.forks = []
        monkeypatch.setattr(template.os, "fork", self.fork)
        monkeypatch.setattr(template.os, "killpg", lambda pid, number: self.killed.append((pid, number)))

    def fork(self):
        if isinstance(self.forks[0], OSError):
            raise self.forks.pop(0)
        return self.forks.pop(0)

    def order(self, what):
        """What the template answers to an order; and whether it closed its copy of the descriptor."""
        read, write = os.pipe()
        with os.fdopen(read, "rb", buffering=0) as reading:
            descriptors = [] if what == PING else [write]
            socket.send_fds(self.server, [ORDER.pack(what)], descriptors)
            os.close(write)
            assert template._fork_child(self.control, (), None, self.children)
            assert reading.read(1) == b"", "a descriptor was left open"
        return RECORD.unpack(self.server.recv(RECORD.size))


@pytest.fixture
def stage(monkeypatch):
    stage = Stage(monkeypatch)
    yield stage
    stage.server.close()
    stage.control.close()


def test_a_ping_is_answered_without_a_fork(stage):
    assert stage.order(PING) == (PONG, os.getpid(), 0)


def test_a_new_process_is_told_by_its_pid_and_its_descriptors_are_its_own(stage):
    stage.forks = [41]
    assert stage.order(2) == (FORKED, 41, 0)


def test_where_there_is_no_room_the_template_says_so_and_goes_on(stage):
    stage.forks = [OSError(errno.EAGAIN, "no room"), 42]
    assert stage.order(1) == (FORK_FAILED, 0, errno.EAGAIN)
    assert stage.order(1) == (FORKED, 42, 0)


def test_workers_and_trials_end_with_the_template_and_a_template_of_a_model_by_itself(stage):
    stage.forks = [41, 42, 43]
    for what in (1, TRIAL, MODEL):
        stage.order(what)
    stage.children.kill_all()
    assert sorted(stage.killed) == [(41, signal.SIGKILL), (42, signal.SIGKILL)]
    stage.children.kill_all()
    assert len(stage.killed) == 2


def test_the_end_of_the_server_is_the_end_of_orders(stage):
    stage.server.close()
    assert not template._fork_child(stage.control, (), None, stage.children)


def test_an_order_to_a_server_that_is_gone_meanwhile_is_no_fault(stage):
    stage.forks = [41]
    socket.send_fds(stage.server, [ORDER.pack(1)], [])
    stage.server.close()
    assert template._fork_child(stage.control, (), None, stage.children)


@pytest.mark.parametrize(("text", "names"), [("", []), ("json\nstring", ["json", "string"])])
def test_the_modules_to_import_come_first(stage, text, names):
    stage.server.sendall(LENGTH.pack(len(text)) + text.encode() + ORDER.pack(PING))
    assert template._receive_modules(stage.control) == names
    assert stage.control.recv(ORDER.size) == ORDER.pack(PING)


def test_a_server_that_says_nothing_wants_no_template(stage):
    stage.server.close()
    with pytest.raises(SystemExit):
        template._receive_modules(stage.control)
