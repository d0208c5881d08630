"""Handlers, envelopes and metrics outside of a server: what users' own tests and notebooks do with TorchServe's names."""

import io
import json
import os
import struct
import sys
import warnings

import pytest
import torch

from mooring.backends.handler.absent import BasePippyHandler, VLLMHandler
from mooring.backends.handler.base_handler import BaseHandler
from mooring.backends.handler.deepspeed_handler import BaseDeepSpeedHandler
from mooring.backends.handler.envelopes import BaseEnvelope, BodyEnvelope, JSONEnvelope, KServev2Envelope
from mooring.backends.handler.image_classifier import ImageClassifier
from mooring.backends.handler.metric_errors import MetricsCacheIOError, MetricsCacheValueError
from mooring.backends.handler.metric_units import MetricEncoder, Units
from mooring.backends.handler.metrics import Dimension, Metric
from mooring.backends.handler.metrics_yaml import MetricsCacheYamlImpl
from mooring.backends.handler.micro_batching import MicroBatching
from mooring.backends.handler.mock_context import MockContext
from mooring.backends.handler.model_loader import ModelLoaderFactory
from mooring.backends.handler.model_service import SingleNodeService
from mooring.backends.handler.service import PREDICTION_METRIC
from mooring.backends.handler.system_metrics import print_system_metrics, system_metrics
from mooring.backends.handler.timer import timed, timeit
from mooring.backends.handler.vendors import get_dali_pipeline, get_ds_engine
from mooring.core.errors import ModelLoadFailed


class OwnMock:
    """A context as users write them: with what TorchServe's handlers ask for, and nothing else."""

    def __init__(self, model_dir, headers=None):
        self.manifest = {"model": {"serializedFile": "m.pt", "modelName": "own"}}
        self.system_properties = {"model_dir": str(model_dir)}
        self.model_yaml_config = {"handler": {"profile": True}}
        self.metrics = Times()
        self.headers = headers or {}

    def get_request_header(self, index, key):
        return self.headers.get(key)


class Times:
    """Metrics of such a context."""

    def __init__(self):
        self.taken = {}

    def add_time(self, name, value, idx=None, unit="ms"):
        self.taken[name] = value


class Doubling(torch.nn.Module):
    def forward(self, rows):
        return rows * 2


@pytest.fixture
def folder(tmp_path):
    save(Doubling(), torch.ones(1, 2), tmp_path)
    return tmp_path


def save(module, example, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.trace(module, example).save(folder / "m.pt")


@pytest.fixture(params=["torchserve", "own"])
def context(folder, request):
    if request.param == "own":
        return OwnMock(folder)
    return MockContext(model_pt_file="m.pt", model_dir=str(folder), model_file=None)


def test_the_base_handler_needs_no_more_than_torchserves_own_mock_has(context):
    handler = BaseHandler()
    handler.initialize(context)
    assert handler.handle([[1.0, 2.0], [3.0, 4.0]], context) == [[2.0, 4.0], [6.0, 8.0]]


def test_the_profiler_needs_no_name_of_a_model(folder, monkeypatch):
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "true")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    context = MockContext(model_pt_file="m.pt", model_dir=str(folder), model_file=None)
    handler = BaseHandler()
    handler.initialize(context)
    handler.handle([[1.0]], context)
    assert list((folder / "pytorch_profiler" / "model").glob("*.json"))


def test_a_profiled_step_is_timed_in_the_metrics_of_any_context(folder):
    context = OwnMock(folder)
    handler = BaseHandler()
    handler.initialize(context)
    handler.handle([[1.0]], context)
    assert set(context.metrics.taken) == {
        "ts_handler_preprocess",
        "ts_handler_inference",
        "ts_handler_postprocess",
    }


def test_an_image_classifier_takes_a_mock_too(folder):
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    save(layers, torch.ones(1, 3, 2, 2), folder)
    context = MockContext(model_pt_file="m.pt", model_dir=str(folder), model_file=None)
    handler = ImageClassifier()
    handler.initialize(context)
    (answer,) = handler.handle([{"data": [[[0.0] * 2] * 2] * 3}], context)
    assert len(answer) == 5


