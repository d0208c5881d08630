"""The pool of one version: how many workers it keeps, and what becomes of those that die, hang, grow or are too many."""

import asyncio

import pytest
from model_kit import model_spec
from virtual_time import set_clock, turns, virtual_time
from worker_fakes import FakeOwner, FakeSpawner, FakeWork

from mooring.core.service import Joining, JoiningState
from mooring.ipc.arena import Arena
from mooring.ipc.messages import EnableJoining, Load
from mooring.workers import handle as handle_module
from mooring.workers import heartbeat, recycling
from mooring.workers import local as local_module
from mooring.workers import pool as pool_module
from mooring.workers.handle import WorkerState
from mooring.workers.heartbeat import Deadlines
from mooring.workers.local import LocalWorkers
from mooring.workers.pool import WorkerPool

MB = 1 << 20


class Sharing:
    """The part of the frontends: they let go of a worker when the test says so."""

    def __init__(self):
        self.heard = []
        self.may_go = asyncio.Event()

    def joined(self, worker):
        self.heard.append(("joined", worker.id))

    async def leave(self, worker):
        self.heard.append(("leave", worker.id))
        await self.may_go.wait()

    def on_worker_died(self, worker, error, *, retry):
        self.heard.append(("died", worker.id, retry))


class Stage:
    """A pool whose processes do what the test says."""

    def __init__(self, *, sharing=None, heartbeat=10.0, **spec):
        self.owner = FakeOwner()
        workers = LocalWorkers(Arena(65_536), None, 9000, deadlines=Deadlines(heartbeat))
        self.spec = model_spec(backend="x", **spec)
        self.pool = WorkerPool(self.spec, self.owner, workers, 1, sharing=sharing)
        self.spawner = self.pool._spawner
        self.loop = asyncio.get_running_loop()
        self.loop.closers.append(self.close)

    def close(self):
        for task in self.pool._tasks:
            task.cancel()
        for worker in self.pool.workers:
            worker.start_permit.end()
            worker.close()
        for process in self.processes:
            process.theirs.close()

    @property
    def processes(self):
        return self.spawner.processes

    async def start(self, count):
        """So many workers, all with the model."""
        self.pool.start(count)
        await turns()
        await self.load(*self.processes)

    async def load(self, *processes, **more):
        for process in processes:
            process.load(**more)
        await turns()

    def send(self, worker, *keys):
        """As the scheduler does."""
        works = [FakeWork(key) for key in keys]
        worker.send(works)
        return works

    async def wait(self, seconds):
        await asyncio.sleep(seconds)
        await turns()

    def check(self):
        self.pool.check(self.loop.time())

    @property
    def alive(self):
        """The numbers of the processes that have not ended."""
        return [number for number, process in enumerate(self.processes) if process.status is None]


@pytest.fixture(autouse=True)
def _world(monkeypatch):
    set_clock(monkeypatch, handle_module, pool_module)
    monkeypatch.setattr(pool_module, "Spawner", FakeSpawner)
    monkeypatch.setattr(local_module, "count_cores", lambda: 1)


# Starting.


@virtual_time
async def test_as_many_workers_are_started_as_are_wanted_and_each_is_told_its_model():
    stage = Stage()
    stage.pool.start(2)
    await turns()
    assert not stage.pool.has_exactly(2)
    loads = [message for process in stage.processes for message in process.heard]
    assert [type(message) for message in loads] == [Load, Load]
    assert [(load.spec.name, load.context.worker) for load in loads] == [("m", "9000"), ("m", "9001")]
    await stage.load(*stage.processes)
    assert stage.pool.has_exactly(2)
    assert (stage.owner.loaded, stage.owner.free, len(stage.pool.idle)) == (2, 2, 2)


@virtual_time
async def test_at_most_four_workers_of_a_version_are_started_at_a_time():
    stage = Stage()
    stage.spawner.gate.clear()
    stage.pool.start(6)
    await turns()
    assert stage.spawner.waiting == 4
    stage.spawner.gate.set()
    await turns(20)
    assert len(stage.processes) == 6


@virtual_time
async def test_a_worker_waits_its_turn_until_another_has_its_model_or_takes_too_long():
    stage = Stage()
    stage.pool.start(10)
    await turns(20)
    assert len(stage.processes) == 8
    await stage.load(stage.processes[0])
    assert len(stage.processes) == 9
    await stage.wait(4.9)
    assert len(stage.processes) == 9
    await stage.wait(0.2)
    assert len(stage.processes) == 10


