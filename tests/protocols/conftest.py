"""A listener for each port, with every endpoint of it mounted."""

import pytest
from protocol_wire import FakeService, Served, listening


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
