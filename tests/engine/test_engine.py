"""What the engine does with versions and their workers, over pools that start no process."""

import asyncio

import pytest
from fakes import FakeWorkerPool
from model_kit import model_spec

from mooring.core.errors import (
    InvalidInput,
    ModelExists,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotReady,
    Unsupported,
    VersionNotFound,
    WorkersFailed,
)
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor
from mooring.engine import engine as engine_module
from mooring.engine.engine import Engine
from mooring.engine.lifecycle import State
from mooring.engine.registry import Unavailable
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics


class House:
    """An engine, and what was asked of it."""

    def __init__(self, **settings):
        self.engine = Engine(Arena(65_536), Metrics(), **settings)

    async def load(self, name="m", version="1", **settings):
        settings = {"backend": "x", "location": "", "min_workers": 1, "max_workers": 1} | settings
        return await self.engine.deploy_version(model_spec(name=name, version=version, **settings))

    def ask(self, model="m", version=""):
        outcomes = []
        request = InferenceRequest(model, version, "7", [Tensor("x", "FP32", [1], b"1234")])
        self.engine.submit(request, outcomes.append)
        return outcomes


@pytest.fixture
def failing(monkeypatch):
    """Workers fail to load from now on, with this error, until it is None again."""

    def fail(error):
        monkeypatch.setattr(FakeWorkerPool, "plan", error)

    return fail


@pytest.fixture
async def house(monkeypatch):
    monkeypatch.setattr(engine_module, "WorkerPool", FakeWorkerPool)
    house = House(most_workers=4)
    yield house
    await house.engine.close()


async def test_loads_tell_what_each_version_has_to_do_and_its_workers(house):
    await house.load(name="b")
    first = await house.load(name="a", min_workers=2, max_workers=2)
    await house.engine.deploy_version(
        model_spec(name="c", version="1", backend="chain", location="", stages=("a", "b"))
    )
    for _ in range(3):
        house.ask("a")
    await asyncio.sleep(0.01)  # what came in one turn is with the workers
    house.ask("a")
    house.ask("a")
    await asyncio.sleep(0.01)
    loads = house.engine.loads()
    assert [(each.name, each.waiting, each.in_flight) for each in loads] == [
        ("a", 3, 2), ("b", 0, 0), ("c", 0, 0),
    ]  # fmt: skip
    assert (loads[0].ready_workers, loads[0].wanted_workers, loads[0].starting_workers) == (2, 2, 0)
    assert 0.0 < loads[0].oldest_wait < 5.0
    assert loads[1].oldest_wait == 0.0
    assert (loads[2].ready_workers, loads[2].wanted_workers) == (0, 0)
    house.ask("c")
    await asyncio.sleep(0.01)
    assert [each.in_flight for each in house.engine.loads()] == [2, 0, 1]
    for _ in range(10):
        for worker in first.pool.workers:
            if worker not in first.pool.idle:
                worker.answer()
    await asyncio.sleep(0.01)
    assert [each.waiting for each in house.engine.loads()] == [0, 0, 0]


async def test_requests_to_a_chain_are_counted_as_its_own_too(house):
    models = {name: await house.load(name=name) for name in ("a", "b")}
    await house.engine.deploy_version(
        model_spec(name="c", version="1", backend="chain", location="", stages=("a", "b"))
    )
    house.ask("c")
    house.ask("c", "1")
    for name in ("a", "b", "a", "b"):
        await asyncio.sleep(0.01)
        models[name].pool.workers[0].answer()
    await asyncio.sleep(0.01)
    house.ask("c")
    await house.engine.retire_version("b")  # while it is asked
    await asyncio.sleep(0.01)
    models["a"].pool.workers[0].answer()
    await asyncio.sleep(0.01)
    counts = house.engine._metrics.statistics_for("c", "1").counts
    assert (counts.outcomes, counts.requests) == ([1, 2], [1, 2])
    assert sum(counts.durations.counts) == 3
    assert counts.by_size == {}  # it was no call of a model


async def test_the_load_of_a_version_that_is_replaced_counts_until_it_has_answered(house):
    old = await house.load()
    house.ask()
    await asyncio.sleep(0.01)
    replacing = asyncio.ensure_future(house.engine.replace_version(old.spec))
    while house.engine.registry.find_version("m") is old:
        await asyncio.sleep(0.01)
    house.ask()
    await asyncio.sleep(0.01)
    (load,) = house.engine.loads()
    assert (load.in_flight, load.ready_workers) == (2, 1)
    old.pool.workers[0].answer()
    await replacing
    (load,) = house.engine.loads()
    assert load.in_flight == 1
    unloading = asyncio.ensure_future(house.engine.retire_version("m", "1"))
    await asyncio.sleep(0.01)
    (load,) = house.engine.loads()
    assert (load.name, load.in_flight) == ("m", 1)
    house.engine.drain_limit = 0.0
    unloading.cancel()