@virtual_time
async def test_no_worker_is_started_that_is_no_longer_wanted_when_its_turn_comes():
    stage = Stage()
    stage.spawner.gate.clear()
    stage.pool.start(6)
    await turns()
    stage.pool.start(4)
    stage.spawner.gate.set()
    await turns(20)
    assert len(stage.alive) == 4


@virtual_time
async def test_where_no_process_can_be_started_it_is_said_and_tried_again():
    stage = Stage()
    stage.spawner.error = OSError("no room")
    stage.pool.start(1)
    await turns()
    assert [error.message for error in stage.owner.failures] == [
        "no worker process could be started: no room"
    ] * 2
    assert stage.owner.restarts == ["NOT_STARTED"] * 2
    stage.spawner.error = None
    await stage.wait(0.9)
    assert stage.processes == []
    await stage.wait(0.2)
    assert len(stage.processes) == 1


# Fewer workers.


@virtual_time
async def test_an_idle_worker_that_is_too_many_has_two_seconds_to_close_its_model():
    stage = Stage()
    await stage.start(3)
    stage.pool.start(1)
    await turns()
    assert [process.dismissed for process in stage.processes] == [False, True, True]
    assert stage.pool.has_exactly(1)
    stage.processes[1].end()
    await stage.wait(1.9)
    assert [process.kills for process in stage.processes] == [0, 0, 0]
    await stage.wait(0.2)
    assert [process.kills for process in stage.processes] == [0, 0, 1]
    assert stage.owner.failures == []


@virtual_time
async def test_workers_that_still_load_go_first_and_at_once():
    stage = Stage()
    await stage.start(1)
    stage.pool.start(2)
    await turns()
    stage.pool.start(1)
    await turns()
    assert [process.kills for process in stage.processes] == [0, 1]
    assert stage.pool.has_exactly(1)


@virtual_time
async def test_a_busy_worker_that_is_too_many_goes_when_it_has_answered():
    stage = Stage()
    await stage.start(2)
    first, second = stage.pool.workers
    stage.send(first, 1)
    stage.send(second, 2)
    stage.pool.start(1)
    await turns()
    assert not any(process.dismissed for process in stage.processes)
    stage.processes[1].answer(2)
    await turns()
    assert [process.dismissed for process in stage.processes] == [False, True]


@virtual_time
async def test_a_worker_that_its_owner_needs_stays():
    stage = Stage()
    await stage.start(1)
    stage.owner.dismissible = False
    stage.pool.start(0)
    assert stage.pool.has_exactly(1)
    stage.owner.dismissible = True
    stage.pool.dismiss_surplus()
    assert stage.pool.has_exactly(0)


@virtual_time
async def test_a_worker_with_a_capacity_that_is_too_many_gets_nothing_new_and_goes():
    stage = Stage()
    stage.pool.start(2)
    await turns()
    await stage.load(*stage.processes, capacity=2)
    for number, worker in enumerate(stage.pool.workers):
        stage.send(worker, number)
    stage.pool.start(1)
    (leaving,) = (worker for worker in stage.pool.workers if worker.retiring)
    assert leaving not in stage.pool.idle
    number = stage.pool.workers.index(leaving)
    stage.processes[number].answer(number)
    await turns()
    assert stage.processes[number].dismissed


@virtual_time
async def test_a_model_without_workers_has_no_template_either():
    stage = Stage()
    await stage.start(1)
    stage.pool.scale_to_zero()
    assert (stage.processes[0].dismissed, stage.spawner.closed) == (True, 1)


@virtual_time
async def test_a_pool_that_stops_lets_idle_workers_end_and_kills_the_others():
    stage = Stage()
    await stage.start(2)
    stage.send(stage.pool.workers[0], 1)
    stopping = asyncio.ensure_future(stage.pool.stop(2.0))
    await turns()
    assert [(process.kills, process.dismissed) for process in stage.processes] == [(1, True), (0, True)]
    stage.processes[1].end()
    began = stage.loop.time()
    await stopping
    assert stage.loop.time() == began
    assert (list(stage.pool.workers), stage.spawner.closed) == ([], 1)


@virtual_time
async def test_of_workers_that_a_stop_ends_while_they_load_no_descriptor_for_frontends_is_left():
    stage = Stage()
    stage.pool.start(1)
    await turns()
    assert [process.frontends_told for process in stage.processes] == [False]
    await stage.pool.stop(2.0)
    assert [process.frontends_told for process in stage.processes] == [True]


