"""Which models get and lose workers by how long their requests wait: over pools that are none, and a clock of their own."""

import asyncio
import math
from types import SimpleNamespace

import pytest
from model_kit import model_spec

from mooring.core.options import SequenceOptions
from mooring.engine.admission import QueueLoad
from mooring.engine.registry import Registry
from mooring.engine.worker_scaling import QueueWindow, WorkerScaling
from mooring.observability.statistics import DURATIONS, ModelStatistics

SCALED = {
    "min_workers": 1,
    "max_workers": 8,
    "workers_by_default": False,
    "target_queue": 0.1,
    "scaling_window": 1.0,
    "cool_down": 5.0,
}


class Pool:
    """Workers that are ready as soon as they are wanted."""

    def __init__(self, count):
        self.wanted, self.ready, self.served, self.busy = count, count, 0, 0.0
        self.failures = SimpleNamespace(in_a_row=0)
        self.at_zero = False

    @property
    def workers(self):
        return [SimpleNamespace(pids=(at,), loaded=True) for at in range(self.ready)]

    def start(self, count):
        self.wanted = self.ready = count

    def scale_to_zero(self):
        self.start(0)
        self.at_zero = True


class Version:
    def __init__(self, name, **settings):
        self.spec = model_spec(name=name, version="1", location="", backend="handler", **(SCALED | settings))
        self.ready, self.resizes = True, 0
        self.scheduler = SimpleNamespace(idle=True)
        self.pool = Pool(self.spec.scaling.first_workers)
        self.statistics = ModelStatistics(name, "1")
        self.waiting, self.oldest = 0, math.inf

    @property
    def scaled_to_zero(self):
        return self.ready and not self.pool.wanted

    def set_on_move(self, on_move):
        """Nobody hears of its moves."""


class House:
    """Models with targets on a machine with a bound, and a clock."""

    def __init__(self, room=100, free_memory=1 << 40):
        self.registry, self.now, self.room, self.retired = Registry(), 1000.0, room, []
        self.scaling = WorkerScaling(self.registry, self, self.retire, lambda: free_memory)

    def load_of(self, version):
        return QueueLoad(version.waiting, 0, version.oldest)

    def statistics_of(self, version):
        return version.statistics

    def room_for(self, _version):
        return self.room

    async def retire(self, version):
        self.retired.append(version)

    def add(self, name="m", **settings):
        version = Version(name, **settings)
        self.registry.add_version(version)
        return version

    async def looks(self, seconds=0.25):
        for _ in range(math.ceil(seconds / 0.25)):
            self.now += 0.25
            self.scaling.check(self.now)
            for _ in range(3):
                await asyncio.sleep(0)

    def make_wait(self, version, count, seconds):
        version.waiting, version.oldest = count, self.now + 0.25 - seconds


async def test_a_burst_gets_workers_and_a_cool_down_takes_them_away():
    house = House()
    version = house.add()
    await house.looks()
    house.make_wait(version, 9, 0.25)
    await house.looks()
    assert version.pool.wanted == 3
    version.waiting = 0
    await house.looks(30)
    assert version.pool.wanted == 1
    assert version.statistics.scalings == [2, 1]  # 3 to 1 in two steps


@pytest.mark.parametrize(
    "settings", [{"target_queue": 0.0}, {"min_workers": 2, "max_workers": 2}], ids=["no target", "no range"]
)
async def test_a_model_without_a_target_or_a_range_keeps_its_workers(settings):
    house = House()
    version = house.add(**settings)
    workers = version.pool.wanted
    house.make_wait(version, 50, 30)
    await house.looks(60)
    assert version.pool.wanted == workers


async def test_a_version_is_left_alone_while_something_else_is_going_on_with_it():
    house = House()
    version = house.add()
    await house.looks()
    house.make_wait(version, 50, 30)
    version.ready = False
    await house.looks()
    version.ready, version.resizes = True, 1
    await house.looks()
    version.resizes, version.pool.failures.in_a_row, version.pool.ready = 0, 2, 0
    await house.looks()
    assert version.pool.wanted == 1
    version.pool.ready = 1  # all are back, though none has answered yet
    await house.looks()
    assert version.pool.wanted == 4