async def test_the_metrics_show_a_version_that_is_unloaded_until_it_has_answered(house):
    version = await house.load()
    house.ask()
    house.ask()
    await asyncio.sleep(0.01)
    unloading = asyncio.ensure_future(house.engine.retire_version("m", "1"))
    await asyncio.sleep(0.01)
    assert house.engine.models() == []

    def shown():
        page = house.engine._metrics.render_text(
            ["mooring_model_state", "mooring_waiting_requests", "mooring_in_flight_requests"]
        ).decode()
        return [line for line in page.splitlines() if not line.startswith("#")]

    labels = 'model_name="m",model_version="1"'
    assert shown() == [
        f"mooring_waiting_requests{{{labels}}} 1",
        f"mooring_in_flight_requests{{{labels}}} 1",
        f'mooring_model_state{{{labels},state="UNLOADING"}} 1',
    ]
    again = asyncio.ensure_future(house.load())  # it is in the place of the other one
    await asyncio.sleep(0.01)
    assert shown()[:2] == [
        f"mooring_waiting_requests{{{labels}}} 1",
        f"mooring_in_flight_requests{{{labels}}} 1",
    ]
    assert len(shown()) == 3
    for _ in range(2):
        version.pool.workers[0].answer()
        await asyncio.sleep(0.01)
    await unloading
    await again
    assert shown() == [
        f"mooring_waiting_requests{{{labels}}} 0",
        f"mooring_in_flight_requests{{{labels}}} 0",
        f'mooring_model_state{{{labels},state="READY"}} 1',
    ]


# Loading.


async def test_a_version_is_loaded_when_its_first_worker_has_the_model(house):
    version = await house.load()
    assert version.ready
    assert house.engine.ready("m")
    assert house.engine.metadata("m").platform == "p"
    (state,) = house.engine.models()
    assert (state.name, state.version, state.state, state.ready, state.is_default) == (
        "m",
        "1",
        "READY",
        True,
        True,
    )


async def test_a_version_that_no_worker_can_load_stays_and_says_why(house, failing):
    failing(ModelLoadFailed("no such file"))
    version = await house.load()
    assert version.state is State.FAILED
    assert house.engine.models()[0].reason == "no such file"
    (refusal,) = house.ask()
    assert isinstance(refusal, ModelNotReady)


async def test_of_a_name_and_version_only_one_is_loaded(house):
    await house.load()
    with pytest.raises(ModelExists):
        await house.load()


async def test_a_model_with_more_workers_than_there_is_room_for_is_not_loaded(house):
    await house.load("a", min_workers=3, max_workers=3)
    version = await house.load("b", min_workers=2, max_workers=2)
    assert version.state is State.FAILED
    assert "2 workers beside 3 of other models are too many" in version.error.message
    assert version.pool.wanted == 0


async def test_threads_of_workers_are_their_share_of_the_cores_unless_the_model_says(house, monkeypatch):
    monkeypatch.setattr(engine_module, "count_cores", lambda: 8)
    assert (await house.load("a", min_workers=1, max_workers=2)).pool.threads == 4
    assert (await house.load("b", threads=3)).pool.threads == 3


# Asking.


async def test_a_request_goes_to_a_worker_of_its_version_and_by_default_to_the_first(house):
    first, second = await house.load(version="1"), await house.load(version="2")
    house.ask()
    house.ask(version="2")
    await asyncio.sleep(0)
    assert [len(version.pool.workers[0].sent) for version in (first, second)] == [1, 1]
    house.engine.set_default("m", "2")
    second.pool.workers[0].answer()
    house.ask()
    await asyncio.sleep(0)
    assert len(second.pool.workers[0].sent) == 2


async def test_a_request_to_what_is_not_there_is_refused_with_what_is_missing(house):
    await house.load()
    assert [type(outcome) for outcome in house.ask("other")] == [ModelNotFound]
    assert [type(outcome) for outcome in house.ask("m", "9")] == [VersionNotFound]
    with pytest.raises(ModelNotFound):
        house.engine.ready("other")


async def test_whether_a_request_would_be_refused_can_be_asked_before_it_is_there(house):
    await house.load(queue_size=1)
    assert house.engine.overload_error("m") is None
    house.ask()
    await asyncio.sleep(0)
    house.ask()
    assert house.engine.overload_error("m") is not None
    assert house.engine.overload_error("nobody") is None
    assert house.engine.waiting_requests() == 1


