"""The server's side of a template process, which is the test: orders go out, and records come back."""

import asyncio
import errno
import os
import signal
import socket

import pytest
from model_kit import model_spec
from virtual_time import set_clock, turns, virtual_time
from worker_fakes import FakeOutput

from mooring.core.service import LoadContext
from mooring.ipc.messages import Load
from mooring.ipc.template_protocol import (
    ENDED,
    FORK_FAILED,
    FORKED,
    MODEL,
    ORDER,
    PING,
    PONG,
    READY,
    RECORD,
    REFUSED,
)
from mooring.workers import local as local_module
from mooring.workers.heartbeat import Deadlines
from mooring.workers.local import ForkedProcess, LibraryTemplate, StartPermit

LOAD = Load(model_spec(backend="x"), LoadContext())


class FakeLibraryProcess:
    """The process of a template that imports libraries."""

    pid = 3000

    def __init__(self):
        self.control, self.theirs = socket.socketpair()
        self.ended = False

    def take_output(self):
        read, write = os.pipe()
        os.close(write)
        return read

    def end(self):
        self.ended = True


class Stage:
    """A template. ``killed`` are the pids that were sent SIGKILL."""

    def __init__(self, monkeypatch, heartbeat=10.0):
        self.killed = []
        monkeypatch.setattr(local_module.os, "kill", lambda pid, number: self.killed.append((pid, number)))
        monkeypatch.setattr(local_module, "cpu_seconds", lambda _pid: 1.0)
        set_clock(monkeypatch, local_module)
        self.process = FakeLibraryProcess()
        self.null = os.open(os.devnull, os.O_RDONLY)
        self.descriptors = []  # that came with the orders
        self.loop = asyncio.get_running_loop()
        self.template = LibraryTemplate(self.process, Deadlines(heartbeat, 60.0))
        self.loop.closers.append(self.close)

    def close(self):
        self.template.close()
        self.process.theirs.close()
        for fd in [self.null, *self.descriptors]:
            os.close(fd)

    async def say(self, *records):
        self.process.theirs.sendall(b"".join(RECORD.pack(*record) for record in records))
        await turns()

    def order(self):
        """Ask for a worker of one channel."""
        process = ForkedProcess(FakeOutput())
        self.template.fork(process, [None], [self.null])
        return process

    def orders(self):
        """What the template was asked for since the last call."""
        self.process.theirs.setblocking(False)
        found = []
        try:
            while True:
                order, descriptors, _, _ = socket.recv_fds(self.process.theirs, ORDER.size, 8)
                self.descriptors += descriptors
                found += ORDER.unpack(order)
        except BlockingIOError:
            return found

    async def pass_time(self, seconds, *, answer=False):
        for _ in range(int(seconds)):
            await asyncio.sleep(1.0)
            self.template.check(self.loop.time())
            if answer and PING in self.orders():
                await self.say((PONG, 3000, 0))
        await turns()


@virtual_time
async def test_a_worker_has_its_pid_when_the_template_has_forked_it_and_its_status_when_it_has_ended(
    monkeypatch,
):
    stage = Stage(monkeypatch)
    first, second = stage.order(), stage.order()
    assert stage.orders() == [1, 1]
    await stage.say((READY, 3000, 0), (FORKED, 41, 0), (FORKED, 42, 0), (ENDED, 42, -9))
    await stage.template.ready()
    assert (first.pid, first.status) == (41, None)
    assert (second.pid, second.status, second.ended.is_set()) == (42, -9, True)


@virtual_time
async def test_records_are_read_whole_however_they_come(monkeypatch):
    stage = Stage(monkeypatch)
    process = stage.order()
    record = RECORD.pack(FORKED, 41, 0)
    stage.process.theirs.sendall(record[:5])
    await turns()
    assert process.pid == 0
    stage.process.theirs.sendall(record[5:])
    await turns()
    assert process.pid == 41


@virtual_time
async def test_a_worker_that_could_not_be_forked_says_why_and_the_next_one_is_not_taken_for_it(monkeypatch):
    stage = Stage(monkeypatch)
    first, second = stage.order(), stage.order()
    await stage.say((FORK_FAILED, 0, errno.EAGAIN), (FORKED, 41, 0))
    assert first.fault.startswith("could not be forked: ")
    assert (first.status, second.pid) == (1, 41)


