"""The document of the state: what happened since an older reading, and nothing that was there before."""

import asyncio

import pytest
from protocol_wire import FakeService

from mooring.config.settings import Address, Config
from mooring.console import live_state
from mooring.console.live_state import LiveState, ServerFacts, addresses_of
from mooring.core import turns
from mooring.core.service import ModelState, VersionLoad, WorkflowDescription
from mooring.observability.metrics import Metrics


class Models(FakeService):
    """Two versions that are served, and what could be loaded."""

    def __init__(self):
        super().__init__()
        self.states = [
            ModelState("echo", "1", "READY", ready=True, is_default=True, kind="values", platform="python"),
            ModelState(
                "slow", "1", "LOADING", ready=False, is_default=True, kind="tensors", loading_since=995.0
            ),
            ModelState("hidden", "1", "READY", ready=True, is_default=True, listed=False),
        ]
        self.unloaded = [
            ModelState("shelf", "", "UNAVAILABLE", ready=False, is_default=False, reason="not loaded"),
        ]
        self.listed = 0

    def ready(self, model="", version=""):
        return True

    def loads(self):
        return [VersionLoad("echo", "1", 3, 0.25, 2, 1, 2, 1)]

    def index(self):
        self.listed += 1
        return [*self.states, *self.unloaded]

    def workflows(self):
        return [WorkflowDescription("flow", "flow.war", 1, 1, 1, 0.0, {})]

    def log_level(self):
        return "info"


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

        def process_time(self):
            return self.now / 100

    clock = Clock()
    monkeypatch.setattr(live_state, "time", clock)
    return clock


@pytest.fixture
def models():
    return Models()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def state(models, metrics, clock):
    facts = ServerFacts(version="1", started=5.0, frontends=2)
    return LiveState(models, models, models, models, metrics, facts, lambda: {"inference": "http://here"})


def answer(metrics, count=1, latency=0.02, queue=0.002, rows=4, ok=True):
    statistics = metrics.statistics_for("echo", "1")
    for _ in range(count):
        statistics.observe_request(latency, queue, ok)
    statistics.observe_batches([(rows, latency, 1)] * count)


def echo(state):
    (entry,) = [each for each in state.read()["models"] if each["name"] == "echo"]
    return entry


def test_a_first_reading_has_totals_and_no_rates(state, metrics):
    answer(metrics, 5)
    answer(metrics, 2, ok=False)
    entry = echo(state)
    assert (entry["answered"], entry["failed"], entry["rate"]) == (5, 2, 0.0)
    assert entry["latency_ms"] is entry["queue_ms"] is entry["batch_rows"] is None
    assert entry["workers"] == {"ready": 1, "wanted": 2, "starting": 1}
    assert (entry["waiting"], entry["oldest_wait_ms"], entry["in_flight"]) == (3, 250.0, 2)


def test_rates_are_of_the_last_interval_and_percentiles_of_the_last_seconds(state, metrics, clock):
    state.read()
    for _ in range(5):
        clock.now += 1
        answer(metrics, 10)
        entry = echo(state)
        assert entry["rate"] == 10.0
    assert entry["latency_ms"]["p50"] == pytest.approx(17.5)  # between the bounds 10 ms and 25 ms
    assert 1.0 < entry["queue_ms"]["p99"] <= 2.5
    assert entry["batch_rows"] == 4.0
    clock.now += 1
    assert echo(state)["rate"] == 0.0
    for _ in range(12):
        clock.now += 1
        entry = echo(state)
    assert entry["latency_ms"] is entry["batch_rows"] is None  # nothing in the last ten seconds
    assert entry["answered"] == 50


def test_after_a_pause_nothing_is_said_of_the_time_before(state, metrics, clock):
    state.read()
    answer(metrics, 10)
    clock.now += 3600
    entry = echo(state)
    assert (entry["rate"], entry["latency_ms"]) == (0.0, None)


def test_readings_do_not_pile_up(state, metrics, clock):
    for _ in range(100):
        clock.now += 1
        answer(metrics)
        state.read()
    assert len(state._readings) <= live_state.WINDOW + 2


def test_a_version_of_which_nothing_was_counted_keeps_its_sample(state, metrics, clock):
    answer(metrics)
    state.read()
    clock.now += 1
    state.read()
    first, second = (reading.samples["echo", "1"] for reading in state._readings)
    assert first is second


def test_what_is_not_loaded_and_workflows_are_listed_and_hidden_models_are_not(state):
    entries = {each["name"]: each for each in state.read()["models"]}
    assert list(entries) == ["echo", "flow", "shelf", "slow"]
    assert (entries["shelf"]["state"], entries["shelf"]["version"]) == ("UNAVAILABLE", "")
    assert entries["flow"]["kind"] == "workflow"
    assert entries["slow"]["loaded_seconds"] == 5.0


def test_folders_are_looked_at_now_and_then_and_after_a_change(state, models, clock):
    for _ in range(4):
        clock.now += 1
        state.read()
    assert models.listed == 1
    clock.now += 5
    state.read()
    assert models.listed == 2
    state.forget_index()
    state.read()
    assert models.listed == 3


def test_what_was_loaded_since_the_last_look_is_not_listed_twice(state, models):
    state.read()
    models.states.append(ModelState("shelf", "1", "READY", ready=True, is_default=True, kind="tensors"))
    assert [each["version"] for each in state.read()["models"] if each["name"] == "shelf"] == ["1"]


def test_the_server_is_described(state, clock):
    state.read()
    clock.now += 10
    server = state.read()["server"]
    assert server["cpu_percent"] == pytest.approx(1.0)
    assert (server["frontends"], server["log_level"], server["ready"]) == (2, "info", True)
    assert server["addresses"] == {"inference": "http://here"}
    assert server["memory_bytes"] > 1_000_000


def test_addresses_are_those_at_which_this_machine_reaches_the_server():
    config = Config(
        inference_address=Address("0.0.0.0", 1),
        grpc_address=Address("::1", 2),
        enable_metrics_api=False,
        enable_management_api=False,
    )
    assert addresses_of(config) == {"inference": "http://127.0.0.1:1", "grpc": "[::1]:2"}


async def test_a_reading_in_turns_is_the_same_and_lets_others_in_between(state, metrics, clock, monkeypatch):
    monkeypatch.setattr(turns, "TURN", -1.0)
    state.read()
    answer(metrics, 3)
    clock.now += 1.0
    turned = asyncio.ensure_future(state.read_in_turns())
    await asyncio.sleep(0)
    assert not turned.done()
    document = await turned
    echo = next(each for each in document["models"] if each["name"] == "echo")
    assert echo["rate"] == 3.0
    assert echo["latency_ms"] is not None
    later = state.read()
    assert [each["name"] for each in later["models"]] == [each["name"] for each in document["models"]]
    assert later["server"].keys() == document["server"].keys()
