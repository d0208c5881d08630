"""Whose connections a call uses: each process and each event loop has its own."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mooring.client.connections import AsyncConnections, Connections


def test_a_process_makes_its_connections_once_and_gives_them_up():
    connections = Connections(object)
    first = connections.get()
    assert connections.get() is first
    assert connections.pop() is first
    assert connections.pop() is None
    assert connections.get() is not first


def test_threads_that_come_first_at_once_share_one():
    made = []

    def make():
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    connections = Connections(make)
    with ThreadPoolExecutor(4) as threads:
        assert {*threads.map(lambda _: connections.get(), range(4))} == {*made}
    assert len(made) == 1


def test_a_forked_process_uses_and_closes_none_of_its_parents(monkeypatch):
    connections = Connections(object)
    first = connections.get()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert connections.pop() is None
    second = connections.get()
    assert second is not first
    assert connections.get() is second


def test_each_event_loop_has_its_own_and_those_of_closed_ones_are_dropped():
    made = []

    def make():
        made.append(object())
        return made[-1]

    connections = AsyncConnections(make)

    async def ask():
        first = connections.get()
        await asyncio.sleep(0)
        assert connections.get() is first
        return first

    assert asyncio.run(ask()) is not asyncio.run(ask())
    assert len(made) == 2
    assert list(connections._state.kept.values()) == made[1:]
    with pytest.raises(RuntimeError, match="no running event loop"):
        connections.get()
