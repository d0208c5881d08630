"""What runs on a node is made to match the latest assignment, one step after the other for each model."""

import asyncio

import msgspec
import pytest

from mooring.cluster import assignments
from mooring.cluster.assignments import Assignments
from mooring.cluster.records import (
    ModelFiles,
    NodeAssignment,
    ReplicaState,
    RoutingTable,
    VersionAssignment,
)
from mooring.core.errors import FetchFailed, ModelLoadFailed, Unsupported, WorkersFailed
from mooring.core.service import ModelState, QueueScaling, VersionLoad


class FakeFiles:
    def __init__(self, place, closed):
        self.place = place
        self._closed = closed

    def close(self):
        self._closed.append(self.place)


class FakeSources:
    """Has every file at once, or fails, or waits until it may come."""

    def __init__(self):
        self.closed = []
        self.failing = {}  # by hash: the error
        self.coming = asyncio.Event()
        self.coming.set()

    async def open_files(self, files):
        await self.coming.wait()
        if files.sha256 in self.failing:
            raise self.failing[files.sha256]
        return FakeFiles(files.sha256, self.closed)


class FakeModels:
    """Remembers what was done; loads wait until they may end."""

    def __init__(self):
        self.done = []
        self.loaded = {}  # by key: workers
        self.failing = {}  # by model: the error
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.defaults = {}
        self.scales = False
        self.state = "READY"

    async def load_assigned(self, model, read):
        assigned, place = read()
        self.done.append(f"load {model} {assigned.version} {place}")
        await self.may_load.wait()
        if model in self.failing:
            raise self.failing[model]
        self.loaded[model, assigned.version] = assigned.min_workers or 1

    async def unload_assigned(self, model, version):
        self.done.append(f"unload {model} {version}")
        await asyncio.sleep(0)
        del self.loaded[model, version]

    async def scale(self, model, version="", *, least, most, wait=True):
        self.done.append(f"scale {model} {version} {least} {most}")
        if model in self.failing:
            raise self.failing[model]
        self.loaded[model, version] = least

    def choose_default(self, model, version):
        self.defaults[model] = version

    def loads(self):
        scaling = QueueScaling(0.1, 0.25, 3, 8) if self.scales else None
        return [
            VersionLoad(*key, 3, 0.5, 1, number, number, 0, 1.5, 70, scaling)
            for key, number in self.loaded.items()
        ]

    def states(self):
        ready = self.state == "READY"
        return [
            ModelState(*key, self.state, ready=ready, is_default=False, reason="died") for key in self.loaded
        ]


class Node:
    def __init__(self):
        self.models, self.sources = FakeModels(), FakeSources()
        self.now = 100.0
        self.changes = 0
        self.assignments = Assignments(
            self.models, self.sources, lambda assigned, place: (assigned, place), self.count, lambda: self.now
        )
        self.generation = 0

    def count(self):
        self.changes += 1

    def take(self, *versions, routing=None):
        self.generation += 1
        self.assignments.take(NodeAssignment(1, self.generation, list(versions), routing or RoutingTable()))

    async def settle(self):
        for _ in range(200):
            await asyncio.sleep(0)
            if self.assignments.settled:
                return
        raise AssertionError("it does not settle")

    async def do(self, *versions, **more):
        """Take these versions, wait until all is done, and return what was done."""
        before = len(self.models.done)
        self.take(*versions, **more)
        await self.settle()
        return self.models.done[before:]

    def states(self):
        return {
            f"{each.model}/{each.version}": f"{each.state}{' behind' if each.behind else ''}"
            for each in self.assignments.describe()
        }


@pytest.fixture
async def node():
    node = Node()
    yield node
    await node.assignments.close()


def version(model="m", number="1", content="a", **more):
    return VersionAssignment(model, number, ModelFiles(sha256=content, name="m.onnx", size=1), **more)


