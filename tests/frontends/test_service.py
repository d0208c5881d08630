"""The service of a frontend process: gRPC calls that it forwards, with both ends of the link in this process."""

import asyncio
import socket
import time
from unittest.mock import Mock

import pytest

from mooring.core.memory import MemoryUse
from mooring.core.timing import RequestTiming
from mooring.engine.admission import NO_LOAD, QueueLoad
from mooring.frontends import messages
from mooring.frontends.service import FrontendService
from mooring.frontends.supervisor import FrontendSupervisor
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics
from mooring.tokens import Access, Token
from mooring.web.grpc.headers import parse_head
from mooring.web.grpc.memory_call import MemoryCall
from mooring.web.grpc.status import Status

PATIENCE = 5.0
METADATA = [(b"content-type", b"application/grpc"), (b"own", b"value"), (b"authorization", b"Bearer token")]


async def until(reached):
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.005)


class Methods:
    """In place of the first process's gRPC server: remembers what it is to run, and answers when a test says so."""

    def __init__(self):
        self.calls = []
        self.cancelled = 0

    def run(self, path, metadata, message, deadline, receive, end_received, timing):
        self.calls.append((path, metadata, message, deadline))
        self.receive, self.end, self.timing = receive, end_received, timing
        return self

    def cancel(self):
        self.cancelled += 1


class Commands:
    """What the first process has told the frontend to do."""

    def __init__(self):
        self.tokens, self.accepting, self.migrations = [], [], []

    def set_tokens(self, tokens):
        self.tokens.append(tokens)

    def set_accepting(self, listeners):
        self.accepting.append(listeners)

    def migrate(self, share, mark):
        self.migrations.append((share, mark))


class Sides:
    """A supervisor and the service of its only frontend."""

    def __init__(self):
        self.methods, self.commands = Methods(), Commands()
        metrics = Metrics("prometheus", system=False)
        self.supervisor = FrontendSupervisor(1, Arena(65_536), metrics)
        self.supervisor._run_call = self.methods.run
        self.process = self.supervisor.processes[0]
        # In place of its process, which would inherit these two.
        link, descriptors = (socket.socket(fileno=each.detach()) for each in self._theirs())
        self.service = FrontendService(1, link, descriptors, Arena(65_536), metrics, commands=self.commands)
        self.answers, self.ends = [], []

    def _theirs(self):
        return self.process._their_link.dup(), self.process._their_descriptors.dup()

    def ask(self, message=b"message", deadline=None, timing=None):
        own = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.B/C")]
        call = MemoryCall(parse_head([*own, *METADATA]), message, deadline, print, print, timing)
        return self.service.relay_call(call, message, self.answers.append, lambda *end: self.ends.append(end))


@pytest.fixture
async def sides():
    found = Sides()
    yield found
    found.service.close()
    found.service._descriptors.close()
    await found.supervisor.close()


async def test_a_call_reaches_the_first_process_as_it_is_and_its_answer_comes_back(sides):
    sides.ask(b"m" * 200_000, deadline=123.5)
    await until(lambda: sides.methods.calls)
    assert sides.methods.calls == [("/a.B/C", METADATA, b"m" * 200_000, 123.5)]
    sides.methods.receive(b"one")
    sides.methods.receive(b"a" * 200_000)
    sides.methods.end(Status.NOT_FOUND, "no such thing")
    await until(lambda: sides.ends)
    assert sides.answers == [b"one", b"a" * 200_000]
    assert sides.ends == [(Status.NOT_FOUND, "no such thing")]
    assert not sides.process.tickets
    assert not sides.service._busy()


async def test_what_a_call_took_in_the_first_process_comes_back_where_its_client_asks(sides):
    timing = RequestTiming()
    sides.ask(timing=timing)
    await until(lambda: sides.methods.calls)
    assert sides.methods.timing is not None
    sides.methods.timing.note_call(1, 1.0, 2.0, (3.0, 5.0, 4, 1))
    sides.methods.end(Status.OK, "")
    await until(lambda: sides.ends)
    parts = timing.measure(6.0)
    assert (parts.queue, parts.batch, parts.model, parts.rows) == (1.0, 1.0, 2.0, 4)
    sides.ask()
    await until(lambda: len(sides.methods.calls) == 2)
    assert sides.methods.timing is None


async def test_a_call_that_nobody_waits_for_is_cancelled_in_the_first_process(sides):
    ticket = sides.ask()
    await until(lambda: sides.methods.calls)
    assert sides.service._busy()
    ticket.cancel()
    ticket.cancel()
    await until(lambda: sides.methods.cancelled)
    sides.methods.receive(b"too late")
    sides.methods.end(Status.OK, "")
    sides.ask()
    await until(lambda: len(sides.methods.calls) == 2)  # what was sent before it has come as well
    await asyncio.sleep(0.05)
    assert (sides.answers, sides.ends, sides.methods.cancelled) == ([], [], 1)


async def test_calls_of_a_frontend_that_is_gone_are_cancelled(sides):
    sides.ask()
    await until(lambda: sides.process.tickets)
    sides.process.forget()
    assert sides.methods.cancelled == 1
    sides.methods.end(Status.OK, "")  # nobody is there to be told


async def test_a_frontend_does_what_the_first_process_says_of_connections_and_tokens(sides):
    tokens = {Access.INFERENCE: Token(b"a-token", 55.0, "then"), Access.RENEWAL: Token(b"another")}
    sides.supervisor.set_tokens(tokens)
    sides.process.send(messages.SetAccepting([1, 0]))
    sides.process.send(messages.MigrateConnections(0.5, 2))
    await until(lambda: sides.commands.migrations)
    assert sides.commands.tokens == [tokens]
    assert sides.commands.accepting == [[1, 0]]
    assert sides.commands.migrations == [(0.5, 2)]


async def test_the_counts_of_a_frontend_are_added_to_the_first_process_s(sides):
    counted = sides.supervisor._metrics
    other = Metrics("prometheus", system=False)
    other.ingress["GET"] += 2
    other.responses.count(200)
    sides.supervisor.receive(
        sides.process,
        messages.CountsReport(
            other.take_counts(), {3: QueueLoad(4, 2, 50.0)}, MemoryUse(1, 2, 3, 4), ([1] * 14, 0.5), []
        ),
    )
    assert not other.take_counts()
    assert counted.ingress == {"GET": 2, "POST": 0}
    assert counted.responses.classes[2] == 1
    assert sides.supervisor.load(Mock(number=3)) == QueueLoad(4, 2, 50.0)
    assert sides.supervisor.load(Mock(number=4)) == NO_LOAD
