"""What becomes of a version when its workers load, fail and die, and which models there are."""

import time
from types import SimpleNamespace

import pytest
from fakes import FakePool
from model_kit import model_spec

from mooring.core.errors import (
    ModelExists,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotReady,
    PackageMissing,
    VersionNotFound,
    WorkerDied,
)
from mooring.core.service import ModelMetadata
from mooring.engine.lifecycle import IllegalMove, State
from mooring.engine.registry import ModelVersion, Registry, Unavailable


class FakeQueue:
    """Notes what it is told: requests are taken, refused when they come, or refused even if they wait."""

    def __init__(self):
        self.orders = []

    def accept_new(self):
        self.orders.append("admit")

    def refuse_new(self, error):
        self.orders.append(("refuse new", error))

    def refuse_all(self, error):
        self.orders.append(("refuse all", error))


def spec(name="m", version="1", **settings):
    return model_spec(
        name=name, version=version, **{"backend": "x", "location": "", "min_workers": 1, **settings}
    )


def loading(workers=1, **settings):
    version = ModelVersion(spec(**settings))
    queue = FakeQueue()
    pool = FakePool(None, workers)
    version.start_loading(queue, pool)
    queue.orders.clear()
    return version, queue, pool


def loaded(**more):
    version, queue, pool = loading(**more)
    version.on_worker_event(ModelMetadata("m", ["1"], "p"))
    queue.orders.clear()
    return version, queue, pool


def test_a_version_is_ready_as_soon_as_one_worker_has_the_model():
    version, queue, _ = loading()
    assert not version.ready
    assert not version.is_settled
    version.on_worker_event(ModelMetadata("m", ["1"], "p"))
    assert version.ready
    assert version.is_settled
    assert version.ever_loaded
    assert version.metadata.platform == "p"
    assert queue.orders == ["admit"]


