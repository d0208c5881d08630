"""The order in which a server starts and ends: what is open when, and what clients are told meanwhile."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from virtual_time import set_clock, virtual_time

from mooring.config.settings import Address, Config
from mooring.server import addresses as addresses_module
from mooring.server import server as server_module
from mooring.server.addresses import Addresses
from mooring.server.server import Server
from mooring.server.startup import Startup
from mooring.workers.libraries import Libraries

HOST = "127.0.0.1"
ADDRESSES = {
    "inference_address": Address(HOST, 1),
    "management_address": Address(HOST, 2),
    "metrics_address": Address(HOST, 3),
    "grpc_address": Address(HOST, 4),
    "grpc_management_address": Address(HOST, 5),
}


class FakeListener:
    """Whatever takes requests: it has answered all of them after ``seconds``."""

    def __init__(self, log, seconds):
        self.log, self.seconds = log, seconds

    async def drain(self, limit):
        self.log.append(("drain", limit))
        await asyncio.sleep(self.seconds)
        self.log.append("drained")


class Stage:
    """A server without models whose addresses are opened by the test: it writes down which, and how ready it was."""

    def __init__(self, monkeypatch, tmp_path, **settings):
        self.log = []
        self.refused = ""
        set_clock(monkeypatch, server_module)
        set_clock(monkeypatch, addresses_module)
        monkeypatch.setattr(Addresses, "listen_at", self.listen)
        monkeypatch.setattr(Addresses, "_listen_grpc", self.listen_grpc)
        self.stack = AsyncExitStack()
        config = Config(**{"temporary_folder": tmp_path, **ADDRESSES, **settings})
        self.server = Server(config, self.stack, Startup(config, self.stack, Libraries({})))
        self.engine = self.server.engine

    async def listen(self, mount):
        self.log.append((mount.setting, self.engine.ready()))
        if mount.setting == self.refused:
            raise OSError("in use")

    async def listen_grpc(self):
        self.log.append(("grpc", self.engine.ready()))


@pytest.fixture
def stage(monkeypatch, tmp_path):
    return lambda **settings: Stage(monkeypatch, tmp_path, **settings)


@virtual_time
async def test_the_inference_address_opens_last_and_nothing_is_ready_before_it(stage):
    stage = stage()
    async with stage.stack:
        await stage.server.start()
        assert [name for name, _ in stage.log] == [
            "grpc",
            "management_address",
            "metrics_address",
            "inference_address",
        ]
        assert not any(ready for _, ready in stage.log)
        assert stage.engine.ready()


@virtual_time
async def test_a_server_that_cannot_have_an_address_is_never_ready(stage):
    stage = stage()
    stage.refused = "metrics_address"
    async with stage.stack:
        with pytest.raises(OSError, match="in use"):
            await stage.server.start()
        assert "inference_address" not in [name for name, _ in stage.log]
        assert not stage.engine.ready()


@virtual_time
async def test_settings_with_one_address_share_a_listener(stage):
    one = Address(HOST, 1)
    stage = stage(management_address=one, metrics_address=one)
    async with stage.stack:
        await stage.server.start()
        assert [name for name, _ in stage.log] == ["grpc", "inference_address"]


@virtual_time
async def test_port_0_is_never_shared(stage):
    free = Address(HOST, 0)
    stage = stage(inference_address=free, management_address=free, metrics_address=free)
    async with stage.stack:
        await stage.server.start()
        assert len(stage.log) == 4


@virtual_time
async def test_a_server_without_metrics_has_no_address_for_them(stage):
    stage = stage(enable_metrics_api=False)
    async with stage.stack:
        await stage.server.start()
        assert "metrics_address" not in [name for name, _ in stage.log]


# The end.


@virtual_time
async def test_a_server_that_leaves_says_so_serves_on_and_then_drains(stage):
    stage = stage()
    async with stage.stack:
        await stage.server.start()
        stage.log.clear()
        stage.server.addresses._listeners = [FakeListener(stage.log, 1.0)]
        leaving = asyncio.ensure_future(stage.server.leave(5.0, 30.0))
        await asyncio.sleep(4.9)
        assert (stage.engine.ready(), stage.log) == (False, [])
        await asyncio.sleep(0.2)
        assert stage.log == [("drain", 30.0)]
        await leaving
        assert stage.log == [("drain", 30.0), "drained"]


@virtual_time
async def test_all_listeners_drain_at_once_and_the_models_have_the_time_that_is_left(stage, monkeypatch):
    stage = stage()
    limits = []

    async def drain(limit):
        limits.append(limit)
        return True

    async with stage.stack:
        await stage.server.start()
        monkeypatch.setattr(stage.engine, "drain", drain)
        stage.server.addresses._listeners = [FakeListener([], 4.0), FakeListener([], 6.0)]
        began = asyncio.get_running_loop().time()
        await stage.server.drain(10.0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(6.0)
        assert limits == [pytest.approx(4.0)]


@virtual_time
async def test_work_is_left_when_a_signal_asks_the_server_to_stop():
    ended = asyncio.Event()
    asyncio.get_running_loop().call_later(5.0, ended.set)
    assert await server_module._run_until(ended, asyncio.sleep(4.0))
    assert not await server_module._run_until(ended, asyncio.sleep(4.0))


@virtual_time
async def test_a_fault_in_the_work_is_raised_and_not_swallowed():
    async def fail():
        raise OSError("no such model")

    with pytest.raises(OSError, match="no such model"):
        await server_module._run_until(asyncio.Event(), fail())
