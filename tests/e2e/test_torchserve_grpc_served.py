"""TorchServe's two gRPC services, asked as its own clients ask, of a server as it is started."""

import json

import grpc
import pytest
from e2e_kit import DIGITS, SAMPLES, Server, free_ports, until

from mooring.codecs.proto import torchserve_inference_pb2 as inference
from mooring.codecs.proto import torchserve_management_pb2 as management

INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService/"


class GrpcServed(Server):
    """A server with the digits and a store, and a port for either service."""

    def __init__(self, folder, store) -> None:
        rpc, managing = free_ports(2)
        super().__init__(
            folder, DIGITS / "digits.mar", "--model-store", store, "--models", "rows=rows.mar,answers=answers.tar.gz",
            f"--grpc-address=127.0.0.1:{rpc}", f"--grpc-management-address=127.0.0.1:{managing}",
        )  # fmt: skip
        self.inference = grpc.insecure_channel(f"127.0.0.1:{rpc}")
        self.management = grpc.insecure_channel(f"127.0.0.1:{managing}")

    def predict(self, model, **fields) -> bytes:
        asked = inference.PredictionsRequest(model_name=model, input=fields).SerializeToString()
        answer = self.inference.unary_unary(f"{INFERENCE}Predictions")(asked, timeout=30)
        return inference.PredictionResponse.FromString(answer).prediction

    def stream(self, model, **fields) -> list[bytes]:
        asked = inference.PredictionsRequest(model_name=model, input=fields).SerializeToString()
        answers = self.inference.unary_stream(f"{INFERENCE}StreamPredictions")(asked, timeout=30)
        return [inference.PredictionResponse.FromString(each).prediction for each in answers]

    def manage(self, method, **fields) -> str:
        asked = getattr(management, f"{method}Request")(**fields).SerializeToString()
        answer = self.management.unary_unary(MANAGEMENT + method)(asked, timeout=60)
        return management.ManagementResponse.FromString(answer).msg


@pytest.fixture(scope="module")
def server(tmp_path_factory, store):
    server = GrpcServed(tmp_path_factory.mktemp("grpc"), store)
    try:
        yield server.started()
        server.inference.close()
        server.management.close()
        assert server.stop() == 0, server.log
        assert not server.faults()
    finally:
        server.kill()


def test_ping_is_torchserves(server):
    answer = server.inference.unary_unary(f"{INFERENCE}Ping")(b"", timeout=30)
    assert inference.TorchServeHealthResponse.FromString(answer).health == '{\n  "status": "Healthy"\n}'


def test_a_prediction_has_the_bytes_of_https(server):
    for sample in SAMPLES[:3]:
        over_http = server.ask("PUT", "/predictions/digits", sample.read_bytes())
        assert server.predict("digits", data=sample.read_bytes()) == over_http.body
        assert json.loads(over_http.body)["class"] == sample.stem


def test_a_handler_gets_the_map_as_bytearrays_under_its_names(server):
    row = server.predict("rows", data=b'{"a": 1}', more=b"x")
    assert row in (b"""{'data': bytearray(b'{"a": 1}'), 'more': bytearray(b'x')}""",
                   b"""{'more': bytearray(b'x'), 'data': bytearray(b'{"a": 1}')}""")  # fmt: skip


def test_a_plain_handler_answers_a_stream_with_one_message(server):
    (answer,) = server.stream("digits", data=SAMPLES[7].read_bytes())
    assert json.loads(answer)["class"] == SAMPLES[7].stem
    assert server.ask("GET", "/ping").code == 200


def test_a_streaming_handler_answers_piece_by_piece(server):
    pieces = server.stream("answers", body=b"stream")
    assert len(pieces) > 1
    assert server.predict("answers", body=b"stream") == b"".join(pieces)


def test_a_model_that_is_not_there_is_not_found(server):
    with pytest.raises(grpc.RpcError) as caught:
        server.predict("nobody", data=b"x")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    text = "Model not found: nobody\norg.pytorch.serve.archive.model.ModelNotFoundException"
    assert caught.value.details() == text


def test_a_model_is_registered_scaled_described_and_unregistered(server):
    said = server.manage(
        "RegisterModel", url="rows.mar", model_name="later", initial_workers=1, synchronous=True
    )
    assert said == 'Model "later" Version: 1.0 registered with 1 initial workers'
    assert server.predict("later", data=b"x") == b"{'data': bytearray(b'x')}"
    scaled = server.manage("ScaleWorker", model_name="later", min_worker=2, synchronous=True)
    assert scaled == "Workers scaled to 2 for model: later"
    (described,) = json.loads(server.manage("DescribeModel", model_name="later"))
    assert len(described["workers"]) == 2
    listed = json.loads(server.manage("ListModels"))["models"]
    assert [each["modelName"] for each in listed] == ["answers", "digits", "later", "rows"]
    assert server.manage("UnregisterModel", model_name="later") == 'Model "later" unregistered'
    until(lambda: server.ask("GET", "/predictions/later").code == 404)