async def test_a_chain_is_ready_when_all_its_models_are_and_asks_them_in_turn(house):
    await house.load("a")
    chain = await house.load("c", stages=["a", "b"])
    assert chain.ready
    assert not house.engine.ready("c")
    b = await house.load("b")
    assert house.engine.ready("c")
    outcomes = house.ask("c")
    await asyncio.sleep(0)
    worker = house.engine.registry.find_version("a").pool.workers[0]
    worker.answer(InferenceResponse([Tensor("x", "FP32", [1], b"5678")]))
    await asyncio.sleep(0)
    assert b.pool.workers[0].sent[0][0].request.inputs[0].data == b"5678"
    b.pool.workers[0].answer(InferenceResponse([]))
    assert outcomes[0].model == "c"


async def test_a_model_goes_before_a_workflow_of_its_name(house):
    stage = await house.load("stage")
    await house.engine.deploy_workflow(model_spec(name="m", backend="", stages=["stage"]))
    house.ask()
    await asyncio.sleep(0)
    assert len(stage.pool.workers[0].sent) == 1
    model = await house.load("m")
    house.ask()
    await asyncio.sleep(0)
    assert (len(stage.pool.workers[0].sent), len(model.pool.workers[0].sent)) == (1, 1)


# Replacing and unloading.


async def test_an_old_version_answers_until_the_new_one_is_ready(house):
    old = await house.load()
    new = await house.engine.replace_version(old.spec)
    assert house.engine.registry.find_version("m") is new
    assert (old.state, old.pool.stopped, new.ready) == (State.UNLOADED, True, True)


async def test_time_outs_hold_for_a_new_version_that_loads(house, monkeypatch):
    monkeypatch.setattr(engine_module, "_CHECK_EVERY", 0.01)
    old = await house.load()
    checked = []
    monkeypatch.setattr(FakeWorkerPool, "check", lambda pool, _now: checked.append(pool))
    monkeypatch.setattr(FakeWorkerPool, "start", lambda _pool, _count: None)  # it loads for ever
    replacing = asyncio.ensure_future(house.engine.replace_version(old.spec))
    async with asyncio.timeout(5):
        while not {id(pool) for pool in checked} - {id(old.pool)}:
            await asyncio.sleep(0.01)
    assert house.engine.registry.find_version("m") is old
    replacing.cancel()


async def test_where_the_new_version_fails_the_old_one_goes_on(house, failing):
    old = await house.load()
    failing(ModelLoadFailed("bad file"))
    new = await house.engine.replace_version(old.spec)
    assert not new.ready
    assert house.engine.registry.find_version("m") is old
    assert (old.ready, new.pool.stopped) == (True, True)


async def test_a_version_is_unloaded_when_the_last_request_is_answered(house):
    version = await house.load()
    outcomes = house.ask()
    await asyncio.sleep(0)
    retiring = asyncio.ensure_future(house.engine.retire_version("m"))
    await asyncio.sleep(0.03)
    assert (retiring.done(), version.pool.stopped) == (False, False)
    assert [type(outcome) for outcome in house.ask()] == [ModelNotFound]
    version.pool.workers[0].answer()
    await retiring
    assert [type(outcome) for outcome in outcomes] == [InferenceResponse]
    assert (version.state, version.pool.stopped) == (State.UNLOADED, True)


@pytest.mark.parametrize("replaced", [False, True], ids=["unregistered", "replaced"])
async def test_time_outs_hold_while_a_version_is_unloaded(house, monkeypatch, replaced):
    checked = []
    monkeypatch.setattr(engine_module, "_CHECK_EVERY", 0.01)
    version = await house.load()
    house.ask()
    await asyncio.sleep(0)
    engine = house.engine
    work = engine.replace_version(version.spec) if replaced else engine.retire_version("m")
    unloading = asyncio.ensure_future(work)
    await asyncio.sleep(0.02)
    version.pool.check = checked.append
    assert not await house.engine.drain(0.0)
    async with asyncio.timeout(5):
        while not checked:
            await asyncio.sleep(0.01)
        version.pool.workers[0].answer()
        await unloading


async def test_a_version_is_unloaded_after_the_drain_limit_whoever_still_waits(monkeypatch):
    monkeypatch.setattr(engine_module, "WorkerPool", FakeWorkerPool)
    house = House(drain_limit=0.03)
    version = await house.load()
    house.ask()
    await asyncio.sleep(0)
    await house.engine.retire_version("m")
    assert version.pool.stopped
    await house.engine.close()


async def test_the_server_is_drained_when_nothing_waits_and_nothing_runs(house):
    version = await house.load()
    assert await house.engine.drain(0.0)
    house.ask()
    await asyncio.sleep(0)
    assert not await house.engine.drain(0.02)
    version.pool.workers[0].answer()
    assert await house.engine.drain(0.0)


