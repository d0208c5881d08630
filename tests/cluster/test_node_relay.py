"""The bundling of messages between nodes: a lone one leaves at once, many share a call, and nobody's memory grows."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.cluster import messages
from mooring.cluster import relay as relay_module
from mooring.cluster.link import ClusterLink
from mooring.cluster.records import NodeStatus
from mooring.cluster.relay import NodeRelay, group_messages


class HeldPort:
    """An actor whose calls of other actors stay under way until the test lets them end."""

    def __init__(self):
        self.calls = []
        self.attachments = 0
        self.losses = 0

    async def send(self, node, payloads):
        done = asyncio.get_running_loop().create_future()
        self.calls.append((node, list(payloads), done))
        await done

    def attached(self, _attached):
        self.attachments += 1

    def lost(self):
        self.losses += 1

    def sent(self, node="b"):
        return [payloads for to, payloads, _ in self.calls if to == node]


@pytest.fixture
async def ends(tmp_path):
    """A server's link, its relay, and the port that holds calls back."""
    link = ClusterLink(tmp_path / "server.sock", lambda: NodeStatus("a", "1", ""), tmp_path)
    link.listen()
    port = HeldPort()
    relay = NodeRelay(tmp_path / "server.sock", port, cluster="c", node="n", actor="x")
    relay.start()
    await until(lambda: relay.is_attached)
    yield link, relay, port
    relay.close()
    link.close()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def settle():
    for _ in range(20):
        await asyncio.sleep(0.001)


async def test_a_lone_message_leaves_at_once_and_what_waits_shares_the_next_call(ends):
    link, _, port = ends
    for number in range(relay_module._CALLS):
        link.send("b", [b"%d" % number])
        await until(lambda number=number: len(port.sent()) == number + 1)
    for number in range(10, 20):
        link.send("b", [b"%d" % number])
    await settle()
    assert len(port.sent()) == relay_module._CALLS  # no further call while so many are under way
    port.calls[0][2].set_result(None)
    await until(lambda: len(port.sent()) == relay_module._CALLS + 1)
    assert port.sent()[-1] == [b"%d" % number for number in range(10, 20)]


async def test_a_call_has_a_bound_beyond_its_first_message(ends, monkeypatch):
    monkeypatch.setattr(relay_module, "_BUNDLE", 100)
    link, _, port = ends
    monkeypatch.setattr(relay_module, "_CALLS", 1)
    link.send("b", [b"first"])
    await until(port.sent)
    for size in (60, 40, 1, 300, 2):
        link.send("b", [b"x" * size])
    await settle()
    for at in range(4):
        port.calls[at][2].set_result(None)
        await until(lambda at=at: len(port.calls) > min(at + 1, 3))
    assert [[len(each) for each in call] for call in port.sent()] == [[5], [60, 40], [1], [300]]


async def test_nodes_do_not_wait_for_each_other(ends):
    link, _, port = ends
    for _ in range(10):
        link.send("b", [b"slow"])
    link.send("c", [b"quick"])
    await until(lambda: port.sent("c"))
    assert port.sent("c") == [[b"quick"]]


async def test_a_node_that_is_not_reached_is_told_once_and_can_be_tried_again(ends):
    link, _, port = ends
    lost = []
    link.on_unreachable(lambda node, reason: lost.append((node, reason)))
    for _ in range(10):
        link.send("b", [b"x"])
    await until(lambda: len(port.calls) == relay_module._CALLS)
    for _, _, done in port.calls:
        done.set_exception(ConnectionError("cut"))
    await until(lambda: lost)
    await settle()
    assert lost == [("b", "ConnectionError: cut")]
    link.send("b", [b"again"])
    await until(lambda: port.sent()[-1] == [b"again"])


async def test_too_much_that_waits_is_dropped_and_said(ends, monkeypatch):
    monkeypatch.setattr(relay_module, "_WAITING", 1000)
    link, relay, port = ends
    lost = []
    link.on_unreachable(lambda node, reason: lost.append((node, reason)))
    for _ in range(relay_module._CALLS + 20):
        link.send("b", [b"x" * 100])
        await asyncio.sleep(0)
    await until(lambda: lost)
    assert lost[0][0] == "b"
    assert "bytes wait for it" in lost[0][1]
    held = sum(lane.size for lane in relay._lanes.values())
    assert held <= 1000
    assert port.calls


async def test_a_relay_finds_a_server_that_was_started_again(ends, tmp_path):
    link, relay, port = ends
    link.close()
    await until(lambda: port.losses == 1)
    with pytest.raises(ConnectionError, match="no node server is attached"):
        relay.deliver("b", [b"x"])
    again = ClusterLink(tmp_path / "server.sock", lambda: NodeStatus("a", "1", ""), tmp_path)
    again.listen()
    await until(lambda: port.attachments == 2)
    assert again.node == link.node
    again.close()


async def test_what_a_server_says_that_is_no_message_ends_the_connection(ends):
    link, relay, port = ends
    link._actor.send(messages.Incoming("b", []))  # what only an actor sends
    await until(lambda: port.losses == 1)
    await until(lambda: relay.is_attached)  # and a new one works


@given(st.lists(st.binary(max_size=40)), st.integers(1, 50))
def test_groups_of_messages_keep_order_and_bound(payloads, most):
    groups = group_messages(payloads, most)
    assert [message for group in groups for message in group] == payloads
    assert all(len(group) == 1 or sum(map(len, group)) <= most for group in groups)


def test_many_small_messages_are_few_arguments():
    assert len(group_messages([b"x" * 200] * 5000, 90_000)) == 12
