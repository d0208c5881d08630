"""Sessions between nodes over a way that loses, delays and overtakes: in virtual time, without a socket."""

import asyncio
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VirtualLoop

from mooring.cluster import peers as peers_module
from mooring.cluster import sessions
from mooring.cluster.peers import SILENCE, WINDOW, Peers
from mooring.core.requests import InferenceRequest
from mooring.core.tensors import Tensor
from mooring.ipc.framing import heap_buffer
from mooring.ipc.messages import MessageDecoder

DECODE = MessageDecoder(InferenceRequest).decode


class Keeper:
    """An owner that keeps what comes, and is busy when the test says so."""

    def __init__(self, session):
        self.session = session
        self.came = []
        self.lost = []
        self.busy = False

    def receive(self, head, payloads):
        self.came.append((bytes(head), [payload and bytes(payload) for payload in payloads]))

    def on_lost(self, reason, refused_from):
        self.lost.append((reason, refused_from))


class World:
    """Two nodes and the way between them. ``delay`` gives the seconds of each message, None for one that is lost."""

    def __init__(self):
        self.loop = VirtualLoop()
        self.delay = lambda _message: 0.001
        self.silent = set()  # nodes that send nothing
        self.served = []
        self.count = 0
        self.nodes = {name: self.node(name) for name in "ab"}

    def node(self, name):
        def serve(session):
            self.served.append(Keeper(session))
            return self.served[-1]

        return Peers(
            lambda node, messages: [self.carry(name, node, message) for message in messages],
            heap_buffer,
            serve,
            clock=self.loop.time,
            loop=self.loop,
        )

    def carry(self, sender, receiver, message):
        self.count += 1
        delay = self.delay(message)
        if sender not in self.silent and delay is not None:
            self.loop.call_later(delay, self.arrive, sender, receiver, message)

    def arrive(self, sender, receiver, message):
        if receiver in self.nodes:
            self.nodes[receiver].receive(sender, [message])

    def open(self):
        return self.nodes["a"].session_to("b", Keeper)

    def pass_time(self, seconds):
        async def wait():
            await asyncio.sleep(seconds)

        self.loop.run_until_complete(wait())


@pytest.fixture
def world():
    world = World()
    yield world
    world.loop.close()


def texts(keeper):
    return [msgspec.msgpack.decode(head) for head, _ in keeper.came]


def request_of(size, name="x"):
    return InferenceRequest("m", "1", name, [Tensor("x", "UINT8", [size], heap_buffer(size))])


def test_messages_go_both_ways_in_order(world):
    session = world.open()
    for number in range(5):
        session.send(number, "lane")
    world.pass_time(0.1)
    (served,) = world.served
    assert texts(served) == [0, 1, 2, 3, 4]
    served.session.send("back")
    world.pass_time(0.1)
    assert texts(session._owner) == ["back"]


@settings(max_examples=30)
@given(st.integers(), st.lists(st.sampled_from([10, 200_000, 900_000]), min_size=1, max_size=12))
def test_whatever_overtakes_what_everything_comes_once_whole_and_in_the_order_of_its_lane(seed, sizes):
    world, dice = World(), random.Random(seed)
    world.delay = lambda _message: dice.uniform(0.001, 0.2)
    session = world.open()
    session._owner.busy = True
    for number, size in enumerate(sizes):
        session.send(request_of(size, str(number)), number % 2)
    world.pass_time(20)
    served = world.served[0]
    came = [
        DECODE(memoryview(head), [heap_buffer(len(each)) for each in payloads])
        for head, payloads in served.came
    ]
    assert sorted(int(each.id) for each in came) == list(range(len(sizes)))
    for lane in (0, 1):
        order = [int(each.id) for each in came if int(each.id) % 2 == lane]
        assert order == sorted(order)
    for each in came:
        assert len(each.inputs[0].data) == sizes[int(each.id)]
    assert session._owner.lost == []
    world.loop.close()


def test_a_small_message_does_not_wait_behind_a_large_one(world):
    session = world.open()
    world.pass_time(0.1)
    session.send(request_of(3_000_000, "large"))
    session.send(request_of(10, "small"))
    world.pass_time(5)
    heads = [head for head, _ in world.served[0].came]
    assert [b"small" in head for head in heads] == [True, False]


def test_no_more_than_a_window_is_on_its_way(world):
    session = world.open()
    world.pass_time(0.1)
    on_the_way = 0

    def count(message):
        nonlocal on_the_way
        on_the_way += len(message)
        return None if len(message) > 1000 else 0.001

    world.delay = count
    session.send(request_of(4 * WINDOW))
    world.pass_time(0.5)
    assert WINDOW <= on_the_way < WINDOW * 1.1


def test_a_payload_larger_than_the_window_arrives_whole(world):
    session = world.open()
    session.send(request_of(3 * WINDOW))
    world.pass_time(5)
    ((_, payloads),) = world.served[0].came
    assert len(payloads[0]) == 3 * WINDOW


