"""Metrics of a handler's own with a metrics.yaml of TorchServe's form: in its files, and on the page, as there."""

import re

import pytest
from drop_in_kit import HOST, MODEL_METRIC, drop_in, page
from e2e_kit import pack, until

OWN = "ModelName:custom,Level:Model"
METRICS_YAML = """
dimensions:
  - &model_name "ModelName"
  - &level "Level"
  - &hostname "Hostname"
ts_metrics:
  counter:
    - {name: Requests2XX, unit: Count, dimensions: [*level, *hostname]}
  gauge:
    - {name: QueueTime, unit: Milliseconds, dimensions: [*level, *hostname]}
model_metrics:
  counter:
    - {name: InferenceRequestCount, unit: count, dimensions: []}
    - {name: InitializeCallCount, unit: count, dimensions: [*model_name, *level]}
    - {name: PreprocessCallCount, unit: count, dimensions: [*model_name]}
    - {name: PostprocessCallCount, unit: count, dimensions: [*model_name, *level]}
  gauge:
    - {name: HandlerTime, unit: ms, dimensions: [*model_name, *level]}
    - {name: PredictionTime, unit: ms, dimensions: [*model_name, *level]}
    - {name: RequestBatchSize, unit: count, dimensions: ["ModelName"]}
    - {name: SizeOfImage, unit: kB, dimensions: [*model_name, *level]}
  histogram:
    - {name: ExamplePercentMetric, unit: percent, dimensions: [*model_name, *level]}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store, folder = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("server")
    pack(store, "custom", "custom_metrics_handler.py")
    (folder / "metrics.yaml").write_text(METRICS_YAML)
    server = drop_in(folder, store, "metrics_config=metrics.yaml", models=("custom.mar",))
    try:
        for _ in range(2):
            assert server.predict("custom", "x" * 512, "x-request-id: mine").body == b"ok"
        yield server
    finally:
        server.kill()


def test_every_metric_is_a_line_of_each_request_with_the_units_that_the_file_declares(server):
    until(
        lambda: [each[0] for each in server.lines("model_metrics", MODEL_METRIC)].count("PredictionTime") == 2
    )
    until(lambda: "Printed" in [each[0] for each in server.lines("model_metrics", MODEL_METRIC)])
    lines = server.lines("model_metrics", MODEL_METRIC)
    of_one = {each[0]: each[1:] for each in lines if each[4] == "mine"}
    assert of_one["SizeOfImage"] == ("kB", "0.5", OWN, "mine")
    assert of_one["PostprocessCallCount"] == ("count", "1.0", OWN, "mine")
    assert of_one["ExamplePercentMetric"] == ("percent", "50.0", OWN, "mine")
    assert of_one["HandlerMethodTime"][0] == "Milliseconds", "no file declares it"
    assert of_one["HandlerMethodTime"][2] == f"MethodName:preprocess,{OWN}"
    assert of_one["Printed"] == ("Milliseconds", "7.0", OWN, "mine")
    assert {of_one[name][0] for name in ("HandlerTime", "PredictionTime")} == {"ms"}
    assert next(each[1:] for each in lines if each[0] == "InferenceRequestCount") == (
        "count",
        "1.0",
        "",
        "null",
    )
    counted = [each[0] for each in lines]
    assert counted.count("InitializeCallCount") == 1
    assert counted.count("InferenceRequestCount") == counted.count("RequestBatchSize") == 2


@pytest.mark.parametrize(
    ("name", "kind", "labels", "value"),
    [
        ("InferenceRequestCount", "counter", {}, 2),
        ("InitializeCallCount", "counter", {"ModelName": "custom", "Level": "Model"}, 1),
        ("PreprocessCallCount", "counter", {"ModelName": "custom"}, 2),
        ("PostprocessCallCount", "counter", {"ModelName": "custom", "Level": "Model"}, 4),
        ("RequestBatchSize", "gauge", {"ModelName": "custom"}, 1),
        ("SizeOfImage", "gauge", {"ModelName": "custom", "Level": "Model"}, 0.5),
        ("ExamplePercentMetric_sum", "histogram", {"ModelName": "custom", "Level": "Model"}, 100),
        ("Printed", "gauge", {"ModelName": "custom", "Level": "Model"}, 7),
        ("HandlerTime", "gauge", {"ModelName": "custom", "Level": "Model"}, None),
    ],
)
def test_the_page_has_it_with_its_type_and_dimensions(server, name, kind, labels, value):
    text = page(server)
    assert f"# TYPE {name.removesuffix('_sum')} {kind}\n" in text
    ((found, number),) = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
    assert dict(re.findall(r'(\w+)="([^"]*)"', found)) == labels | {"Hostname": HOST}
    assert value is None or float(number) == value
