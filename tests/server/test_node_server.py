"""A server that is a node: what it says of itself, and when."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cluster"))

from switch import Switch, table_of

from mooring.cluster.records import NodeAssignment, ReplicaState, VersionStatus
from mooring.engine.engine import Engine
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics
from mooring.server.node_server import NodeServer


@pytest.fixture
async def node(tmp_path):
    async with AsyncExitStack() as stack:
        arena, metrics = Arena(65_536), Metrics(system=False)
        engine = Engine(arena, metrics)
        stack.push_async_callback(engine.close)
        node = NodeServer(
            tmp_path / "server.sock",
            stack,
            engine,
            arena,
            metrics,
            queue_size=10,
            find_address=lambda: "here:8080",
            describe_versions=lambda: [VersionStatus("m", "1", ReplicaState.LOADING)],
        )
        node.listen()
        yield node


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_node_reports_what_it_has_and_at_once_when_it_was_assigned_something(node, tmp_path):
    assert not node.service.ready()
    switch = Switch([tmp_path / "server.sock"])
    (name,) = await asyncio.wait_for(switch.attached(), 5)
    port = switch.ports[name]
    status = port.attachments[0].status
    assert (status.node, status.address, status.versions[0].model) == (node.link.node, "here:8080", "m")
    assert node.service.ready()
    before = asyncio.get_running_loop().time()
    port.relay.assign(NodeAssignment(3, 7, [], table_of({})))
    await until(lambda: port.reports and port.reports[-1].epoch == 3)
    assert asyncio.get_running_loop().time() - before < 0.4
    assert port.reports[-1].generation == 7
    count = len(port.reports)
    await until(lambda: len(port.reports) > count)  # and twice a second without a reason
    switch.close()


async def test_a_node_that_is_to_be_emptied_is_not_ready(node, tmp_path):
    switch = Switch([tmp_path / "server.sock"])
    (name,) = await asyncio.wait_for(switch.attached(), 5)
    switch.ports[name].relay.assign(NodeAssignment(1, 1, [], table_of({}), draining=True))
    await until(lambda: not node.service.ready())
    switch.close()
