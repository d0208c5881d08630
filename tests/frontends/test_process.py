"""The connections of a frontend process, with fakes for its listeners."""

import asyncio
import socket
import time

import pytest

from mooring.frontends import messages
from mooring.frontends.balancing import Load
from mooring.frontends.process import Connections
from mooring.web.migration import SocketChannel


class FakeListener:
    def __init__(self, *, migratable):
        self.migratable = migratable
        self.connections = set()
        self.accepting = None
        self.sockets, self.adopted = [], []

    def add_socket(self, sock):
        self.sockets.append(sock)

    def adopt(self, sock):
        self.adopted.append(sock)

    def set_accepting(self, accepting):
        self.accepting = accepting

    async def adjusted(self):
        pass

    async def wait_adopted(self):
        pass


class FakeService:
    def __init__(self):
        self.loads = []

    def report(self, load):
        self.loads.append(load)


class Sides:
    def __init__(self, *, reports=False):
        ours, theirs = socket.socketpair()
        self.listeners = [FakeListener(migratable=True), FakeListener(migratable=False)]
        self.service = FakeService()
        self.connections = Connections(self.listeners, 3, self.service, ours, reports=reports)
        self.channel = SocketChannel(theirs, lambda _mark, sock: sock.close())

    def send(self, mark):
        with socket.socket() as sock:
            assert self.channel.send(mark, sock.fileno())

    async def close(self):
        await self.connections.end()
        self.channel.close()
        for listener in self.listeners:
            for each in [*listener.sockets, *listener.adopted]:
                each.close()


@pytest.fixture
async def make():
    made = []

    def begin(**options):
        made.append(Sides(**options))
        return made[-1]

    yield begin
    for each in made:
        await each.close()


async def test_a_frontend_has_begun_when_every_socket_has_come(make):
    sides = make()
    begun = asyncio.ensure_future(sides.connections.begin())
    for mark in (messages.LISTENER, messages.LISTENER + 1):
        sides.send(mark)
        await asyncio.sleep(0.02)
        assert not begun.done()
    sides.send(messages.CONNECTION)  # which is none of them
    await asyncio.sleep(0.02)
    assert not begun.done()
    sides.send(messages.LISTENER + 1)
    await asyncio.wait_for(begun, 5)
    assert [len(each.sockets) for each in sides.listeners] == [1, 2]
    assert [len(each.adopted) for each in sides.listeners] == [1, 0]


async def test_each_listener_accepts_where_the_first_process_says(make):
    sides = make()
    for numbers, accepting in (([1], [False, True]), ([0, 1], [True, True]), ([], [False, False])):
        sides.connections.set_accepting(numbers)
        assert [each.accepting for each in sides.listeners] == accepting


async def test_the_load_is_reported_and_none_where_there_are_no_connections(make):
    sides = make(reports=True)
    sides.listeners[0].connections = {1, 2}
    sides.listeners[1].connections = {3}
    end = time.monotonic() + 5
    while not any(load.connections for load in sides.service.loads):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    assert sides.service.loads[0] == Load(0.0, 0)
    load = sides.service.loads[-1]
    assert (load.connections, load.fixed) == (2, 1)
    assert 0.0 <= load.busy <= 1.0
    assert not make().service.loads
