"""How far the models of a start are, as far as the registry knows."""

import time

from fakes import FakePool
from model_kit import model_spec

from mooring.core.errors import ModelLoadFailed
from mooring.core.service import ModelMetadata, ModelState
from mooring.engine.registry import ModelVersion, Registry
from mooring.server.start_progress import ModelProgress, Step, find_progress


class Queue:
    def accept_new(self): ...

    def refuse_all(self, error): ...


def add(registry, name, *, since=None):
    version = ModelVersion(model_spec(name=name, version="1", backend="x", location="", min_workers=1))
    pool = FakePool(None, 0)
    pool.loading_since = since
    pool.start = lambda count: None
    version.start_loading(Queue(), pool)
    registry.add_version(version)
    return version


def test_a_model_is_queued_until_a_worker_is_begun_then_loading_ready_or_failed():
    registry = Registry()
    add(registry, "a")
    add(registry, "b", since=time.monotonic() - 5)
    add(registry, "c").on_worker_event(ModelMetadata("c"))
    add(registry, "d").on_worker_event(ModelLoadFailed("no weights"))
    missing = ModelState("e", "", "UNAVAILABLE", ready=False, is_default=False, reason="no such file")
    found = {each.name: each for each in find_progress(registry, [missing])}
    assert [found[name].step for name in "abcde"] == [
        Step.QUEUED, Step.LOADING, Step.READY, Step.FAILED, Step.FAILED,
    ]  # fmt: skip
    assert 5 <= found["b"].seconds < 60
    assert (found["d"].reason, found["e"]) == (
        "no weights",
        ModelProgress("e", "", Step.FAILED, reason="no such file"),
    )


def test_a_failure_that_ends_the_start_is_explained_there():
    registry = Registry()
    version = add(registry, "a")
    version.ends_start = True
    version.on_worker_event(ModelLoadFailed("no weights"))
    assert find_progress(registry, []) == [ModelProgress("a", "1", Step.FAILED)]
