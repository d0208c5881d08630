"""Which models lose their processes while nobody asks them: the rules, over pools that are none."""

import asyncio
from types import SimpleNamespace

import pytest
from model_kit import model_spec

from mooring.core.options import SequenceOptions
from mooring.engine import scale_to_zero
from mooring.engine.registry import Registry
from mooring.engine.scale_to_zero import Budget, IdleModels, may_scale_to_zero, processes_kept


class Pool:
    """Two workers and a template, until it is scaled to zero."""

    def __init__(self):
        self.wanted, self.served = 2, 0

    @property
    def processes(self):
        return self.wanted + 1 if self.wanted else 0

    @property
    def workers(self):
        return [None] * self.wanted

    pids = ()
    missing = 0  # workers that are still coming

    def has_exactly(self, count):
        return self.wanted == count and not self.missing

    def start(self, count):
        self.wanted = count

    def scale_to_zero(self):
        self.wanted = 0


class Version:
    def __init__(self, name, **settings):
        self.spec = spec(name=name, **settings)
        self.ready = True
        self.scheduler = SimpleNamespace(idle=True)
        self.pool = Pool()

    def set_on_move(self, on_move):
        """Nobody hears of its moves."""


def spec(name="m", **settings):
    settings = {"backend": "onnx", "workers_by_default": True, "min_workers": 2, "max_workers": 2} | settings
    return model_spec(name=name, version="1", location="", **settings)


class House:
    """Models under one budget, and a clock."""

    def __init__(self, processes):
        self.registry = Registry()
        self.idle = IdleModels(self.registry, Budget(processes), self._nothing)
        self.now = 1000.0

    async def _nothing(self, _version):
        pass

    def add(self, name, **settings):
        version = Version(name, **settings)
        self.registry.add_version(version)
        return version

    async def passes(self, seconds=2.0):
        self.now += seconds
        self.idle.check_budget(self.now)
        for _ in range(3):
            await asyncio.sleep(0)

    @property
    def awake(self):
        return {version.spec.name for version in self.registry if version.pool.wanted}


async def test_within_the_budget_every_model_keeps_its_workers():
    house = House(9)
    for name in "abc":
        house.add(name)
        await house.passes()
    assert house.awake == {"a", "b", "c"}


async def test_of_models_that_nobody_ever_asked_the_last_one_loaded_goes_first():
    house = House(6)
    for name in "abcd":
        house.add(name)
        await house.passes()
    assert house.awake == {"a", "b"}


async def test_of_models_that_were_asked_the_least_recently_used_goes_first_and_none_that_is_in_use():
    house = House(6)
    a, b, c = (house.add(name) for name in "abc")
    for version in (a, b, c):
        version.pool.served += 1
    for version in (a, c, b):
        await house.passes()
        version.pool.served += 1
    await house.passes()
    assert house.awake == {"a", "b", "c"}, "all were asked a moment ago"
    a.scheduler.idle = False
    await house.passes(20)
    assert house.awake == {"a", "b"}
    b.pool.served += 1
    house.add("d")
    await house.passes()
    assert house.awake == {"a", "b"}


async def test_a_model_whose_workers_are_still_coming_is_left_alone():
    house = House(1)
    house.add("a").pool.missing = 1
    await house.passes(100)
    assert house.awake == {"a"}


async def test_what_is_asked_while_the_fronts_let_go_of_it_keeps_its_workers():
    house = House(1)
    version = house.add("a")

    async def asked(_version):
        version.scheduler.idle = False

    house.idle = IdleModels(house.registry, Budget(1), asked)
    await house.passes(100)
    assert house.awake == {"a"}


async def test_a_budget_of_nothing_is_none():
    house = House(0)
    for name in "abc":
        house.add(name)
    await house.passes(100)
    assert house.awake == {"a", "b", "c"}


async def test_memory_counts_as_processes_do(monkeypatch):
    monkeypatch.setattr(scale_to_zero, "resident_memory", lambda _pid: 150)  # what they share counts for each
    monkeypatch.setattr(scale_to_zero, "memory_of", lambda _pid: 100)
    house = House(0)
    house.idle = IdleModels(house.registry, Budget(0, 250), house._nothing)
    for name in "abc":
        house.add(name).pool.pids = [1]
    await house.passes()
    await asyncio.sleep(0.1)  # it is measured in a thread
    await house.passes(2)
    assert house.awake == {"a", "b"}


async def test_pages_are_not_counted_where_even_all_that_is_resident_is_within_the_budget(monkeypatch):
    counted = []
    monkeypatch.setattr(scale_to_zero, "resident_memory", lambda _pid: 100)
    monkeypatch.setattr(scale_to_zero, "memory_of", lambda pid: counted.append(pid) or 100)
    house = House(0)
    house.idle = IdleModels(house.registry, Budget(0, 200), house._nothing)
    for name in "ab":
        house.add(name).pool.pids = [1]
    await house.passes()
    await asyncio.sleep(0.1)
    await house.passes()
    assert (counted, house.awake) == ([], {"a", "b"})


async def test_whoever_asks_starts_the_workers_that_the_model_is_to_have():
    house = House(3)
    a, b = house.add("a"), house.add("b")
    await house.passes()
    assert house.awake == {"a"}
    house.idle.wake_version(b)
    assert b.pool.wanted == 2
    a.pool.wanted = 1
    a.pool.served += 1  # loaded with one worker for want of room, and asked after all
    await house.passes()
    assert a.pool.wanted == 2


async def test_a_model_that_comes_above_the_budget_is_loaded_by_one_worker():
    house = House(5)
    assert house.idle.workers_at_first(spec()) == 2
    house.add("a")
    house.add("b")
    assert house.idle.workers_at_first(spec()) == 1
    assert house.idle.workers_at_first(spec(workers_by_default=False)) == 2


def test_of_models_that_may_be_scaled_to_zero_only_the_budget_keeps_processes():
    specs = [spec(), spec(), spec(workers_by_default=False, min_workers=5)]
    assert processes_kept(specs, Budget(3)) == 8
    assert processes_kept(specs, Budget(100)) == processes_kept(specs, Budget(0)) == 9


@pytest.mark.parametrize(
    "settings",
    [
        {"workers_by_default": False},
        {"backend": "function"},
        {"backend": "handler"},
        {"backend": "builtin"},
        {"backend": "pytorch", "parameters": {"module": "model.py:Net"}},
        {"sequence": SequenceOptions(enabled=True)},
        {"job_ticket": True},
    ],
)
def test_what_has_code_or_state_or_a_number_of_workers_is_never_scaled_to_zero(settings):
    assert may_scale_to_zero(spec())
    assert not may_scale_to_zero(spec(**settings))
