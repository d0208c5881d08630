"""Processes that are stopped and not dead: they are ended and replaced, and what they were asked is answered."""

import asyncio
import os
import signal
import time

import psutil
import pytest
from worker_kit import Harness, body_of

from mooring.core.errors import WorkerDied
from mooring.workers.heartbeat import Deadlines, has_ended

pytestmark = pytest.mark.processes

HEARTBEAT = 0.5


@pytest.fixture
async def harness(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)  # noqa: PTH120
    harness = Harness(deadlines=Deadlines(HEARTBEAT, 60.0))
    yield harness
    await harness.engine.close()


async def until(reached, seconds=60.0):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.005)


def pids(pool):
    return [worker.process.pid for worker in pool.workers]


def freeze(pid):
    os.kill(pid, signal.SIGSTOP)


async def test_a_worker_that_is_frozen_in_a_request_is_replaced_and_the_request_runs_again(harness):
    version = await harness.load()
    asked = harness.submit(b"x", do="sleep", seconds=0.3)
    await asyncio.sleep(0.1)
    (worker,) = pids(version.pool)
    freeze(worker)
    behind = [harness.submit(b"%d" % number) for number in range(5)]
    assert body_of(await asyncio.wait_for(asked, 60)) == b"x"
    assert [body_of(await asyncio.wait_for(one, 30)) for one in behind] == [b"%d" % n for n in range(5)]
    assert has_ended(worker)


async def test_a_request_that_freezes_every_worker_is_told_so_and_nobody_else(harness):
    await harness.load()
    asked = harness.submit(b"x", do="stop")
    behind = [harness.submit(b"%d" % number) for number in range(5)]
    error = await asyncio.wait_for(asked, 60)
    assert isinstance(error, WorkerDied)
    assert "after a signal had stopped it for 0.5 s" in error.detail
    assert [body_of(await asyncio.wait_for(one, 30)) for one in behind] == [b"%d" % n for n in range(5)]


async def test_a_frozen_idle_worker_is_replaced_before_anybody_asks_it(harness):
    version = await harness.load()
    (worker,) = pids(version.pool)
    freeze(worker)
    await until(lambda: has_ended(worker) and version.pool.ready)
    assert body_of(await harness.ask(b"x")) == b"x"


async def test_a_worker_that_is_frozen_while_it_loads_is_replaced(harness):
    loading = asyncio.ensure_future(harness.load(parameters={"slow": 1.0}))
    await until(lambda: "echo" in harness.engine.registry.models)
    await until(lambda: harness.engine.registry.find_version("echo").pool)
    pool = harness.engine.registry.find_version("echo").pool
    await until(lambda: pool.workers and pool.workers[0].process.pid)
    (worker,) = pids(pool)
    freeze(worker)
    await loading
    await until(lambda: pool.ready)
    assert has_ended(worker)


@pytest.mark.parametrize("retry", [True, False])
async def test_requests_done_before_a_slow_one_of_their_message_are_no_part_of_its_time_out(harness, retry):
    await harness.load(response_timeout=0.3, retry=retry)
    for _ in range(50):  # teaches the scheduler that this model is fast, so that many travel in one message
        await asyncio.gather(*(harness.ask(b"warm") for _ in range(20)))
    futures = [harness.submit(b"ok") for _ in range(5)]
    futures.append(harness.submit(b"bad", do="stop"))  # the answers before it are in the worker still
    futures += [harness.submit(b"ok") for _ in range(5)]
    outcomes = await asyncio.wait_for(asyncio.gather(*futures), 30)
    assert isinstance(outcomes[5], WorkerDied)
    assert [body_of(outcome) for outcome in outcomes[6:]] == [b"ok"] * 5
    if retry:  # else they must not run twice, though they have only run once
        assert [body_of(outcome) for outcome in outcomes[:5]] == [b"ok"] * 5