def test_a_load_takes_from_its_beginning_until_the_version_is_ready(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("mooring.engine.registry.time", SimpleNamespace(monotonic=lambda: now[0]))
    version, loads = ModelVersion(spec()), []
    pool = FakePool(None, 1)
    version.start_loading(FakeQueue(), pool, loads.append)
    now[0] += 3.0
    version.on_worker_event(ModelMetadata("m", ["1"], "p"))
    version.on_worker_event(ModelMetadata("m", ["1"], "p"))  # a second worker
    assert loads == [3.0]
    # What failed and was mended an hour later took no hour to load.
    pool.workers.clear()
    version.on_worker_event(ModelLoadFailed("no such file"))
    now[0] += 3600.0
    pool.start_seconds = 2.0
    version.on_worker_event(ModelMetadata("m", ["1"], "p"))
    assert loads == [3.0, 2.0]
    # Nor does one load that has no workers because an operator set their number to 0.
    pool.wanted = 0
    version.suspend()
    now[0] += 3600.0
    version.resume()
    now[0] += 1.0
    version.on_worker_event(ModelMetadata("m", ["1"], "p"))
    assert loads == [3.0, 2.0, 1.0]


def test_a_version_that_no_worker_can_load_has_failed_and_refuses_everybody_with_the_reason():
    version, queue, _ = loading(workers=0)
    version.on_worker_event(ModelLoadFailed("no such file"))
    assert version.state is State.FAILED
    assert version.is_settled
    ((order, error),) = queue.orders
    assert (order, error.message) == ("refuse all", "model 'm' version '1' is FAILED: no such file")


def test_the_reason_of_a_failed_load_is_logged_once(caplog):
    version, _, _ = loading(workers=0)
    version.on_worker_event(ModelLoadFailed("no such file"))
    assert [record.getMessage().partition(" model=")[0] for record in caplog.records] == [
        "worker failed",
        "model failed",
    ]
    assert caplog.text.count("no such file") == 1


def test_a_version_whose_failure_ends_the_start_leaves_the_reason_to_that(caplog):
    version, _, pool = loading(workers=0)
    pool.start = lambda count: setattr(pool, "wanted", count)
    version.ends_start, pool.wanted = True, 3
    version.on_worker_event(ModelLoadFailed("no such file"))
    assert (version.state, pool.wanted, caplog.records) == (State.FAILED, 0, [])
    caplog.set_level("DEBUG", "mooring")
    version.on_worker_event(PackageMissing("pip install x", detail="Traceback"))
    assert [(record.levelname, "Traceback" in record.getMessage()) for record in caplog.records] == [
        ("DEBUG", True)
    ]
    version.on_worker_event(ModelMetadata("m"))
    version.on_worker_event(WorkerDied("Worker died."))  # later, as any other
    assert "worker failed" in caplog.text


def test_a_worker_that_fails_beside_one_that_is_ready_changes_nothing():
    version, queue, _ = loaded(workers=1)
    version.on_worker_event(ModelLoadFailed("no memory"))
    assert version.ready
    assert queue.orders == []


@pytest.mark.parametrize(("failures", "state"), [(2, State.LOADING), (3, State.FAILED)])
def test_workers_that_die_three_times_in_a_row_make_a_version_fail(failures, state):
    version, _, pool = loaded(workers=0)
    pool.failures.in_a_row = failures
    version.on_worker_event(WorkerDied("Worker died."))
    assert version.state is state


def test_a_version_that_failed_is_ready_again_when_a_worker_loads_it():
    version, queue, _ = loading(workers=0)
    version.on_worker_event(ModelLoadFailed("no such file"))
    queue.orders.clear()
    version.on_worker_event(ModelMetadata("m"))
    assert (version.ready, version.error, queue.orders) == (True, None, ["admit"])


def test_an_unloading_version_refuses_new_requests_serves_the_others_and_hears_no_news():
    version, queue, _ = loaded()
    version.start_unloading()
    ((order, error),) = queue.orders
    assert (order, type(error)) == ("refuse new", ModelNotReady)
    version.on_worker_event(ModelMetadata("m"))
    version.on_worker_event(WorkerDied("Worker died."))
    assert version.state is State.UNLOADING
    version.finish_unloading()
    assert queue.orders[-1][0] == "refuse all"
    with pytest.raises(ModelNotFound):
        version.check_not_unloaded()


def test_a_version_is_not_unloaded_twice():
    version, _, _ = loaded()
    version.start_unloading()
    version.finish_unloading()
    with pytest.raises(IllegalMove):
        version.start_unloading()


def test_a_suspended_version_refuses_everybody_until_it_is_resumed():
    version, queue, pool = loaded()
    pool.wanted = 0
    version.suspend()
    assert version.suspended
    assert not version.scaled_to_zero
    order, error = queue.orders[-1]
    assert (order, error.message) == ("refuse all", "model 'm' version '1' has no worker")
    version.resume()
    assert queue.orders[-1] == "admit"


def test_a_version_that_is_scaled_to_zero_is_ready_and_takes_requests():
    version, _, pool = loaded()
    pool.wanted = 0
    assert (version.scaled_to_zero, version.suspended, version.ready) == (True, False, True)


def test_who_sets_the_number_of_workers_later_makes_an_earlier_one_give_way():
    version, _, _ = loaded()
    epoch = version.resize_epoch
    version.set_worker_range(2, 5)
    assert (version.spec.scaling.min_workers, version.spec.scaling.max_workers) == (2, 5)
    assert not version.spec.scaling.workers_by_default
    assert version.resize_epoch == epoch + 1
    version.start_unloading()
    assert version.resize_epoch == epoch + 2


def test_a_version_is_healthy_while_a_worker_is_restarted_and_not_for_longer_than_the_retry_time_out():
    version, _, pool = loaded(workers=1, min_workers=2, retry_timeout=60.0)
    pool.wanted = 2
    assert version.healthy
    pool.failures.since = time.monotonic() - 30
    assert version.healthy
    pool.failures.since = time.monotonic() - 61
    assert not version.healthy
    pool.wanted = 1
    assert version.healthy


def test_a_version_is_not_healthy_before_its_first_workers_are_there_nor_after_it_has_failed():
    version, _, pool = loading(workers=0)
    pool.wanted = 1
    assert not version.healthy
    version.on_worker_event(ModelLoadFailed("no such file"))
    assert not version.healthy


def test_a_chain_has_neither_queue_nor_workers_and_is_ready_by_itself():
    version = ModelVersion(spec(stages=["a", "b"]))
    version.start_loading(None, None)
    version.on_worker_event(version.metadata)
    assert version.ready
    assert version.healthy
    version.start_unloading()
    version.finish_unloading()


@pytest.fixture
def registry():
    return Registry()


def test_a_model_is_found_by_its_name_and_version_and_by_default(registry):
    version = ModelVersion(spec())
    registry.add_version(version)
    assert registry.find_version("m", "1") is registry.find_version("m") is version
    with pytest.raises(VersionNotFound, match="model 'm' has no version '2'"):
        registry.find_version("m", "2")
    with pytest.raises(ModelNotFound, match="model 'n' is not loaded"):
        registry.find_version("n")


def test_of_a_name_and_version_there_is_only_one(registry):
    registry.add_version(ModelVersion(spec()))
    with pytest.raises(ModelExists):
        registry.add_version(ModelVersion(spec()))


def test_with_its_last_version_a_model_is_gone(registry):
    versions = [ModelVersion(spec(version=number)) for number in "12"]
    for version in versions:
        registry.add_version(version)
    registry.remove_version(versions[0])
    assert registry.find_version("m") is versions[1]
    registry.remove_version(versions[1])
    with pytest.raises(ModelNotFound):
        registry.find_version("m")


def test_a_version_that_was_exchanged_does_not_change_the_default_any_more(registry):
    old, new = ModelVersion(spec()), ModelVersion(spec())
    registry.add_version(old)
    registry.replace_version(old, new)
    assert registry.find_version("m") is new
    settled = []
    registry.find_model("m").update_default = lambda: settled.append(True)
    old.start_loading(FakeQueue(), FakePool(None))
    assert settled == []


def test_a_model_that_could_not_be_loaded_says_why_it_is_not_there(registry):
    registry.note_missing("m", "", Unavailable("m.mar", "no such file"))
    with pytest.raises(ModelNotFound, match="model 'm' is not loaded: no such file"):
        registry.find_version("m")


def test_what_the_start_asked_for_is_missing_until_it_is_there_whatever_is_tried_meanwhile(registry):
    registry.note_missing("m", "", Unavailable("m.mar", "no such file", expected=True))
    registry.note_missing("m", "", Unavailable("m.mar", "no memory"))
    assert registry.lacks_expected
    registry.forget_missing("m", "m.mar")
    assert not registry.lacks_expected
    assert not registry.is_missing("m")


def test_a_version_that_is_there_leaves_other_missing_versions_missing(registry):
    registry.note_missing("m", "1", Unavailable("m", "bad"))
    registry.note_missing("m", "2", Unavailable("m", "bad"))
    registry.forget_missing("m", "", "1")
    assert list(registry.unavailable) == [("m", "2")]


def test_where_nothing_of_a_model_can_be_loaded_its_versions_are_no_news_any_more(registry):
    registry.note_missing("m", "1", Unavailable("m", "bad"))
    registry.note_missing("m", "", Unavailable("m", "worse"))
    assert list(registry.unavailable) == [("m", "")]
