"""Assignments on their way: sent where they differ, one at a time, until the node has them."""

import asyncio

from virtual_time import turns, virtual_time

from mooring.cluster.controller.cluster_port import HigherEpoch, NodeGone
from mooring.cluster.controller.node_orders import NodeOrders
from mooring.cluster.controller.nodes import Node
from mooring.cluster.controller.placement import Key
from mooring.cluster.records import ModelFiles, NodeStatus, RoutingTable, VersionAssignment

KEY = Key("m", "1")


def assigned(name="x"):
    return [VersionAssignment("m", "1", ModelFiles(name, "m", 1))]


class Port:
    """Takes what it is sent, or raises what is next in ``errors``; a call waits for ``gate``."""

    def __init__(self):
        self.sent, self.errors = [], []
        self.gate = asyncio.Event()
        self.gate.set()

    async def assign(self, node, assignment):
        self.sent.append((node, assignment))
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)


def make():
    port, higher = Port(), []
    orders = NodeOrders(port, asyncio.get_running_loop().time, higher.append)
    orders.epoch = 3
    return port, orders, higher


def node(name="a", epoch=0, generation=0, heard=None):
    status = NodeStatus(name, "0.1", "", epoch, generation)
    return {name: Node(name, status=status, heard=heard)}


async def send(orders, nodes):
    orders.send(nodes)
    await turns()


@virtual_time
async def test_what_has_not_changed_is_not_sent_again():
    port, orders, _ = make()
    for _ in range(3):
        orders.give({"a": assigned()}, RoutingTable(defaults={"m": "1"}), [])
        await send(orders, node())
    (sent,) = port.sent
    assert (sent[1].epoch, sent[1].versions, sent[1].routing.defaults) == (3, assigned(), {"m": "1"})
    assert orders.know_routing(node())
    orders.give({"a": assigned("y")}, RoutingTable(defaults={"m": "1"}), [])
    await send(orders, node())
    assert port.sent[1][1].generation > sent[1].generation
    assert port.sent[1][1].routing.generation == sent[1].routing.generation


@virtual_time
async def test_a_node_has_one_call_at_a_time_and_then_the_latest():
    port, orders, _ = make()
    port.gate.clear()
    for name in "xyz":
        orders.give({"a": assigned(name)}, RoutingTable(), [])
        await send(orders, node())
    assert [each.versions for _, each in port.sent] == [assigned("x")]
    port.gate.set()
    await turns()
    await send(orders, node())
    assert [each.versions for _, each in port.sent] == [assigned("x"), assigned("z")]


@virtual_time
async def test_a_node_that_cannot_be_reached_is_tried_again_later():
    port, orders, _ = make()
    port.errors = [NodeGone("no"), RuntimeError("Ray's own")]
    orders.give({"a": assigned()}, RoutingTable(), [])
    for _ in range(2):
        await send(orders, node())
        await send(orders, node())
        await asyncio.sleep(0.6)
    assert len(port.sent) == 2
    assert not orders.know_routing(node(), orders.generation)
    await send(orders, node())
    assert orders.know_routing(node(), orders.generation)


@virtual_time
async def test_a_node_that_reports_less_than_it_had_gets_it_again():
    port, orders, _ = make()
    orders.give({"a": assigned()}, RoutingTable(), [])
    await send(orders, node())
    now = asyncio.get_running_loop().time()
    await send(orders, node(heard=now + 0.5))  # it may have been on its way
    assert len(port.sent) == 1
    await send(orders, node(heard=now + 2.0))
    assert len(port.sent) == 2
    await send(orders, node(epoch=3, generation=orders.generation, heard=now + 9.0))
    assert len(port.sent) == 2


@virtual_time
async def test_a_later_controller_is_told_of():
    port, orders, higher = make()
    port.errors = [HigherEpoch(9)]
    orders.give({"a": assigned()}, RoutingTable(), [])
    await send(orders, node())
    assert higher == [9]


@virtual_time
async def test_a_report_is_fresh_once_it_knows_the_latest_order_for_a_version():
    _, orders, _ = make()
    orders.heard_generation(40)
    orders.give({"a": assigned()}, RoutingTable(), [])
    first = orders.generation
    assert first > 40
    assert not orders.is_fresh(node(epoch=3, generation=first - 1)["a"], KEY)
    assert not orders.is_fresh(node(epoch=2, generation=first)["a"], KEY)
    assert orders.is_fresh(node(epoch=3, generation=first)["a"], KEY)
    # A change of something else leaves it so; one of the version itself does not.
    orders.give({"a": assigned()}, RoutingTable(defaults={"n": "1"}), [])
    assert orders.is_fresh(node(epoch=3, generation=first)["a"], KEY)
    orders.give({"a": assigned("y")}, RoutingTable(defaults={"n": "1"}), [])
    assert not orders.is_fresh(node(epoch=3, generation=first)["a"], KEY)