def test_envelopes_take_a_mock_too(context):
    context.headers = {}
    assert JSONEnvelope(lambda rows, _: [row + 1 for row in rows]).handle(
        [{"body": {"instances": [1]}}, {"body": {"instances": [2, 3]}}], context
    ) == ['{"predictions": [2]}', '{"predictions": [3, 4]}']
    assert BodyEnvelope(lambda rows, _: rows).handle([{"body": [1.0]}], context) == [[1.0]]
    body = {"inputs": [{"name": "x", "shape": [1], "data": [1]}]}
    answers = KServev2Envelope(lambda rows, _: [rows[0]["data"]]).handle(
        [{"body": body}, {"body": body}], context
    )
    assert [answer["outputs"][0]["name"] for answer in answers] == ["x", "x"]


class Bracketed(BaseEnvelope):
    """An envelope of a user's own."""

    def parse_input(self, data):
        return [row["body"].decode().strip("<>") for row in data]

    def format_output(self, data):
        return [f"<{item}>" for item in data]


def test_an_envelope_of_ones_own_has_the_two_hooks():
    envelope = Bracketed(lambda rows, _: [row.upper() for row in rows] if rows else "initialized")
    assert envelope.handle([{"body": b"<a>"}, {"body": b"<b>"}], None) == ["<A>", "<B>"]
    assert envelope.handle(None, None) == "initialized"


class Named(JSONEnvelope):
    """One that only adds to what another envelope does."""

    def parse_input(self, data):
        return [("row", row) for row in super().parse_input(data)]

    def format_output(self, data):
        return [f"named {text}" for text in super().format_output(data)]


def test_a_ready_made_envelope_can_be_extended_by_the_same_hooks(folder):
    envelope = Named(lambda rows, _: [row[1] for row in rows])
    assert envelope.handle([{"body": {"instances": [5]}}], OwnMock(folder)) == ['named {"predictions": [5]}']


class Steps(BaseHandler):
    def preprocess(self, data):
        return [(self.handle.get_micro_batch_idx(), row) for row in data]

    def inference(self, data):
        return data

    def postprocess(self, data):
        return data


def test_micro_batching_takes_a_mock_and_tells_its_threads_and_parts(folder):
    handler = Steps()
    handler.handle = MicroBatching(handler, micro_batch_size=2)
    groups = handler.handle.thread_groups
    assert {step: len(threads) for step, threads in groups.items()} == {
        "preprocess": 1,
        "inference": 1,
        "postprocess": 1,
    }
    handler.handle.parallelism = {"preprocess": 2, "inference": 3}
    assert len(handler.handle.thread_groups["inference"]) == 3
    assert handler.handle(["a", "b", "c"], OwnMock(folder)) == [(0, "a"), (0, "b"), (1, "c")]
    assert handler.handle.get_micro_batch_idx() is None
    handler.handle.parallelism = {"preprocess": 1}
    assert len(handler.handle.thread_groups["inference"]) == 1
    assert handler.handle(["d"], OwnMock(folder)) == [(0, "d")]
    handler.handle.shutdown()


HANDLER = """
from helper import GREETING

def handle(data, context):
    if data is None:
        return None
    context.metrics.add_counter("Rows", len(data))
    return [f"{GREETING} {row['name'].decode()}" for row in data]
"""


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "helper.py").write_text("GREETING = 'Hello'")
    (tmp_path / "greeter_of_tests.py").write_text(HANDLER)
    (tmp_path / "MAR-INF").mkdir()
    manifest = {"model": {"modelName": "m", "configFile": "c.yaml"}}
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (tmp_path / "c.yaml").write_text("key: value")
    yield ModelLoaderFactory.get_model_loader().load("m", str(tmp_path), "greeter_of_tests.py", None, 2)
    for name in ("helper", "greeter_of_tests"):
        sys.modules.pop(name, None)


def test_a_handler_is_loaded_and_asked_outside_of_a_server(service):
    assert service.context.model_yaml_config == {"key": "value"}
    assert service.predict([{"name": b"Ada"}]) == ["Hello Ada"]
    assert service.context.metrics.cache_keys() == ["counter:Rows"]


