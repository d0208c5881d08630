"""What is asked in the soak, and what the one right answer to each of it is."""

import json
import random
import struct
from collections.abc import Callable

import grpc
import numpy as np
from wire import Answer

from mooring.codecs.proto import inference_pb2 as v2
from mooring.codecs.proto import torchserve_inference_pb2 as torchserve

Check = Callable[[Answer], bool]
Asked = tuple[bytes, Check]
LARGE = 150_528  # floats: an image of 3 x 224 x 224
OCTETS = "Content-Type: application/octet-stream"

HANDLER = """
def handle(data, context):
    return [bytes(row.get("body") or row.get("data")) for row in data or ()]
"""
COUNTER = """
def infer(inputs, parameters):
    for number in range(int(inputs["to"])):
        yield {"n": [number]}
"""
NUMBERS = "def infer(inputs, parameters):\n    return {'y': next(iter(inputs.values()))}\n"
MIRROR = "def infer(inputs, parameters):\n    return dict(inputs)\n"


def post(target: str, body: bytes, *lines: str) -> bytes:
    head = [f"POST {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


def torchserve_row(rng: random.Random) -> Asked:
    body = b"%d" % rng.getrandbits(64)
    return post("/predictions/rows", body, OCTETS), lambda got: (got.status, got.body) == (200, body)


def torchserve_large_row(rng: random.Random) -> Asked:
    body = rng.randbytes(200_000)
    return post("/predictions/rows", body, OCTETS), lambda got: (got.status, got.body) == (200, body)


def v1_instances(rng: random.Random) -> Asked:
    rows = [[rng.randrange(1000)] for _ in range(rng.randrange(1, 4))]
    body = json.dumps({"instances": rows}).encode()

    def right(got: Answer) -> bool:
        return got.status == 200 and json.loads(got.body) == {"predictions": rows}

    return post("/v1/models/numbers:predict", body), right


def v2_json(rng: random.Random) -> Asked:
    data = [rng.randrange(1 << 20) for _ in range(3)]
    tensor = {"name": "x", "datatype": "INT64", "shape": [3], "data": data}
    body = json.dumps({"id": "soak", "inputs": [tensor]}).encode()

    def right(got: Answer) -> bool:
        return got.status == 200 and json.loads(got.body)["outputs"][0]["data"] == data

    return post("/v2/models/mirror/infer", body), right


def v2_binary(rng: random.Random, count: int = 16) -> Asked:
    raw = np.full(count, rng.random(), np.float32).tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [count], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    request = post(
        "/v2/models/mirror/infer", head + raw, OCTETS, f"Inference-Header-Content-Length: {len(head)}"
    )
    return request, lambda got: got.status == 200 and got.body.endswith(raw)


def v2_large(rng: random.Random) -> Asked:
    return v2_binary(rng, LARGE)


def v2_large_json(rng: random.Random) -> Asked:
    """Above 64 KB: decoded by the worker."""
    count, value = 20_000, rng.randrange(100)
    tensor = {"name": "x", "datatype": "INT32", "shape": [count], "data": [value] * count}
    body = json.dumps({"inputs": [tensor]}).encode()

    def right(got: Answer) -> bool:
        return got.status == 200 and json.loads(got.body)["outputs"][0]["data"] == [value] * count

    return post("/v2/models/mirror/infer", body), right


def streamed(rng: random.Random) -> Asked:
    count = rng.randrange(2, 6)

    def right(got: Answer) -> bool:
        return (got.status, got.body) == (200, b"".join(b'{"n":[%d]}' % number for number in range(count)))

    return post(
        "/predictions/counter", json.dumps({"to": count}).encode(), "Content-Type: application/json"
    ), right


def probes(rng: random.Random) -> Asked:
    target = rng.choice(
        ["/", "/v2/health/live", "/v2/models/mirror", "/v1/models/rows", "/v2/models/mirror/stats"]
    )
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), lambda got: got.status == 200