# Death.


@virtual_time
async def test_a_dead_worker_is_replaced_at_once_and_the_next_ones_after_ever_longer_pauses():
    stage = Stage()
    await stage.start(1)
    pauses = []
    for number in range(5):
        began = stage.loop.time()
        stage.processes[number].end(-11)
        while len(stage.processes) == number + 1:
            await asyncio.sleep(0.25)
        pauses.append(stage.loop.time() - began)
        await stage.load(stage.processes[-1])
    assert [int(pause) for pause in pauses] == [0, 1, 1, 2, 3]
    assert stage.owner.failures[0].detail == "worker 9000 (pid 4000) was killed by signal 11 (SIGSEGV)"
    assert stage.owner.restarts == ["DIED"] * 5


@virtual_time
async def test_a_worker_that_answers_after_a_death_ends_the_row_of_failures():
    stage = Stage()
    await stage.start(1)
    stage.processes[0].end(1)
    await turns()
    stage.processes[1].end(1)
    await stage.wait(1.1)
    assert stage.pool.failures.in_a_row == 2
    await stage.load(stage.processes[2])
    stage.send(stage.pool.workers[0], 1)
    stage.processes[2].answer(1)
    await turns()
    assert stage.pool.failures.in_a_row == 0


@virtual_time
async def test_what_a_dead_worker_had_goes_back_to_its_owner_with_what_it_printed_last():
    sharing = Sharing()
    stage = Stage(sharing=sharing)
    await stage.start(1)
    stage.send(stage.pool.workers[0], 1, 2)
    stage.processes[0].progress.start(0, 0, 1)
    stage.processes[0].output.last_lines.append("Segmentation fault")
    stage.processes[0].end(3)
    await turns()
    assert stage.owner.deaths == [([1], [2], True)]
    assert stage.owner.failures[0].detail.splitlines() == [
        "worker 9000 (pid 4000) ended with status 3",
        "Segmentation fault",
    ]
    assert sharing.heard == [("joined", "9000"), ("died", "9000", True)]
    assert stage.pool.served == 2


@virtual_time
async def test_a_worker_whose_template_froze_before_it_was_forked_is_no_failure():
    stage = Stage()
    stage.pool.start(1)
    await turns()
    stage.processes[0].pid, stage.processes[0].stale = 0, True
    stage.processes[0].end(-9)
    await turns()
    assert (len(stage.processes), stage.owner.failures) == (2, [])
    assert stage.owner.restarts == ["TEMPLATE_REPLACED"]


# Models that do not load.


@virtual_time
async def test_a_model_that_cannot_load_is_tried_again_and_the_reason_is_told():
    stage = Stage()
    stage.pool.start(1)
    await turns()
    stage.processes[0].fail("no network")
    await turns()
    assert [error.message for error in stage.owner.failures] == ["no network"]
    assert stage.owner.restarts == ["LOAD_FAILED"]
    assert (stage.owner.failures[0].model, stage.pool.failures.load_failures) == ("m", 1)
    assert len(stage.processes) == 2


@virtual_time
async def test_files_that_cannot_be_loaded_are_tried_when_they_change(monkeypatch):
    changed = asyncio.Event()

    async def files_changed(_location, _since, _pause):
        await changed.wait()

    monkeypatch.setattr(pool_module, "files_changed", files_changed)
    stage = Stage()
    stage.pool.start(1)
    await turns()
    stage.processes[0].fail(lasting=True)
    await stage.wait(1000.0)
    assert len(stage.processes) == 1
    changed.set()
    await turns()
    assert (len(stage.processes), stage.spawner.rechecks) == (2, 1)
    changed.clear()
    stage.processes[1].fail(lasting=True)
    await turns()
    stage.pool.start(1)  # whoever asks for workers is not made to wait for files
    await turns()
    assert len(stage.processes) == 3


@virtual_time
async def test_while_others_serve_a_worker_that_cannot_load_is_not_left_to_its_files():
    stage = Stage()
    await stage.start(1)
    stage.pool.start(2)
    await turns()
    stage.processes[1].fail(lasting=True)
    await turns()
    assert len(stage.processes) == 3


# Slow and frozen workers.


