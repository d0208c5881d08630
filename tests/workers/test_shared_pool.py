"""The workers of another process, as a frontend sees them: it sends them requests, and others keep them alive."""

import asyncio

import pytest
from model_kit import model_spec
from virtual_time import set_clock, turns, virtual_time
from worker_fakes import FakeOwner, FakeProcess, FakeWork

from mooring.core.errors import WorkerDied
from mooring.workers import handle as handle_module
from mooring.workers.shared_pool import SharedPool

KILLED = WorkerDied("Worker died.", detail="killed by signal 9")


class Stage:
    """A pool of workers that the test is, by their names."""

    def __init__(self, *names, **spec):
        self.owner = FakeOwner()
        self.records = []
        self.pool = SharedPool(model_spec(backend="x", **spec), self.owner, self.records.append)
        self.processes = {}
        self.left = []
        for name in names:
            self.attach(name)
        self.loop = asyncio.get_running_loop()
        self.loop.closers.append(self.close)

    def close(self):
        self.pool.close()
        for process in self.processes.values():
            process.theirs.close()

    def attach(self, name):
        process = self.processes[name] = FakeProcess(channel=1, channels=2)
        self.pool.attach(name, process)

    def detach(self, name):
        self.pool.detach(name, lambda: self.left.append(name))

    def send(self, name, *keys):
        (worker,) = (worker for worker in self.pool.idle if worker.id == name)
        worker.send([FakeWork(key) for key in keys])

    async def answer(self, name, *keys):
        self.processes[name].answer(*keys)
        await turns()

    async def end(self, name):
        """The keeper's process ends: its end of the channel closes, and that is all that is seen of it here."""
        self.processes[name].theirs.close()
        await turns()


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    set_clock(monkeypatch, handle_module)


@virtual_time
async def test_a_worker_that_is_attached_is_sent_requests():
    stage = Stage("a")
    assert (stage.pool.ready, stage.owner.free) == (1, 1)
    stage.send("a", 1, 2)
    await stage.answer("a", 1, 2)
    assert stage.owner.free == 2
    assert list(stage.pool.served()) == [("a", 2)]
    assert list(stage.pool.served()) == []


@virtual_time
async def test_the_worker_that_no_other_frontend_keeps_busy_is_the_next():
    stage = Stage("a", "b")
    assert stage.pool.next().id == "b"
    stage.processes["b"].progress.send(0, 3)
    assert stage.pool.next().id == "a"
    stage.processes["a"].progress.send(0, 3)
    assert stage.pool.next().id == "b"


@virtual_time
async def test_an_idle_worker_leaves_at_once_and_a_busy_one_when_it_has_answered():
    stage = Stage("a", "b")
    stage.send("b", 1)
    stage.detach("a")
    stage.detach("b")
    stage.detach("nobody")
    assert stage.left == ["a", "nobody"]
    assert (stage.pool.ready, stage.processes["a"].dismissed) == (0, True)
    await stage.answer("b", 1)
    assert stage.left == ["a", "nobody", "b"]
    assert stage.processes["b"].dismissed


@virtual_time
async def test_why_a_worker_died_may_be_known_before_its_channel_ends():
    stage = Stage("a")
    stage.send("a", 1)
    stage.pool.report_death("a", KILLED, retry=False)
    assert stage.owner.deaths == []
    await stage.end("a")
    assert stage.owner.deaths == [([], [1], False)]
    assert stage.owner.log[-1] is KILLED


@virtual_time
async def test_or_it_may_be_known_after_it():
    stage = Stage("a")
    stage.send("a", 1)
    await stage.end("a")
    await asyncio.sleep(1.9)
    assert stage.owner.deaths == []
    stage.pool.report_death("a", KILLED, retry=True)
    assert stage.owner.deaths == [([], [1], True)]
    await asyncio.sleep(10.0)
    assert len(stage.owner.deaths) == 1


@virtual_time
async def test_requests_do_not_wait_for_ever_for_the_reason():
    stage = Stage("a")
    stage.send("a", 1)
    await stage.end("a")
    await asyncio.sleep(2.1)
    assert stage.owner.deaths == [([], [1], True)]


@virtual_time
async def test_a_worker_that_dies_while_it_leaves_has_left():
    stage = Stage("a")
    stage.send("a", 1)
    stage.detach("a")
    await stage.end("a")
    stage.pool.report_death("a", KILLED, retry=True)
    assert stage.left == ["a"]


@virtual_time
async def test_the_time_of_a_request_begins_when_the_worker_begins_it():
    stage = Stage("a", response_timeout=5.0)
    stage.send("a", 1)
    process = stage.processes["a"]
    await asyncio.sleep(100.0)
    stage.pool.check(stage.loop.time())
    process.progress.start(1, 0, 1)
    await asyncio.sleep(4.9)
    stage.pool.check(stage.loop.time())
    assert process.kills == 0
    await asyncio.sleep(0.2)
    stage.pool.check(stage.loop.time())
    stage.pool.check(stage.loop.time())
    assert process.kills == 1
    await turns()
    await asyncio.sleep(2.1)
    assert stage.owner.deaths == [([1], [], False)]