async def test_workers_of_other_models_leave_less_room_and_what_is_beyond_it_goes_at_once():
    house = House(room=3)
    version = house.add()
    await house.looks()
    house.make_wait(version, 50, 30)
    await house.looks()
    assert version.pool.wanted == 3
    described = house.scaling.describe(version)
    assert (described.needed_workers, described.most_workers) == (4, 3)
    house.room = 2
    await house.looks()
    assert version.pool.wanted == 2
    house.room = 0  # what the model has at least was promised to it
    await house.looks()
    assert version.pool.wanted == 1


async def test_no_worker_is_added_that_the_free_memory_does_not_hold(monkeypatch):
    measured = []

    def sum_memory(pids):
        measured.append(pids)
        return 100

    monkeypatch.setattr("mooring.engine.worker_scaling.sum_memory", sum_memory)
    house = House(free_memory=250)
    version = house.add()
    await house.looks()
    house.make_wait(version, 50, 0.11)
    await house.looks()  # nothing is known of its memory yet
    assert version.pool.wanted == 2
    while not house.scaling._scaled[version].worker_memory:
        await asyncio.sleep(0.01)
    house.make_wait(version, 50, 30)
    await house.looks()
    assert version.pool.wanted == 4
    assert len(measured) == 1 + 1 * (len(measured) > 1)


async def test_the_last_worker_goes_once_no_frontend_uses_the_version_and_comes_with_the_next_request():
    house = House()
    version = house.add(min_workers=0)
    await house.looks(10)
    assert version.pool.at_zero
    assert house.retired == [version]
    house.scaling.wake_version(version)
    assert version.pool.wanted == 1
    house.scaling.wake_version(version)  # which has one
    assert version.pool.wanted == 1


async def test_a_request_that_comes_while_frontends_let_go_keeps_the_last_worker():
    house = House()
    version = house.add(min_workers=0)

    async def retire(_version):
        version.scheduler.idle = False

    house.scaling = WorkerScaling(house.registry, house, retire)
    await house.looks(10)
    assert version.pool.wanted == 1


@pytest.mark.parametrize(
    "settings", [{"enabled": True}, {"job_ticket": True}], ids=["sequences", "job ticket"]
)
async def test_a_model_that_keeps_state_or_lets_nothing_wait_keeps_a_worker(settings):
    house = House()
    version = house.add(min_workers=0, **settings)
    assert isinstance(version.spec.sequence, SequenceOptions)
    await house.looks(30)
    assert version.pool.wanted == 1


async def test_what_was_looked_at_is_told_and_forgotten_with_the_version():
    house = House()
    version, other = house.add("m"), house.add("other", target_queue=0.0)
    assert house.scaling.describe(version) is None
    await house.looks()
    told = house.scaling.describe(version)
    assert (told.target, told.queue_p95, told.needed_workers, told.most_workers) == (0.1, 0.0, 1, 8)
    assert house.scaling.describe(other) is None
    house.registry.remove_version(version)
    await house.looks()
    assert house.scaling.describe(version) is None
    house.scaling.close()


async def test_looks_are_apart_and_read_the_histogram_that_is_there():
    house = House()
    version = house.add()
    await house.looks()
    for _ in range(20):
        version.statistics.observe_request(0.3, 0.2, True)
    house.scaling.check(house.now + 0.1)
    assert house.scaling.describe(version).queue_p95 == 0.0
    await house.looks()
    assert 0.1 < house.scaling.describe(version).queue_p95 <= 0.25


def test_a_window_forgets_what_is_older_and_keeps_few_readings():
    window, counts = QueueWindow(), [0] * (len(DURATIONS) + 1)
    assert window.percentile(0.0, counts, 1.0) == 0.0
    slow = DURATIONS.index(0.5)
    counts[slow] += 10
    assert 0.25 < window.percentile(0.2, counts, 1.0) <= 0.5
    for look in range(2, 40):
        counts[0] += 1
        last = window.percentile(look / 10, counts, 1.0)
    assert last <= DURATIONS[0]
    assert len(window._readings) <= 12