@virtual_time
async def test_a_worker_that_does_not_answer_in_time_is_ended_and_its_request_does_not_run_again():
    stage = Stage(response_timeout=5.0)
    await stage.start(1)
    stage.send(stage.pool.workers[0], 1)
    stage.processes[0].progress.start(0, 0, 1)
    await stage.wait(5.0)
    stage.check()
    assert stage.processes[0].kills == 0
    await stage.wait(0.1)
    stage.check()
    stage.check()
    await turns()
    assert stage.processes[0].kills == 1
    assert stage.owner.deaths == [([1], [], False)]
    assert "was ended after 5 s" in stage.owner.failures[0].detail
    assert stage.owner.restarts == ["RESPONSE_TIMEOUT"]


@virtual_time
async def test_a_model_has_its_own_time_to_load():
    stage = Stage(response_timeout=5.0, startup_timeout=50.0)
    stage.pool.start(1)
    await turns()
    await stage.wait(49.0)
    stage.check()
    assert stage.processes[0].kills == 0
    await stage.wait(1.1)
    stage.check()
    await turns()
    assert "was ended after 50 s" in stage.owner.failures[0].detail
    assert stage.owner.restarts == ["STARTUP_TIMEOUT"]


@virtual_time
async def test_an_idle_worker_may_be_idle_for_ever():
    stage = Stage(response_timeout=5.0)
    await stage.start(1)
    await stage.wait(1000.0)
    stage.check()
    assert stage.processes[0].kills == 0


@virtual_time
async def test_a_worker_with_a_capacity_has_two_seconds_more_to_refuse_by_itself():
    stage = Stage(response_timeout=5.0)
    stage.pool.start(1)
    await turns()
    await stage.load(*stage.processes, capacity=2)
    stage.send(stage.pool.workers[0], 1)
    await stage.wait(6.9)
    stage.check()
    assert stage.processes[0].kills == 0
    await stage.wait(0.2)
    stage.check()
    assert stage.processes[0].kills == 1


@virtual_time
async def test_a_worker_that_a_signal_has_stopped_is_ended_and_its_request_runs_elsewhere(monkeypatch):
    monkeypatch.setattr(heartbeat, "is_stopped", lambda _pid: True)
    stage = Stage(heartbeat=10.0)
    await stage.start(1)
    stage.send(stage.pool.workers[0], 1)
    stage.processes[0].progress.start(0, 0, 1)
    began = stage.loop.time()
    while not stage.processes[0].kills:
        await asyncio.sleep(0.5)
        stage.check()
    await turns()
    assert 6.0 <= stage.loop.time() - began <= 14.0
    assert stage.owner.deaths == [([1], [], True)]
    assert "a signal had stopped it for 10 s" in stage.owner.failures[0].detail
    assert stage.owner.restarts == ["FROZEN"]


@virtual_time
async def test_a_frontend_may_have_a_worker_ended_that_does_not_answer_it():
    stage = Stage()
    await stage.start(2)
    stage.pool.end_slow_worker("9001")
    await turns()
    assert [process.kills for process in stage.processes] == [0, 1, 0]
    stage.pool.add_served("9000", 5)
    assert stage.pool.served == 5


# Fresh workers in the place of old ones.


@virtual_time
async def test_a_worker_that_has_served_enough_goes_when_its_successor_is_there_and_it_is_idle():
    stage = Stage(max_requests=2)
    await stage.start(1)
    old = stage.pool.workers[0]
    stage.send(old, 1, 2)
    stage.check()
    stage.check()
    await turns()
    assert len(stage.processes) == 2  # and no third one
    await stage.load(stage.processes[1])
    assert (stage.owner.recycled, stage.owner.restarts) == (1, ["REQUEST_LIMIT"])
    assert (list(stage.pool.leaving), stage.processes[0].dismissed) == ([old], False)
    stage.processes[0].answer(1, 2)
    await turns()
    assert stage.processes[0].dismissed
    assert stage.pool.has_exactly(1)
    assert stage.owner.failures == []


@virtual_time
async def test_nobody_is_recycled_while_workers_are_missing():
    stage = Stage(max_requests=1)
    await stage.start(1)
    stage.pool.start(2)
    await turns()
    stage.send(stage.pool.workers[0], 1)
    stage.check()
    await turns()
    assert len(stage.processes) == 2