@virtual_time
async def test_a_worker_that_is_killed_before_its_pid_is_known_is_killed_then(monkeypatch):
    stage = Stage(monkeypatch)
    process = stage.order()
    process.kill()
    assert stage.killed == []
    await stage.say((FORKED, 41, 0))
    assert stage.killed == [(41, signal.SIGKILL)]


@virtual_time
async def test_with_a_template_all_its_workers_end_and_nothing_more_is_asked_of_it(monkeypatch):
    stage = Stage(monkeypatch)
    first, second = stage.order(), stage.order()
    await stage.say((READY, 3000, 0), (FORKED, 41, 0))
    stage.process.theirs.close()
    await turns()
    assert (first.status, second.status, stage.process.ended) == (-9, -9, True)
    assert stage.template.closed
    with pytest.raises(OSError, match="has ended"):
        stage.order()


@virtual_time
async def test_a_template_that_answers_pings_lives(monkeypatch):
    stage = Stage(monkeypatch)
    await stage.say((READY, 3000, 0))
    await stage.pass_time(100, answer=True)
    assert not stage.template.dead


@virtual_time
async def test_a_frozen_template_forks_nothing_more_and_its_workers_serve_until_others_take_their_place(
    monkeypatch,
):
    stage = Stage(monkeypatch)
    monkeypatch.setattr(local_module, "has_ended", lambda pid: pid in ended)
    ended = set()
    forked, waiting = stage.order(), stage.order()
    await stage.say((READY, 3000, 0), (FORKED, 41, 0))
    await stage.pass_time(30)
    assert (stage.template.dead, stage.process.ended) == (True, False)
    assert (forked.stale, forked.status, stage.killed) == (True, None, [])
    assert (waiting.stale, waiting.status) == (True, -9)
    await stage.say((FORKED, 43, 0))  # it went on after all
    assert stage.killed == [(43, signal.SIGKILL)]
    ended.add(41)
    await stage.pass_time(1)
    assert stage.template.closed
    assert stage.process.ended


@virtual_time
async def test_a_template_has_its_time_to_import_and_is_given_up_after_it(monkeypatch):
    stage = Stage(monkeypatch, heartbeat=0.0)
    await stage.pass_time(59)
    assert not stage.template.dead
    await stage.pass_time(2)
    await stage.template.ready()
    assert stage.template.dead


@virtual_time
async def test_a_template_of_a_model_is_ready_by_its_own_socket_and_dies_with_it(monkeypatch):
    stage = Stage(monkeypatch)
    model = stage.template.fork_model(LOAD, {"model": "m"})
    assert stage.orders() == [MODEL]
    await stage.say((FORKED, 41, 0))
    _, fd = stage.descriptors
    with socket.socket(fileno=stage.descriptors.pop()) as theirs:
        assert fd == theirs.fileno()
        theirs.sendall(RECORD.pack(READY, 41, 0))
        await model.ready()
        assert (model.pid, model.dead, model.refusal) == (41, False, "")
    await turns()
    assert (model.dead, model.refusal) == (True, "its template has ended")
    assert stage.killed == [(41, signal.SIGKILL)]


@virtual_time
async def test_a_refusal_to_be_forked_has_its_reason_behind_it(monkeypatch):
    stage = Stage(monkeypatch)
    text = b"loading it started 3 threads"
    stage.process.theirs.sendall(RECORD.pack(REFUSED, 41, len(text)) + text[:9])
    await turns()
    stage.process.theirs.sendall(text[9:])
    stage.process.theirs.close()
    await turns()
    await stage.template.ready()
    assert stage.template.refusal == text.decode()


@virtual_time
async def test_a_turn_is_given_back_once():
    turns_left = asyncio.Semaphore(1)
    await turns_left.acquire()
    turn = StartPermit(turns_left)
    turn.end()
    turn.end()
    await asyncio.sleep(6.0)
    assert turns_left._value == 1
