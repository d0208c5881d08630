"""A listener for each port, with every endpoint of it mounted."""

import pytest
from protocol_wire import FakeService, Served, listening
from v2_wire import TensorService, listening_v2


def _fixture(kind: str):
    @pytest.fixture(name=kind)
    async def fixture():
        service = FakeService()
        server, metrics = await listening(service, kind)
        yield Served(service, metrics, server.port)
        await server.close()

    return fixture


inference = _fixture("inference")
management = _fixture("management")
metrics = _fixture("metrics")


@pytest.fixture
async def v2_as():
    """Makes listeners with every endpoint of v2, as a test wants them."""
    servers = []

    async def start(**more):
        server, served, served_memory = await listening_v2(TensorService(), **more)
        servers.append(server)
        served_memory.unregister()
        return served

    yield start
    for server in servers:
        await server.close()


@pytest.fixture
async def v2(v2_as):
    return await v2_as()
