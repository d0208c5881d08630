"""A service manager is told once that the server is ready."""

import logging
import secrets
import socket

import pytest

from mooring.cli.service_manager import report_ready
from mooring.core.service import ModelState

READY = ModelState("m", "1", "READY", ready=True, is_default=True)
FAILED = ModelState("n", "1", "FAILED", ready=False, is_default=True)


@pytest.fixture(params=["file", "name"])
def manager(request, tmp_path):
    """A socket as systemd has it, and the text that stands for it in NOTIFY_SOCKET."""
    name = f"mooring-test-{secrets.token_hex(8)}"
    address = str(tmp_path / "notify") if request.param == "file" else f"@{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address.replace("@", "\0"))
        channel.settimeout(5)
        yield channel, address


def test_a_started_server_says_how_many_models_it_serves(mooring, server, manager):
    channel, address = manager
    server.models = [READY, FAILED]
    assert mooring("serve", NOTIFY_SOCKET=address).exit_code == 3
    assert channel.recv(1000) == b"READY=1\nSTATUS=serving 1 model"


def test_a_server_that_cannot_start_says_nothing(mooring, server, manager):
    channel, address = manager
    server.fails = OSError("no room")
    assert mooring("serve", NOTIFY_SOCKET=address).exit_code == 1
    channel.setblocking(False)
    with pytest.raises(BlockingIOError):
        channel.recv(1000)


def test_nothing_is_said_where_nobody_asks(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    report_ready(2, {})


def test_a_manager_that_cannot_be_reached_is_a_warning(caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        report_ready(2, {"NOTIFY_SOCKET": str(tmp_path / "missing")})
    assert "the service manager was not told that the server is ready" in caplog.text