async def test_what_ran_beside_a_request_that_kills_its_worker_does_not_die_with_it_a_second_time(harness):
    await harness.load(max_batch_size=8, max_delay=0.05)
    futures = [harness.submit(b"ok") for _ in range(3)]
    futures.append(harness.submit(b"bad", do="kill"))
    futures += [harness.submit(b"ok") for _ in range(3)]
    outcomes = await asyncio.wait_for(asyncio.gather(*futures), 30)
    assert isinstance(outcomes.pop(3), WorkerDied)
    assert [body_of(outcome) for outcome in outcomes] == [b"ok"] * 6


async def test_a_frozen_template_is_replaced_and_its_workers_lose_nothing(harness):
    version = await harness.load(min_workers=2, max_workers=2, retry=False)
    pool = version.pool
    await until(lambda: pool.has_exactly(2) and all(pids(pool)))
    first = pids(pool)
    (template,) = {psutil.Process(pid).ppid() for pid in first}
    freeze(template)
    end = time.monotonic() + 60
    while set(first) & set(pids(pool)) or not pool.has_exactly(2):
        assert body_of(await harness.ask(b"x", do="sleep", seconds=0.01)) == b"x"
        assert time.monotonic() < end
    await until(lambda: has_ended(template))  # when nothing depends on it any more
    assert all(map(has_ended, first))
    assert pool.failures.in_a_row == 0


async def test_a_worker_is_replaced_though_its_template_is_frozen(harness):
    version = await harness.load()
    (worker,) = pids(version.pool)
    template = psutil.Process(worker).ppid()
    freeze(template)
    os.kill(worker, signal.SIGKILL)
    assert body_of(await asyncio.wait_for(harness.submit(b"x"), 60)) == b"x"
    await until(lambda: has_ended(template))


async def test_a_template_that_goes_on_after_it_was_given_up_forks_nobody(harness):
    others = set(psutil.Process().children(recursive=True))  # of tests before this one
    version = await harness.load()
    pool = version.pool
    asked = harness.submit(b"x", do="sleep", seconds=3)
    (worker,) = pids(pool)
    template = psutil.Process(worker).ppid()
    (given_up,) = harness.engine._workers._templates.values()
    freeze(template)
    pool.start(2)
    await until(lambda: given_up.dead)
    assert not has_ended(template)  # it would take the worker with it
    os.kill(template, signal.SIGCONT)
    assert body_of(await asyncio.wait_for(asked, 60)) == b"x"
    await until(lambda: has_ended(template) and pool.has_exactly(2))
    assert worker not in pids(pool)
    left = set(psutil.Process().children(recursive=True)) - others
    assert len(left) == 3  # another template, and its workers


async def test_a_process_that_is_frozen_while_it_imports_libraries_is_replaced(
    harness, tmp_path, monkeypatch
):
    (tmp_path / "slow_library.py").write_text("import time\ntime.sleep(2)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("mooring.workers.spawner.preload", lambda _spec: ("slow_library",))
    loading = asyncio.ensure_future(harness.load())
    templates = harness.engine._workers._templates
    await until(lambda: ("slow_library",) in templates)
    frozen = templates["slow_library",].pid
    await asyncio.sleep(0.3)
    freeze(frozen)
    version = await loading
    assert version.ready
    assert has_ended(frozen)


async def test_a_frozen_template_of_a_model_is_replaced(harness, tmp_path):
    pytest.importorskip("torch")
    from test_preloaded import INPUT, asked, deploy, saved

    pool = await deploy(harness, saved(tmp_path / "model.pt", 2))
    (worker,) = pids(pool)
    template = psutil.Process(worker).ppid()
    assert psutil.Process(template).ppid() != os.getpid()  # the one with the libraries is between them
    freeze(template)
    os.kill(worker, signal.SIGKILL)
    outcome = await asyncio.wait_for(asked(harness, INPUT), 30)
    assert outcome.outputs
    await until(lambda: has_ended(template))
