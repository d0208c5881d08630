"""Workers that make way for fresh ones: nobody is refused, nobody waits for it, nothing runs twice."""

import asyncio
import os
import time

import psutil
import pytest
from worker_kit import body_of

from mooring.core.errors import WorkerDied
from mooring.core.options import SequenceOptions
from mooring.engine.lifecycle import State
from mooring.workers.recycling import memory_of

pytestmark = pytest.mark.processes

MB = 1 << 20


async def until(reached, seconds=60.0):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.002)


def pids(harness):
    return [worker.process.pid for worker in harness.engine.registry.find_version("echo").pool.workers]


def recycled(harness):
    return harness.engine._metrics.statistics_for("echo", "1.0").workers[1]


def alone(harness):
    """Whether one worker is left, with the model."""
    return harness.engine.registry.find_version("echo").pool.has_exactly(1)


async def test_after_so_many_requests_a_worker_is_replaced_and_every_request_is_answered_once(harness):
    version = await harness.load(max_requests=50)
    seen = set()
    number = 0
    while recycled(harness) < 3:
        number += 1
        seen.add(body_of(await harness.ask(do="pid")))
        assert body_of(await harness.ask(b"%d" % number)) == b"%d" % number
        assert version.pool.ready >= 1
    assert number >= 50
    assert len(seen) >= 3
    assert version.pool.failures.in_a_row == 0
    await until(lambda: alone(harness))


async def test_a_worker_serves_on_while_its_successor_cannot_load(harness, tmp_path):
    version = await harness.load(max_requests=5, parameters={"fail_while": str(tmp_path / "file")})
    (tmp_path / "file").touch()
    (first,) = pids(harness)
    for _ in range(10):
        await harness.ask()
    await until(lambda: version.pool.failures.in_a_row)
    assert [body_of(await harness.ask(do="pid")) for _ in range(20)] == [b"%d" % first] * 20
    assert version.state is State.READY
    (tmp_path / "file").unlink()
    await until(lambda: first not in pids(harness))
    assert body_of(await harness.ask(b"fine")) == b"fine"


async def test_a_worker_that_leaks_is_replaced_at_its_limit(harness):
    await harness.load()
    empty = memory_of(harness.worker().process.pid)
    await harness.engine.retire_version("echo")
    await harness.load(memory_limit=empty + 64 * MB)
    for _ in range(4):
        (first,) = pids(harness)
        while first in pids(harness):
            before = memory_of(first)
            assert body_of(await harness.ask(b"fine", leak=MB if before < empty + 65 * MB else 0)) == b"fine"
            await asyncio.sleep(0.005)
        await until(lambda: alone(harness))
        if recycled(harness) > 1:
            break
    assert recycled(harness) > 1
    assert harness.engine.registry.find_version("echo").pool.failures.in_a_row == 0


async def test_a_request_that_eats_twice_the_limit_ends_its_worker_and_is_told_so(harness):
    await harness.load(memory_limit=200 * MB, retry=False)
    error = await harness.ask(leak=600 * MB, do="sleep", seconds=20)
    assert isinstance(error, WorkerDied)
    assert "bytes of memory, its limit is 209715200" in error.detail
    assert body_of(await harness.ask(b"fine")) == b"fine"


async def test_a_worker_that_is_due_finishes_what_it_has(harness):
    await harness.load(max_requests=1)
    (first,) = pids(harness)
    slow = harness.submit(b"slow", do="sleep", seconds=0.5)
    await until(lambda: recycled(harness) == 1)
    assert first in pids(harness)
    assert body_of(await harness.ask(do="pid")) != b"%d" % first
    assert body_of(await slow) == b"slow"
    await until(lambda: not psutil.pid_exists(first))


async def test_sequences_stay_where_they_are_until_they_are_over(harness):
    await harness.load(max_requests=3, sequence=SequenceOptions(enabled=True, max_sequences=4), retry=False)

    async def step(sequence, flag="id"):
        said = {"id": sequence, flag: sequence if flag == "id" else "true"}
        headers = [(f"ts_request_sequence_{name}".encode(), value.encode()) for name, value in said.items()]
        return body_of(await harness.ask(do="pid", headers=headers))

    first = await step("one", "start")
    for _ in range(4):
        await step("one")
    await until(lambda: recycled(harness) == 1)
    assert await step("two", "start") != first
    assert await step("one") == first
    assert await step("one", "end") == first
    await until(lambda: not psutil.pid_exists(int(first)))
    assert await step("two") != first


async def test_fewer_workers_while_one_is_due_are_as_many_as_asked_for(harness):
    version = await harness.load(max_requests=20, min_workers=2, max_workers=2)
    await until(lambda: version.pool.has_exactly(2))
    for _ in range(50):
        await harness.ask()
    await harness.engine.resize_workers(version, 1, 1)
    await until(lambda: alone(harness) and not version.pool._recycler.extra)
    for _ in range(5):
        assert body_of(await harness.ask(b"fine")) == b"fine"


def test_the_memory_of_a_process_is_told_and_that_of_none_is_nothing():
    assert memory_of(os.getpid()) > MB
    assert memory_of(2**22 + 1) == 0
