"""How a command joins a Ray cluster: what it says of an address where no head answers."""

import socket

import pytest
from port_kit import free_ports

pytest.importorskip("ray")

import ray

from mooring.cluster.ray.connection import join_ray
from mooring.core.errors import ClusterUnavailable


def join(address):
    with pytest.raises(ClusterUnavailable) as raised, join_ray(address):
        pass
    return raised.value.message


def test_where_nobody_listens_ray_is_to_be_started():
    assert join(f"127.0.0.1:{free_ports(1)[0]}").endswith("ray start --head starts one")


def test_where_something_listens_that_refuses_the_token_is_asked_for(monkeypatch, listening):
    def refuse(**_options):
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "init", refuse)
    text = join(f"127.0.0.1:{listening}")
    assert "takes connections, but does not answer as Ray's head (Failed to connect" in text
    assert "RAY_AUTH_MODE" in text


@pytest.fixture
def listening():
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]
