"""What a handler records in a worker process of its own, on the page of the server."""

import asyncio
import re

import pytest
from model_kit import model_spec

from mooring.backends.handler.metrics import MetricTypes
from mooring.backends.handler.metrics_yaml import MetricsCacheYamlImpl
from mooring.core.requests import Form, InferenceRequest
from mooring.core.tensors import Tensor
from mooring.engine.engine import Engine
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics

HANDLER = """
from ts.metrics.metric_type_enum import MetricTypes
def handle(data, context):
    metrics = context.metrics
    if data is None:
        return
    metrics.add_counter("Rows", len(data))
    if data[0]["body"] == bytearray(b"many"):
        tokens = metrics.add_metric_to_cache("Tokens", "count", [], MetricTypes.HISTOGRAM)
        for number in range(2500):
            tokens.add_or_update(number)
    metrics.add_time("Step", 3)
    return ["ok"] * len(data)
"""


@pytest.fixture
async def served(tmp_path):
    (tmp_path / "handler.py").write_text(HANDLER)
    metrics = Metrics()
    engine = Engine(Arena(1 << 20), metrics)

    async def load(**settings):
        spec = model_spec(
            name="h", version="1.0", backend="handler", location=str(tmp_path), entry="handler.py", **settings
        )
        assert (await engine.deploy_version(spec)).ready

    async def ask(payload=b"x"):
        answered = asyncio.get_running_loop().create_future()
        inputs = [Tensor("body", "BYTES", [1], [payload], {"content_type": ""})]
        engine.submit(InferenceRequest("h", "", "id", inputs, form=Form.BODY), answered.set_result)
        outcome = await asyncio.wait_for(answered, 30)
        assert not isinstance(outcome, Exception), outcome

    def value(name):
        return [
            float(found)
            for found in re.findall(rf"^{name}{{.*}} (\S+)$", metrics.render_text().decode(), re.MULTILINE)
        ]

    yield load, ask, value, engine
    await engine.close()


async def test_a_counter_goes_on_when_its_model_is_loaded_again(served):
    load, ask, value, engine = served
    await load()
    await ask()
    await ask()
    assert value("Rows") == [2]
    await engine.retire_version("h")
    assert value("Rows") == [2]
    assert value("WorkerLoadTime") == []
    await load()
    await ask()
    assert value("Rows") == [3]
    assert len(value("WorkerLoadTime")) == 1


async def test_more_than_a_message_holds_comes_all_the_same(served):
    load, ask, value, _ = served
    await load()
    await ask(b"many")
    assert (value("Tokens_count"), value("Tokens_sum")) == ([2500], [2500 * 2499 / 2])


async def test_a_file_says_the_type_of_what_a_handler_records(served, tmp_path):
    load, ask, value, _ = served
    (tmp_path / "all.yaml").write_text("model_metrics: {histogram: [{name: Step, unit: s, dimensions: []}]}")
    await load(metrics_config=str(tmp_path / "all.yaml"))
    await ask()
    await ask()
    assert (value("Step_count"), value("Step_sum")) == ([2], [6])


async def test_a_broken_file_in_an_archive_keeps_no_model_from_serving(served, tmp_path):
    load, ask, value, _ = served
    (tmp_path / "metrics.yaml").write_text("model_metrics: [1]")
    await load()
    await ask()
    assert value("Rows") == [1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "model_metrics: {meter: [{name: a, unit: b}]}",
            "'meter' is not a type of metric; there is counter, gauge, histogram",
        ),
        ("model_metrics: {gauge: [{name: a}]}", "a metric has no 'unit'"),
        ("model_metrics: [1]", "not a table of lists"),
        ("model_metrics: {gauge: [1]}", "not a table of lists"),
        ("a: [", "while parsing"),
    ],
)
def test_a_file_that_declares_no_metrics_is_named_with_its_fault(tmp_path, text, reason):
    file = tmp_path / "metrics.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        MetricsCacheYamlImpl(str(file)).initialize_cache()
    assert str(caught.value).startswith(f"{file}: ")


def test_a_declared_metric_records_by_its_file(tmp_path):
    file = tmp_path / "metrics.yaml"
    file.write_text("model_metrics: {gauge: [{name: Heat, unit: C, dimensions: [Where]}], counter:}")
    store = MetricsCacheYamlImpl(str(file))
    store.initialize_cache()
    heard = []
    store.set_listener(lambda metric: heard.append(metric[:5]))
    store.get_metric("Heat", MetricTypes.GAUGE).add_or_update(40, ["top"])
    store.add_counter("Heat", 41)
    assert heard == [
        ("Heat", 40, "C", "gauge", {"Where": "top"}),
        ("Heat", 41, "C", "gauge", {"ModelName": "", "Level": "Model"}),
    ]