@virtual_time
async def test_a_worker_over_its_memory_is_recycled_and_one_over_twice_of_it_is_ended(monkeypatch):
    memory = {4000: 20 * MB, 4001: 30 * MB}

    async def to_thread(work, *args):
        return work(*args)

    monkeypatch.setattr(recycling, "memory_of", lambda pid: memory.get(pid, 0))
    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    stage = Stage(memory_limit=100 * MB)
    await stage.start(1)
    stage.pool.workers[0].ranks = [4001]  # of a parallel group all processes count

    async def look():
        await stage.wait(1.1)
        stage.check()
        await turns()

    await look()
    assert len(stage.processes) == 1
    memory[4000] = 71 * MB
    await look()
    await look()
    assert (len(stage.processes), stage.processes[0].kills) == (2, 0)
    memory[4001] = 131 * MB
    await look()
    assert stage.processes[0].kills == 1
    assert "its limit is 104857600" in stage.owner.failures[0].detail
    assert stage.owner.restarts == ["MEMORY_LIMIT"]


@virtual_time
async def test_a_worker_whose_template_was_replaced_or_that_grew_makes_way_for_that_reason():
    stage = Stage(memory_limit=100 * MB)
    await stage.start(1)
    (worker,) = stage.pool.workers
    worker.memory = 101 * MB
    stage.pool.check(stage.loop.time())
    await turns()
    await stage.load(stage.processes[1])
    assert stage.owner.restarts == ["MEMORY_LIMIT"]
    stage.processes[1].stale = True
    stage.check()
    await turns()
    await stage.load(stage.processes[2])
    assert stage.owner.restarts == ["MEMORY_LIMIT", "TEMPLATE_REPLACED"]


# Frontends.


@virtual_time
async def test_a_dismissed_worker_ends_when_no_frontend_has_a_request_in_it():
    sharing = Sharing()
    stage = Stage(sharing=sharing)
    await stage.start(1)
    stage.pool.start(0)
    await stage.wait(100.0)
    assert (sharing.heard[-1], stage.processes[0].kills) == (("leave", "9000"), 0)
    sharing.may_go.set()
    await stage.wait(2.1)
    assert stage.processes[0].kills == 1


@virtual_time
async def test_the_worker_that_no_frontend_keeps_busy_is_sent_the_next_request(monkeypatch):
    stage = Stage(sharing=Sharing())
    await stage.start(2)
    first, second = stage.pool.workers
    assert stage.pool.next() is second
    monkeypatch.setattr(second.process.progress, "wanted_by_others", lambda _channel: True)
    assert stage.pool.next() is first


# Joining.


@virtual_time
async def test_a_trial_is_made_once_and_every_worker_with_the_file_is_told_its_result():
    untried = Joining(JoiningState.UNTRIED, "nobody knows", "file-1")
    stage = Stage()
    stage.pool.start(2)
    await turns()
    await stage.load(stage.processes[0], joining=untried)
    await stage.load(stage.processes[1], joining=Joining(JoiningState.UNTRIED, "nobody knows", "file-2"))
    for process in stage.processes:
        assert process.heard
    stage.pool.on_joining_missed()
    stage.pool.on_joining_missed()
    assert stage.pool.joining.state is JoiningState.TRYING
    await turns()
    assert (stage.pool.joining.state, stage.pool.joining.stamp) == (JoiningState.SHOWN, "file-1")
    assert [[type(message) for message in process.heard] for process in stage.processes] == [
        [EnableJoining],
        [],
    ]


@virtual_time
async def test_a_worker_that_loads_later_is_told_what_a_trial_has_shown_of_its_file():
    stage = Stage()
    stage.pool.start(1)
    await turns()
    untried = Joining(JoiningState.UNTRIED, "nobody knows", "file-1")
    await stage.load(stage.processes[0], joining=untried)
    stage.pool.on_joining_missed()
    await turns()
    stage.pool.start(2)
    await turns()
    await stage.load(stage.processes[1], joining=untried)
    assert [type(message) for message in stage.processes[1].heard] == [Load, EnableJoining]


@virtual_time
async def test_where_there_is_no_room_for_a_trial_requests_stay_apart():
    stage = Stage()
    await stage.start(1)
    stage.pool._trial.joining = Joining(JoiningState.UNTRIED, "nobody knows")
    stage.spawner.error = OSError("no room")
    stage.pool.on_joining_missed()
    await turns()
    assert stage.pool.joining == Joining(JoiningState.APART, "it could not be tried: no room")


@virtual_time
async def test_an_ended_worker_is_in_none_of_the_lists():
    stage = Stage()
    await stage.start(1)
    (worker,) = stage.pool.workers
    stage.processes[0].end(0)
    await turns(1)
    assert worker.state is WorkerState.ENDED
    assert worker not in stage.pool.idle
    assert worker not in stage.pool.workers
