"""The balancer, with fakes for frontends and listeners: who gets which sockets, and is told to accept from them."""

import array
import socket

import pytest

from mooring.frontends import messages
from mooring.frontends.balancer import ConnectionBalancer
from mooring.frontends.balancing import Load

FULL, IDLE = Load(1.0, 0, 8), Load(0.1, 0, 8)


class FakeListener:
    def __init__(self, *, migratable, sockets=1):
        self.migratable = migratable
        self.connections = set(range(8))
        self.accepting = True
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(sockets)]

    def share_sockets(self):
        return self.sockets

    def set_accepting(self, accepting):
        self.accepting = accepting


class FakeFrontend:
    def __init__(self, number):
        self.number, self.gone, self.load, self.sent = number, False, Load(0.0, 0), []

    def send(self, message):
        self.sent.append(message)

    def accepting(self):
        """What it was told last; nothing where it was not told."""
        found = [message.listeners for message in self.sent if isinstance(message, messages.SetAccepting)]
        return found[-1] if found else None


class FakeSupervisor:
    def __init__(self):
        self.processes = [FakeFrontend(1), FakeFrontend(2)]
        self.shares = []

    def set_share(self, count):
        self.shares.append(count)


class Busy:
    """The looks at the load of this process, and at idle cores, as a test wants them."""

    def __init__(self, value):
        self.value = value

    def read_share(self):
        return self.value

    def read_idle_cores(self):
        return self.value


class Balanced:
    def __init__(self, *, by_load=True, shared=(0, 1)):
        self.listeners = [FakeListener(migratable=True), FakeListener(migratable=False, sockets=2)]
        self.supervisor = FakeSupervisor()
        self.balancer = ConnectionBalancer(
            self.supervisor, self.listeners, shared=[self.listeners[each] for each in shared], by_load=by_load
        )
        self.own = self.balancer._own = Busy(0.0)
        self.balancer._idle = Busy(4.0)
        self.theirs = []

    def attach(self, number):
        """Start a frontend; the marks of the sockets that it gets."""
        ours, theirs = socket.socketpair()
        self.theirs.append(theirs)
        theirs.setblocking(False)
        self.balancer.attach(self.supervisor.processes[number - 1], ours)
        marks = []
        while True:
            try:
                data, ancillary, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return marks
            ((_, _, descriptors),) = ancillary
            socket.socket(fileno=array.array("i", descriptors)[0]).close()
            marks.append(data[0])

    def look(self, own, times=3):
        self.own.value = own
        for _ in range(times):
            self.balancer._ticker.cancel()
            self.balancer._balance()

    def close(self):
        self.balancer.close()
        for each in [*self.theirs, *self.listeners[0].sockets, *self.listeners[1].sockets]:
            each.close()


@pytest.fixture
async def make():
    made = []

    def begin(**options):
        made.append(Balanced(**options))
        return made[-1]

    yield begin
    for each in made:
        each.close()


async def test_a_frontend_gets_every_socket_when_it_starts_and_accepts_nowhere_yet(make):
    balanced = make()
    assert balanced.attach(1) == [messages.LISTENER, messages.LISTENER + 1, messages.LISTENER + 1]
    assert balanced.supervisor.shares == [1]
    balanced.look(0.3)
    assert balanced.supervisor.processes[0].accepting() is None


async def test_without_load_only_what_cannot_be_bound_twice_is_passed_on(make):
    balanced = make(by_load=False, shared=[1])
    assert balanced.attach(1) == [messages.LISTENER + 1, messages.LISTENER + 1]
    assert balanced.balancer._ticker is None
    assert not balanced.supervisor.shares


async def test_a_full_process_opens_a_frontend_and_leaves_fixed_connections_to_it(make):
    balanced = make()
    balanced.attach(1)
    balanced.attach(2)
    balanced.look(1.0)
    opened = balanced.supervisor.processes[0]
    assert opened.accepting() == [messages.HTTP, messages.GRPC]
    assert balanced.supervisor.processes[1].accepting() is None
    assert balanced.supervisor.shares == [1, 2]
    assert [each.accepting for each in balanced.listeners] == [True, False]
    opened.load = Load(1.0, 4, 8)
    balanced.look(0.5, times=1)
    assert [each.accepting for each in balanced.listeners] == [True, True]
    assert opened.accepting() == [messages.HTTP]  # and now that one leaves them to this process


async def test_the_successor_of_a_frontend_that_died_starts_closed(make):
    balanced = make()
    balanced.attach(1)
    balanced.look(1.0)
    before = balanced.supervisor.processes[0]
    assert before.accepting()
    before.gone = True
    balanced.supervisor.processes[0] = FakeFrontend(1)
    balanced.look(1.0, times=1)
    assert [each.accepting for each in balanced.listeners] == [True, True]  # there is nobody else
    balanced.attach(1)
    assert balanced.supervisor.processes[0].accepting() == []
    balanced.look(1.0)
    assert balanced.supervisor.processes[0].accepting() == [messages.HTTP, messages.GRPC]