def test_a_service_answers_the_frontends_form_in_the_workers(service):
    field = {"name": "name", "contentType": "text/plain", "value": b"Ada"}
    request = {"requestId": b"r1", "headers": [{"name": b"k", "value": b"v"}], "parameters": [field]}
    reply = bytes(service.predict([request]))
    assert reply[:4] == struct.pack(">i", 200)
    assert b"Hello Ada" in reply
    assert service.context.get_request_header(0, "k") == "v"
    failed = bytes(service.predict([{"requestId": b"r1", "parameters": []}]))
    assert failed[:4] == struct.pack(">i", 503)
    assert b"Prediction failed" in failed


def test_a_handler_that_is_missing_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="no handler 'nothing_here'"):
        ModelLoaderFactory.get_model_loader().load("m", str(tmp_path), "nothing_here", None, 1)


def test_parts_of_torchserve_that_are_not_here_say_why_when_they_are_used(load):
    with pytest.raises(
        NotImplementedError, match=r"vllm_handler needs the engine of vLLM, which Mooring does not run"
    ):
        VLLMHandler()

    class Own(BasePippyHandler):
        pass

    with pytest.raises(NotImplementedError, match=r"replaced with torch\.distributed\.pipelining"):
        Own()
    with pytest.raises(ModelLoadFailed, match="TorchServe's handler 'vllm_handler' needs the engine of vLLM"):
        load({"readme.txt": ""}, "vllm_handler")


def test_deepspeed_and_dali_are_configured_by_the_archive(folder, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    handler = BaseDeepSpeedHandler()
    context = MockContext(model_dir=str(folder))
    context.model_name = "m"
    handler.initialize(context)
    assert handler.device == 3
    for make in (lambda: get_ds_engine(None, context), lambda: get_dali_pipeline(context)):
        with pytest.raises(ValueError, match=r"model 'm' has no settings under '(deepspeed|dali)'"):
            make()


def test_units_and_metrics_have_torchserves_words_and_json():
    assert Units().units["kB"] == "Kilobytes"
    assert Units().units[None] == "unit"
    told = json.loads(
        json.dumps({"m": Metric("Took", 2, "ms", [Dimension("Level", "Model")])}, cls=MetricEncoder)
    )
    assert (told["m"]["MetricName"], told["m"]["Unit"]) == ("Took", "Milliseconds")
    assert told["m"]["Dimensions"] == [{"Name": "Level", "Value": "Model"}]
    assert PREDICTION_METRIC == "PredictionTime"


def test_a_file_of_metrics_that_cannot_be_read_raises_what_handlers_catch(tmp_path):
    with pytest.raises(MetricsCacheIOError, match="No such file"):
        MetricsCacheYamlImpl(str(tmp_path / "none.yaml")).initialize_cache()
    (tmp_path / "m.yaml").write_text("model_metrics: {thing: []}")
    with pytest.raises(MetricsCacheValueError, match="'thing' is not a type of metric"):
        MetricsCacheYamlImpl(str(tmp_path / "m.yaml")).initialize_cache()


def test_the_script_of_system_metrics_prints_the_machines(monkeypatch, capsys, caplog):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{os.getpid()}\n"))
    system_metrics.clear()
    with caplog.at_level("INFO"):
        print_system_metrics([])
    assert {metric.name for metric in system_metrics} == {
        "CPUUtilization", "DiskAvailable", "DiskUsage", "DiskUtilization", "MemoryAvailable", "MemoryUsed",
        "MemoryUtilization",
    }  # fmt: skip
    assert "CPUUtilization.Percent:" in caplog.text
    assert capsys.readouterr().out.startswith(f"{os.getpid()}:")


def test_timeit_prints_what_a_call_took(capsys):
    @timeit
    def add(one, other):
        return one + other

    assert add(1, other=2) == 3
    assert capsys.readouterr().out.startswith("func: 'add' took a total of 0.")


class Plus(SingleNodeService):
    def ping(self):
        return "ok"

    def _inference(self, data):
        return [value + 1 for value in data]


def test_a_service_of_the_older_kind_reads_its_signature(tmp_path):
    signature = {"input_type": "application/json", "inputs": [{"data_name": "x"}]}
    (tmp_path / "signature.json").write_text(json.dumps(signature))
    context = MockContext(model_dir=str(tmp_path))
    model = Plus("m", str(tmp_path), {})
    model.initialize(context)
    assert model.handle([{"x": b"41"}], context) == [42]


def test_a_timed_step_without_a_context_runs():
    class Alone:
        @timed
        def preprocess(self, data):
            return data

    assert Alone().preprocess([1]) == [1]