def test_nobody_pings_a_node_that_owes_nothing(world):
    session = world.open()
    session.send(1)
    world.pass_time(1)
    before = world.count
    world.pass_time(60)
    assert world.count == before
    assert session._owner.lost == []


def test_a_node_that_owes_an_answer_and_is_silent_is_lost_within_a_second_or_so(world):
    session = world.open()
    session._owner.busy = True
    session.send(1)
    world.pass_time(30)
    assert session._owner.lost == []  # it answers the pings
    world.silent.add("b")
    world.pass_time(SILENCE + 0.4)
    ((reason, refused),) = session._owner.lost
    assert "nothing was heard of it" in reason
    assert refused is None
    assert world.nodes["a"].is_avoided("b")


def test_late_answers_of_a_lost_session_are_dropped_and_a_new_one_replaces_it(world):
    session = world.open()
    session._owner.busy = True
    session.send(1)
    world.pass_time(0.5)
    served = world.served[0]
    world.silent.add("b")
    world.pass_time(2)
    assert session.lost
    world.silent.clear()
    served.session.send("late")
    world.pass_time(0.5)
    assert session._owner.came == []
    assert served.lost, "the other end goes on with what nobody waits for"
    again = world.open()
    again.send(2)
    world.pass_time(0.5)
    assert texts(world.served[1]) == [2]
    assert not world.nodes["a"].is_avoided("b")


def test_a_node_that_never_opens_the_session_is_lost_too(world):
    world.silent.add("b")
    session = world.open()
    transfer = session.send(1)
    world.pass_time(SILENCE + 0.5)
    assert session._owner.lost
    assert transfer.first_packet < 0  # so it has certainly not run


def test_a_gap_that_does_not_close_ends_the_session(world):
    session = world.open()
    world.pass_time(0.1)
    session._owner.busy = True
    world.delay = lambda message: None if b"hole" in message else 0.001
    session.send("hole")
    session.send("after")
    world.pass_time(5)
    assert "packets are missing" in session._owner.lost[0][0]
    assert world.served[0].came == []


def test_a_server_that_was_started_again_refuses_and_says_from_which_packet(world):
    session = world.open()
    session.send(1)
    world.pass_time(0.1)
    world.nodes["b"] = world.node("b")
    transfer = session.send(2)
    world.pass_time(0.1)
    assert session._owner.lost == [("it does not know this session", transfer.first_packet)]


def test_who_asked_and_fell_silent_is_given_up(world):
    session = world.open()
    session._owner.busy = True
    session.send(1)
    world.pass_time(0.2)
    (served,) = world.served
    served.busy = True
    session.send(2)
    world.pass_time(0.2)
    world.silent.add("a")
    world.pass_time(2)
    assert served.lost == []
    world.pass_time(2)
    assert served.lost


def test_time_that_this_process_slept_through_is_nobodys_silence(world):
    session = world.open()
    session._owner.busy = True
    session.send(1)
    world.pass_time(0.2)
    world.loop.now += 60  # it was stopped, and so was the whole machine
    world.pass_time(0.3)
    assert session._owner.lost == []


def test_what_did_not_arrive_ends_the_session_at_once(world):
    session = world.open()
    session.send(1)
    world.pass_time(0.1)
    world.nodes["a"].on_unreachable("b", "cut")
    assert session._owner.lost == [("cut", None)]


def test_a_lost_node_is_looked_for_at_growing_intervals(world):
    world.silent.add("b")
    spans = []
    for _ in range(6):
        world.open()._owner.busy = True
        world.pass_time(SILENCE + 0.3)
        until, span = world.nodes["a"]._avoided["b"]
        spans.append(span)
        assert not world.nodes["a"].may_probe("b")
        world.pass_time(max(until - world.loop.time(), 0) + 0.01)
        assert world.nodes["a"].may_probe("b")
    assert spans == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_another_version_of_the_software_is_refused_with_both_named(world, monkeypatch):
    real = sessions.Open
    monkeypatch.setattr(
        peers_module.sessions, "Open", lambda session, protocol, software: real(session, protocol + 1, "9.9")
    )
    session = None
    try:
        session = world.open()
    finally:
        monkeypatch.undo()
    world.pass_time(0.2)
    ((reason, refused),) = session._owner.lost
    assert "9.9" in reason
    assert "install the same version" in reason
    assert refused == 0  # nothing of it can have run


def test_messages_that_are_none_are_logged_and_do_not_end_the_rest(world):
    world.nodes["b"].receive("a", [b"\x93\xa3", b"", b"nonsense"])
    session = world.open()
    session.send(1)
    world.pass_time(0.1)
    assert texts(world.served[0]) == [1]


def test_a_message_that_is_dropped_is_not_sent_and_a_begun_one_is_called_off(world):
    session = world.open()
    world.pass_time(0.1)
    large = session.send(request_of(3 * WINDOW))
    small = session.send(request_of(2 * WINDOW), "lane")
    session.drop(large)
    session.drop_lane("lane")
    assert large.finished
    assert small.finished
    session.send("after")
    world.pass_time(2)
    served = world.served[0]
    assert texts(served) == ["after"]
    assert served.session._arrivals == {}