async def test_what_is_assigned_is_loaded_and_what_is_not_any_more_unloaded_after_that(node):
    assert not node.assignments.settled
    assert await node.do(version(), version("n")) == ["load m 1 a", "load n 1 a"]
    assert node.states() == {"m/1": "READY", "n/1": "READY"}
    assert node.assignments.find("m", "1") == version()
    assert await node.do(version(number="2", content="b")) == ["load m 2 b", "unload m 1", "unload n 1"]
    assert node.models.loaded == {("m", "2"): 1}
    assert sorted(node.sources.closed) == ["a", "a"]
    assert node.states() == {"m/2": "READY"}
    assert node.models.done.index("load m 2 b") < node.models.done.index("unload m 1")


async def test_the_same_assignment_again_does_nothing(node):
    await node.do(version(), version("n"))
    node.take(version(), version("n"))
    assert node.assignments.settled  # at once: an assignment comes with each change of the cluster
    moved = ModelFiles(sha256="a", name="m.onnx", size=1, sources=["node:elsewhere"])
    assert await node.do(msgspec.structs.replace(version(), files=moved, draining=True), version("n")) == []
    assert node.states() == {"m/1": "READY", "n/1": "READY"}


async def test_other_files_or_options_load_anew_while_the_old_version_answers(node):
    await node.do(version())
    node.models.may_load.clear()
    node.take(version(content="b"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert node.states() == {"m/1": "READY behind"}
    assert node.sources.closed == []
    node.models.may_load.set()
    await node.settle()
    assert node.states() == {"m/1": "READY"}
    assert node.sources.closed == ["a"]
    assert await node.do(version(content="b", options={"batch_size": 4})) == ["load m 1 b"]
    assert await node.do(version(content="b", config={"max_batch_size": 4})) == ["load m 1 b"]


async def test_other_numbers_of_workers_scale(node):
    await node.do(version())
    assert await node.do(version(min_workers=2, max_workers=3)) == ["scale m 1 2 3"]
    (status,) = node.assignments.describe()
    # Without a target for its queue nothing makes use of the greater number.
    assert (status.ready_workers, status.wanted_workers, status.max_workers) == (2, 2, 2)
    assert (status.waiting, status.oldest_wait, status.in_flight) == (3, 0.5, 1)
    assert (status.busy_workers, status.requests, status.queue_p95) == (1.5, 70, 0.0)
    node.models.scales = True
    (status,) = node.assignments.describe()
    assert (status.wanted_workers, status.max_workers, status.queue_p95) == (2, 8, 0.25)
    assert await node.do(version(max_workers=1)) == ["scale m 1 1 1"]
    node.models.failing["m"] = Unsupported("a chain")
    assert await node.do(version(min_workers=4)) == ["scale m 1 4 4"]
    assert node.states() == {"m/1": "READY"}


async def test_workers_that_do_not_come_up_leave_the_version_ready_and_say_why(node):
    await node.do(version())
    node.models.failing["m"] = WorkersFailed("no memory")
    await node.do(version(min_workers=9, max_workers=9))
    (status,) = node.assignments.describe()
    assert (status.state, status.behind, status.reason) == (ReplicaState.READY, True, "no memory")


async def test_how_far_a_version_is(node):
    node.sources.coming.clear()
    node.models.may_load.clear()
    node.take(version())
    seen = []
    for event in (node.sources.coming, node.models.may_load, None):
        for _ in range(10):
            await asyncio.sleep(0)
        seen.append(node.states()["m/1"])
        if event is not None:
            event.set()
    assert seen == ["FETCHING", "LOADING", "READY"]
    assert node.changes >= 4


async def test_the_latest_assignment_wins(node):
    node.models.may_load.clear()
    node.take(version(content="a"))
    for _ in range(10):
        await asyncio.sleep(0)
    node.take(version(content="b"))
    node.take(version(content="c"))
    node.models.may_load.set()
    await node.settle()
    assert node.models.done == ["load m 1 a", "load m 1 c"]
    node.models.may_load.clear()
    node.take(version(content="d"))
    for _ in range(10):
        await asyncio.sleep(0)
    node.take()
    node.models.may_load.set()
    await node.settle()
    assert node.models.done[-1] == "unload m 1"
    assert node.states() == {}
    assert sorted(node.sources.closed) == ["a", "c", "d"]


async def test_what_is_not_assigned_any_more_when_it_has_loaded_is_unloaded(node):
    node.models.may_load.clear()
    node.take(version())
    for _ in range(10):
        await asyncio.sleep(0)
    node.take()
    node.models.may_load.set()
    await node.settle()
    assert node.models.done == ["load m 1 a", "unload m 1"]
    assert node.states() == {}


async def test_models_do_not_wait_for_each_other(node):
    node.sources.failing["x"] = FetchFailed("gone")
    node.models.may_load.clear()
    node.take(version(), version("n", content="x"), version("o"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert node.states() == {"m/1": "LOADING", "n/1": "FAILED", "o/1": "LOADING"}
    node.models.may_load.set()


async def test_a_version_that_fails_says_why_and_is_tried_again_after_pauses_that_double(node, monkeypatch):
    monkeypatch.setattr(assignments, "_FIRST_PAUSE", 0.02)
    node.models.failing["m"] = ModelLoadFailed("broken weights")
    await node.do(version())
    (status,) = node.assignments.describe()
    assert (status.state, status.reason) == (ReplicaState.FAILED, "broken weights")
    assert node.sources.closed == ["a"]
    assert await node.do(version()) == []  # not before the pause is over
    await asyncio.sleep(0.03)
    assert node.models.done == ["load m 1 a"] * 2
    await asyncio.sleep(0.02)
    assert len(node.models.done) == 2  # twice as long this time
    del node.models.failing["m"]
    await asyncio.sleep(0.04)
    assert node.states() == {"m/1": "READY"}


async def test_a_version_that_failed_is_tried_at_once_as_it_is_assigned_anew(node):
    node.models.failing["m"] = ModelLoadFailed("broken weights")
    await node.do(version())
    del node.models.failing["m"]
    assert await node.do(version(content="b")) == ["load m 1 b"]
    assert node.states() == {"m/1": "READY"}
    assert node.assignments.describe()[0].reason == ""


async def test_a_replacement_that_fails_leaves_the_old_version_answering(node):
    await node.do(version())
    node.models.failing["m"] = ModelLoadFailed("broken release")
    await node.do(version(content="b"))
    (status,) = node.assignments.describe()
    assert (status.state, status.behind, status.reason) == (ReplicaState.READY, True, "broken release")
    assert await node.do(version()) == []
    assert node.states() == {"m/1": "READY"}


async def test_what_failed_is_tried_again_when_another_model_is_ready(node):
    node.models.failing["ensemble"] = ModelLoadFailed("step 'm' is not loaded")
    await node.do(version("ensemble"))
    del node.models.failing["ensemble"]
    await node.do(version("ensemble"), version())
    await node.settle()
    assert node.states() == {"ensemble/1": "READY", "m/1": "READY"}


async def test_a_version_whose_workers_die_is_failed_with_their_reason(node):
    await node.do(version())
    node.models.state = "FAILED"
    (status,) = node.assignments.describe()
    assert (status.state, status.reason) == (ReplicaState.FAILED, "died")


async def test_the_default_of_the_cluster_answers_here_too_once_it_is_here(node):
    routing = RoutingTable(1, defaults={"m": "2", "elsewhere": "1"})
    await node.do(version(), version(number="2"), routing=routing)
    assert node.models.defaults == {"m": "2"}


async def test_a_fault_of_our_own_fails_the_version_and_no_other(node, caplog):
    node.models.failing["m"] = ZeroDivisionError("of ours")
    await node.do(version(), version("n"))
    assert node.states() == {"m/1": "FAILED", "n/1": "READY"}
    assert node.assignments.describe()[0].reason == "ZeroDivisionError: of ours"
    assert "ZeroDivisionError" in caplog.text
