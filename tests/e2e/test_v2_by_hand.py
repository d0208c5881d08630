"""The Open Inference Protocol without a client library: curl, and gRPC's reflection as grpcurl uses it."""

import json
import shutil
import struct
import subprocess

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
X = np.array([[1, 2, 3]], np.float32)
SUMS = {
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [[1, 2, 3]]},
        {"name": "factor", "datatype": "FP32", "shape": [1], "data": [2]},
    ]
}
ANSWER = {
    "model_name": "sums",
    "model_version": "1",
    "outputs": [
        {"name": "total", "datatype": "FP32", "shape": [1], "data": [12.0]},
        {"name": "peak", "datatype": "FP32", "shape": [1], "data": [3.0]},
    ],
}


def curl(*arguments, data=b""):
    done = subprocess.run(
        ["curl", "-sS", *map(str, arguments)], input=data, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@needs_curl
def test_a_tutorials_line_works_with_curls_own_content_type(tensors):
    said = curl(f"{tensors.url}/v2/models/sums/infer", "-d", json.dumps(SUMS))
    assert json.loads(said) == ANSWER


@needs_curl
def test_a_file_may_be_uploaded_in_chunks_or_after_a_question(tensors, tmp_path):
    file = tmp_path / "request.json"
    large = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 300_000], "data": [0.25] * 300_000}]}
    file.write_text(json.dumps(large))
    for way in (["-T", file, "-X", "POST"], ["--data-binary", f"@{file}"], ["-T", "-", "-X", "POST"]):
        said = curl(f"{tensors.url}/v2/models/mirror/infer", *way, data=file.read_bytes())
        (output,) = json.loads(said)["outputs"]
        assert output["data"] == [0.25] * 300_000


@needs_curl
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_curl_reads_a_compressed_answer(tensors, encoding):
    data = json.dumps({"inputs": [{"name": "x", "datatype": "INT32", "shape": [5000], "data": [7] * 5000}]})
    said = curl("--compressed", "-H", f"Accept-Encoding: {encoding}", f"{tensors.url}/v2/models/mirror/infer", "-d", "@-",
                "-D", "-", data=data.encode())  # fmt: skip
    head, _, body = said.partition(b"\r\n\r\n")
    assert f"content-encoding: {encoding}" in head.decode().lower()
    assert json.loads(body)["outputs"][0]["data"] == [7] * 5000


@needs_curl
def test_a_parameter_means_nothing_that_no_protocol_gives_it(tensors):
    # A large body goes to the worker as it came; whether it did is not for a client to say.
    parameters = {"undecoded": True, "json": True}
    x = {"name": "x", "datatype": "INT32", "shape": [2], "data": [7, 8], "parameters": parameters}
    said = curl(f"{tensors.url}/v2/models/mirror/infer", "-d", json.dumps({"inputs": [x]}))
    assert json.loads(said)["outputs"][0]["data"] == [7, 8]


@needs_curl
def test_binary_tensors_by_hand(tensors, tmp_path):
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    file = tmp_path / "body"
    file.write_bytes(head + X.tobytes())
    said = curl(f"{tensors.url}/v2/models/mirror/infer", "--data-binary", f"@{file}", "-D", "-",
                "-H", f"Inference-Header-Content-Length: {len(head)}")  # fmt: skip
    fields, _, body = said.partition(b"\r\n\r\n")
    (size,) = [
        line.split(b": ")[1] for line in fields.split(b"\r\n") if line.lower().startswith(b"inference-header")
    ]
    assert json.loads(body[: int(size)])["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert body[int(size) :] == X.tobytes()


@needs_curl
def test_generate_streams_events(tensors):
    url = f"{tensors.url}/v2/models/steps/generate_stream"
    said = curl("-N", url, "-d", '{"n": 3}').decode()
    events = [json.loads(line.removeprefix("data: ")) for line in said.split("\n\n") if line]
    assert [event["step"] for event in events] == [0, 1, 2]


@pytest.fixture(scope="module")
def channel(tensors):
    with grpc.insecure_channel(tensors.grpc_authority) as channel:
        yield channel


def test_reflection_tells_the_services_and_enough_to_call_them(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {
        "inference.GRPCInferenceService",
        "org.pytorch.serve.grpc.openinference.GRPCInferenceService",
        "grpc.health.v1.Health",
    } <= set(database.get_services())
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    method = service.FindMethodByName("ModelInfer")
    request = GetMessageClass(method.input_type)(model_name="mirror", id="mine")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    tensor.contents.fp32_contents.extend([1, 2, 3])
    answer = channel.unary_unary(
        f"/{service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )(request, timeout=30)
    assert answer.id == "mine"
    assert list(answer.raw_output_contents) == [struct.pack("<3f", 1, 2, 3)]


def test_every_documented_rpc_is_offered(channel):
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    methods = pool.FindServiceByName("inference.GRPCInferenceService").methods
    unoffered = []
    for method in methods:
        if method.name in {"ModelStreamInfer", "ModelLoad", "WorkerLoad"}:
            continue  # a stream; and what an empty request would make
        try:
            channel.unary_unary(f"/inference.GRPCInferenceService/{method.name}")(b"", timeout=30)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                unoffered.append(method.name)
    assert len(methods) >= 22
    assert not unoffered


def test_health_says_serving(channel):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert check.status == health_pb2.HealthCheckResponse.SERVING
