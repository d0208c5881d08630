"""A server that is a node: what it says of itself, and when."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cluster"))

from switch import Switch, table_of

from mooring.cluster.records import (
    ModelFiles,
    NodeAssignment,
    ReplicaState,
    VersionAssignment,
)
from mooring.config.model_options import model_options
from mooring.config.settings import Config
from mooring.core.errors import ModelNotFound, ModelNotReady
from mooring.core.requests import InferenceRequest
from mooring.engine.administration import Administration
from mooring.engine.engine import Engine
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics
from mooring.repository.catalog import Catalog
from mooring.repository.spec import Defaults
from mooring.repository.store import Store
from mooring.server.node_server import NodeServer


@pytest.fixture
async def node(tmp_path):
    async with AsyncExitStack() as stack:
        arena, metrics = Arena(65_536), Metrics(system=False)
        config = Config(cluster_socket=tmp_path / "server.sock")
        defaults = Defaults(options=model_options(config))
        (tmp_path / "unpacked").mkdir()
        catalog = Catalog(Store(tmp_path / "unpacked", defaults), config, tmp_path / "uploads", defaults)
        engine = Engine(arena, metrics)
        stack.push_async_callback(engine.close)
        node = NodeServer(
            tmp_path / "server.sock",
            stack,
            engine,
            arena,
            metrics,
            config=config,
            local=Administration(engine, catalog, metrics),
            catalog=catalog,
            find_address=lambda: "here:8080",
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
    assert (status.node, status.address, status.versions) == (node.link.node, "here:8080", [])
    assert not node.service.ready()  # it has not been told what it is to have
    before = asyncio.get_running_loop().time()
    port.relay.assign(NodeAssignment(3, 7, [], table_of({})))
    await until(lambda: port.reports and port.reports[-1].epoch == 3)
    assert asyncio.get_running_loop().time() - before < 0.4
    assert node.service.ready()
    assert port.reports[-1].generation == 7
    count = len(port.reports)
    await until(lambda: len(port.reports) > count)  # and twice a second without a reason
    switch.close()


async def test_a_node_that_has_not_heard_of_its_cluster_denies_no_model(node, tmp_path):
    def answer():
        told = []
        node.service.submit(InferenceRequest("other", "", "id", []), told.append)
        return told[0]

    assert isinstance(answer(), ModelNotReady)
    with pytest.raises(ModelNotReady, match="has not heard from its cluster yet"):
        node.service.metadata("other")
    switch = Switch([tmp_path / "server.sock"])
    await asyncio.wait_for(switch.attached(), 5)
    switch.assign(table_of({}))
    await until(lambda: node.describe().generation == 1)
    assert isinstance(answer(), ModelNotFound)
    switch.close()


async def test_a_node_that_is_to_be_emptied_is_not_ready(node, tmp_path):
    switch = Switch([tmp_path / "server.sock"])
    (name,) = await asyncio.wait_for(switch.attached(), 5)
    switch.ports[name].relay.assign(NodeAssignment(1, 1, [], table_of({}), draining=True))
    await until(lambda: not node.service.ready())
    switch.close()


async def test_a_version_whose_files_cannot_be_had_is_failed_with_the_reason_and_the_node_is_ready(
    node, tmp_path
):
    switch = Switch([tmp_path / "server.sock"])
    (name,) = await asyncio.wait_for(switch.attached(), 5)
    port = switch.ports[name]
    files = ModelFiles("0" * 64, "m.onnx", 1, sources=["node:gone"])
    port.relay.assign(NodeAssignment(1, 1, [VersionAssignment("m", "1", files)], table_of({})))
    await until(lambda: port.reports and port.reports[-1].versions)
    await until(lambda: port.reports[-1].versions[0].state is ReplicaState.FAILED)
    assert "'node:gone'" in port.reports[-1].versions[0].reason
    assert node.service.ready()
    switch.close()