_BAD: list[tuple[str, bytes, int]] = [
    ("/predictions/nobody", b"x", 404),
    ("/predictions/rows/9.9", b"x", 404),
    ("/v1/models/numbers:predict", b"{", 400),
    ("/v1/models/numbers:predict", b'{"instances": 1}', 400),
    ("/v2/models/mirror/infer", b"not json", 400),
    ("/v2/models/mirror/infer", b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1]}]}', 400),
    ("/v2/models/mirror/infer", b'{"inputs": [{"name": "x", "datatype": "WHAT", "shape": [1], "data": [1]}]}', 400),
    ("/v2/models/nobody/infer", b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}', 404),
    ("/v2/systemsharedmemory/region/x/register", b'{"key": "../etc/passwd", "byte_size": 1}', 400),
    ("/nowhere/at/all", b"", 404),
]  # fmt: skip


def refused(rng: random.Random) -> Asked:
    target, body, status = rng.choice(_BAD)
    return post(target, body), lambda got: got.status == status


KINDS: list[tuple[Callable[[random.Random], Asked], int]] = [
    (torchserve_row, 500),
    (v2_json, 150),
    (v2_binary, 150),
    (v1_instances, 80),
    (probes, 60),
    (refused, 40),
    (streamed, 10),
    (torchserve_large_row, 4),
    (v2_large_json, 2),
    (v2_large, 2),
]
"""How often each is asked: per about a thousand."""


# What no reader may understand in two ways, and each of it ends its connection.
BROKEN = [
    b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]
# Left before the answer: in the head, in a small and in a large body, with all sent.
VANISHING = [
    b"POST /predictions/rows HT",
    b"POST /predictions/rows HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
    b"POST /predictions/rows HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n" + b"z" * 200_000,
    post("/predictions/rows", b"and gone"),
    post("/predictions/rows", b"z" * 300_000),
    post("/predictions/counter", b'{"to": 50}', "Content-Type: application/json"),
    post("/v2/models/slow/infer", b'{"inputs": [{"name": "seconds", "datatype": "FP32", "shape": [1], "data": [0.02]}]}'),
]  # fmt: skip


class Rpcs:
    """The same over gRPC, with messages of its own generated classes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self._stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        self._predict = channel.unary_unary(
            "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
        )

    async def tensors(self, rng: random.Random, count: int = 8) -> bool:
        raw = struct.pack("<f", rng.random()) * count
        answer = v2.ModelInferResponse.FromString(await self._infer(_infer_of(raw, count), timeout=120))
        return answer.raw_output_contents[0] == raw

    async def large(self, rng: random.Random) -> bool:
        return await self.tensors(rng, LARGE)

    async def row(self, rng: random.Random) -> bool:
        said = b"%d" % rng.getrandbits(64)
        asked = torchserve.PredictionsRequest(model_name="rows", input={"body": said})
        answer = await self._predict(asked.SerializeToString(), timeout=120)
        return torchserve.PredictionResponse.FromString(answer).prediction == said

    async def pieces(self, rng: random.Random) -> bool:
        count = rng.randrange(1, 5)
        raw = struct.pack("<i", count)
        message = v2.ModelInferRequest(model_name="steps", raw_input_contents=[raw])
        message.inputs.add(name="n", datatype="INT32", shape=[1])
        found = []
        async for piece in self._stream(iter([message.SerializeToString()]), timeout=120):
            answer = v2.ModelStreamInferResponse.FromString(piece)
            if answer.error_message:
                return False
            found += [np.frombuffer(each, np.int32)[0] for each in answer.infer_response.raw_output_contents]
        return found == list(range(count))

    async def refused(self, rng: random.Random) -> bool:
        try:
            await self._infer(_infer_of(b"123", 1), timeout=120)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.INVALID_ARGUMENT
        return False

    async def cancelled(self, rng: random.Random) -> bool:
        """Given up at once; nothing is expected of it."""
        call = self._infer(_infer_of(b"\0" * 32, 8), timeout=120)
        call.cancel()
        return True

    @property
    def kinds(self):
        """Each with how often it is asked."""
        return [
            (self.tensors, 60),
            (self.row, 30),
            (self.pieces, 5),
            (self.refused, 3),
            (self.large, 1),
            (self.cancelled, 1),
        ]


def _infer_of(raw: bytes, count: int) -> bytes:
    message = v2.ModelInferRequest(model_name="mirror", raw_input_contents=[raw])
    message.inputs.add(name="x", datatype="FP32", shape=[count])
    return message.SerializeToString()