# The number of workers.


async def test_a_version_gets_as_many_workers_as_an_operator_says(house):
    version = await house.load()
    assert await house.engine.resize_workers(version, 3, 4)
    assert (len(version.pool.workers), version.spec.scaling.min_workers) == (3, 3)
    assert await house.engine.resize_workers(version, 1, 2)
    assert len(version.pool.workers) == 2
    with pytest.raises(InvalidInput):
        await house.engine.resize_workers(version, 5, 5)


async def test_where_new_workers_do_not_load_there_are_as_many_as_before(house, failing):
    version = await house.load()
    failing(ModelLoadFailed("no memory"))
    with pytest.raises(WorkersFailed, match="no memory"):
        await house.engine.resize_workers(version, 2, 2)
    assert (version.pool.wanted, version.spec.scaling.min_workers, version.ready) == (1, 1, True)


async def test_a_version_without_workers_refuses_requests_and_takes_them_again_with_some(house):
    version = await house.load()
    assert await house.engine.resize_workers(version, 0, 0)
    assert version.suspended
    (refusal,) = house.ask()
    assert refusal.message == "model 'm' version '1' has no worker"
    assert await house.engine.resize_workers(version, 1, 1)
    assert version.ready
    assert house.ask() == []


async def test_requests_that_run_are_answered_before_the_last_worker_goes(house):
    version = await house.load()
    outcomes = house.ask()
    await asyncio.sleep(0)
    resizing = asyncio.ensure_future(house.engine.resize_workers(version, 0, 0))
    await asyncio.sleep(0.03)
    assert (resizing.done(), version.pool.wanted) == (False, 1)
    version.pool.workers[0].answer()
    assert await resizing
    assert [type(outcome) for outcome in outcomes] == [InferenceResponse]


async def test_a_chain_has_no_workers_to_count(house):
    chain = await house.load("c", stages=["a"])
    with pytest.raises(Unsupported):
        await house.engine.resize_workers(chain, 1, 1)


async def test_a_resize_gives_way_when_the_model_is_unloaded_meanwhile(house):
    version = await house.load()
    house.ask()
    await asyncio.sleep(0)
    resizing = asyncio.ensure_future(house.engine.resize_workers(version, 0, 0))
    await asyncio.sleep(0)
    retiring = asyncio.ensure_future(house.engine.retire_version("m"))
    with pytest.raises(ModelNotFound):
        await resizing
    version.pool.workers[0].answer()
    await retiring


# Whether the server is ready.


@pytest.mark.processes
async def test_the_server_is_ready_when_everything_that_the_start_asked_for_is_there(house, failing):
    engine = house.engine
    assert engine.ready()
    engine.expect_model(model_spec(name="m", backend="builtin"))
    assert not engine.ready()
    await house.load()
    assert engine.ready()
    engine.readiness.listening = False
    assert not engine.ready()
    engine.readiness.listening, engine.readiness.stopping = True, True
    assert not engine.ready()


async def test_what_is_missing_is_listed_with_its_reason(house):
    house.engine.registry.note_missing("m", "", Unavailable("m.mar", "no such file", expected=True))
    (missing,) = house.engine.list_missing()
    assert (missing.name, missing.state, missing.reason) == ("m", "UNAVAILABLE", "no such file")


async def test_a_server_that_is_not_strict_is_ready_once_everything_was_tried(monkeypatch, failing):
    monkeypatch.setattr(engine_module, "WorkerPool", FakeWorkerPool)
    house = House(strict_readiness=False)
    failing(ModelLoadFailed("no such file"))
    await house.load()
    assert house.engine.ready()
    assert not house.engine.ready("m")
    await house.engine.close()


async def test_a_model_that_lost_its_workers_makes_the_server_unhealthy_after_a_while(house):
    version = await house.load(retry_timeout=60.0)
    assert house.engine.healthy()
    version.pool.workers.clear()
    version.pool.failures.since = 0.0
    assert not house.engine.healthy()


async def test_a_server_alone_says_once_that_a_placement_has_no_effect(house, caplog):
    caplog.set_level("DEBUG", "mooring.engine.engine")
    await house.load("plain")
    assert "placement" not in caplog.text
    for version in "12":
        await house.load(version=version, num_gpus=2.0)
    assert caplog.text.count("placement without effect") == 1
    assert "this server is in no cluster" in caplog.text


async def test_a_node_of_a_cluster_says_nothing_of_placements(house, caplog):
    caplog.set_level("DEBUG", "mooring.engine.engine")
    house.engine.entry = object()
    await house.load(num_gpus=2.0)
    assert "placement" not in caplog.text
