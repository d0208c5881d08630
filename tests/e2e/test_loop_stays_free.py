"""The event loop answers others while it has a large body before it, whatever the body is made of (decision 37).

Each case sends or asks for up to 16 MB, and looks at the most CPU time that the loop took between two of its turns. CPU
time of its thread, and not the clock: on a busy machine a turn takes longer, and does not do more.
"""

import json
import struct
import sys
from pathlib import Path

import grpc
import pytest
import requests
from e2e_kit import Server, free_ports
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from mooring.codecs.protobuf_wire import encode_nested, encode_varint

SIZE = 16 << 20
MOST = 0.05  # seconds of CPU
PATIENCE = 120.0
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
PREDICT = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"

COUNT = """
import numpy as np

def infer(inputs, parameters):
    return {name: np.array([array.size]) for name, array in inputs.items()}
"""
GIVE = """
import numpy as np

def infer(inputs, parameters):
    count = int(parameters["count"])
    if parameters["kind"] == "BYTES":
        return {"y": np.array([b""] * count, dtype=object)}
    return {"y": (np.arange(count) % 100).astype(parameters["kind"])}
"""
ROWS = """
import numpy as np

def infer(inputs, parameters):
    return {"y": inputs["x"]}
"""
ECHO = """
def infer(inputs, parameters):
    return dict(inputs)
"""
VALUES = """
def infer(x: list[float] = [], count: int = 0) -> list[float]:
    return [float(len(x)) + each for each in range(max(count, 1))]
"""
X = '[[inputs]]\nname = "x"\ndatatype = "{}"\nshape = [-1]\n'
STAGE = '[[models]]\nname = "{}"\nbackend = "function"\nentry = "model.py:infer"\n'
ENSEMBLE = """
platform = "ensemble"
max_batch_size = {}
[[inputs]]
name = "x"
datatype = "FP32"
shape = {}
[[outputs]]
name = "y"
datatype = "FP32"
shape = {}
[[ensemble.steps]]
model = "{}"
inputs = {{ x = "x" }}
outputs = {{ y = "m" }}
[[ensemble.steps]]
model = "{}"
inputs = {{ x = "m" }}
outputs = {{ y = "y" }}
"""
# "strict" takes INT64 only, so that whatever else comes is refused unread: these cases cost nothing but what the loop does.
MODELS = {
    "count": (COUNT, ""),
    "strict": (COUNT, X.format("INT64")),
    "chain": (COUNT, STAGE.format("first") + STAGE.format("second")),
    "steps": (COUNT, "[sequences]\n"),
    "give": (GIVE, ""),
    "rows": (
        ROWS,
        "max_batch_size = 1000000\n"
        + X.format("FP32")
        + X.format("FP32").replace("inputs", "outputs").replace('"x"', '"y"'),
    ),
    "one": (ROWS, X.format("FP32") + X.format("FP32").replace("inputs", "outputs").replace('"x"', '"y"')),
    "ensemble": (ROWS, ENSEMBLE.format(1_000_000, "[-1]", "[-1]", "rows", "rows")),
    "singles": (ROWS, ENSEMBLE.format(1, "[-1]", "[-1]", "one", "one")),
    "values": (VALUES, ""),
    "echoes": (ECHO, "max_batch_size = 1000000\n" + STAGE.format("once") + STAGE.format("twice")),
}


class WatchedServer(Server):
    PROGRAM = (sys.executable, Path(__file__).parent / "watched_server.py")

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._gap = folder / "gap"
        self._gap.write_bytes(bytes(8))
        (self.rpc,) = free_ports(1)
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{self.rpc}",
            options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)],
        )
        flags = (
            f"--grpc-address=127.0.0.1:{self.rpc}",
            "--max-request-size=100000000",
            "--max-response-size=100000000",
        )
        environ = {"LOOP_GAP_FILE": str(self._gap)}
        super().__init__(folder, *flags, *arguments, environ=environ)

    def gap(self) -> float:
        """The most seconds of CPU since the last time that this was asked."""
        with self._gap.open("r+b") as file:
            (gap,) = struct.unpack("d", file.read(8))
            file.seek(0)
            file.write(bytes(8))
        return gap

    def post(self, path: str, body: bytes, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.post(f"{self.url}{path}", body, headers=named, timeout=PATIENCE).status_code

    def call(self, method: str, message: bytes) -> str:
        """The name of the status."""
        same = {"request_serializer": bytes, "response_deserializer": bytes}
        try:
            if method == STREAM:
                list(self._channel.stream_stream(method, **same)(iter([message]), timeout=PATIENCE))
            else:
                self._channel.unary_unary(method, **same)(message, timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, (source, text) in MODELS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.toml").write_text(f'name = "{name}"\n{text}')
        (folder / name / "1" / "model.py").write_text(source)
    server = WatchedServer(tmp_path_factory.mktemp("server"), "--model-repository", str(folder))
    try:
        server.started()
        server.post("/v2/models/chain/infer", document(numbers("1", 100_000)))  # starts a codec process
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def loop_stays_free(server):
    server.gap()
    yield
    assert server.gap() < MOST


def filled(part: str, size: int = SIZE) -> str:
    """The part, as often as it takes to have so many bytes, with commas between."""
    return part + ("," + part) * (size // (len(part) + 1) - 1)


def entry(datatype: str, data: str, count: int, name: str = "x") -> str:
    return f'{{"name": "{name}", "datatype": "{datatype}", "shape": [{count}], "data": [{data}]}}'


def numbers(part: str, size: int = SIZE, datatype: str = "FP32") -> str:
    data = filled(part, size)
    return entry(datatype, data, data.count(",") + 1)


def document(*inputs: str) -> bytes:
    return f'{{"inputs": [{", ".join(inputs)}], "parameters": {{"sequence_id": 7, "sequence_start": true}}}}'.encode()


def many_inputs(size: int) -> bytes:
    return document(*[entry("FP32", "1", 1, f"x{each}") for each in range(size // 70)])


JSON_BODIES = {
    "numbers": lambda: document(numbers("0.123456")),
    "integers": lambda: document(numbers("1", SIZE // 4, "INT64")),
    "booleans": lambda: document(numbers("true", SIZE // 2, "BOOL")),
    "empty texts": lambda: document(numbers('""', SIZE // 4, "BYTES")),
    "one text": lambda: document(entry("BYTES", '"' + "a" * SIZE + '"', 1)),
    "many inputs": lambda: many_inputs(SIZE // 4),
    "nested": lambda: document(entry("FP32", "[" * (SIZE // 2) + "]" * (SIZE // 2), 1)),
    "nested parameters": lambda: (
        b'{"parameters": ' + b'{"a":' * (SIZE // 8) + b"1" + b"}" * (SIZE // 8) + b"}"
    ),
}


@pytest.mark.parametrize("body", JSON_BODIES)
@pytest.mark.parametrize("model", ["strict", "chain", "steps", "ensemble"])
def test_v2_json(server, model, body):
    assert server.post(f"/v2/models/{model}/infer", JSON_BODIES[body]()) in {200, 400}


def binary(datatype: str, count: int, data: bytes) -> tuple[bytes, bytes]:
    size = {"binary_data_size": len(data)}
    tensor = {"name": "x", "datatype": datatype, "shape": [count], "parameters": size}
    return json.dumps(
        {"inputs": [tensor], "parameters": {"sequence_id": 7, "sequence_start": True}}
    ).encode(), data


def one_text() -> bytes:
    return (SIZE - 4).to_bytes(4, "little") + bytes(SIZE - 4)


BINARY_BODIES = {
    "empty texts": lambda: binary("BYTES", SIZE // 4, bytes(SIZE)),
    "one text": lambda: binary("BYTES", 1, one_text()),
    "numbers": lambda: binary("FP32", SIZE // 4, bytes(SIZE)),
    "integers": lambda: binary("INT64", SIZE // 8, bytes(SIZE)),
    "booleans": lambda: binary("BOOL", SIZE, bytes(SIZE)),
    "many inputs": lambda: (many_inputs(SIZE // 4), b""),
}


@pytest.mark.parametrize("body", BINARY_BODIES)
@pytest.mark.parametrize("model", ["strict", "steps", "chain", "ensemble"])
def test_v2_binary(server, model, body):
    if model != "strict" and body == "empty texts":
        head, data = binary("BYTES", SIZE // 32, bytes(SIZE // 8))
    else:
        head, data = BINARY_BODIES[body]()
    length = {"Inference_Header_Content_Length": str(len(head))}
    assert server.post(f"/v2/models/{model}/infer", head + data, **length) in {200, 400}


def tensor(datatype: str, count: int, contents: bytes | None = None, name: str = "x") -> bytes:
    head = (
        encode_nested(b"\x0a", name.encode())
        + encode_nested(b"\x12", datatype.encode())
        + encode_nested(b"\x1a", encode_varint(count))
    )
    return encode_nested(b"\x2a", head if contents is None else head + encode_nested(b"\x2a", contents))


MESSAGES = {
    "raw, empty texts": lambda: tensor("BYTES", SIZE // 4) + encode_nested(b"\x3a", bytes(SIZE)),
    "raw, one text": lambda: tensor("BYTES", 1) + encode_nested(b"\x3a", one_text()),
    "raw, numbers": lambda: tensor("FP32", SIZE // 4) + encode_nested(b"\x3a", bytes(SIZE)),
    "raw, integers": lambda: tensor("INT64", SIZE // 8) + encode_nested(b"\x3a", bytes(SIZE)),
    "raw, booleans": lambda: tensor("BOOL", SIZE) + encode_nested(b"\x3a", bytes(SIZE)),
    "empty texts": lambda: tensor("BYTES", SIZE // 2, b"\x42\x00" * (SIZE // 2)),
    "one text": lambda: tensor("BYTES", 1, encode_nested(b"\x42", bytes(SIZE))),
    "numbers": lambda: tensor("FP32", SIZE // 4, encode_nested(b"\x32", bytes(SIZE))),
    "numbers one by one": lambda: tensor("FP32", SIZE // 5, b"\x35\x00\x00\x00\x00" * (SIZE // 5)),
    "integers": lambda: tensor("INT64", SIZE // 8, encode_nested(b"\x1a", b"\x05" * (SIZE // 8))),
    "booleans": lambda: tensor("BOOL", SIZE, encode_nested(b"\x0a", b"\x01" * SIZE)),
    "many inputs": lambda: b"".join(tensor("INT64", 1, name=f"x{each}") for each in range(SIZE // 64)),
    "many raw contents": lambda: tensor("INT64", 1) + b"\x3a\x00" * (SIZE // 2),
    "many parameters": lambda: b"\x22\x00" * (SIZE // 2),
    "many outputs": lambda: b"\x32\x00" * (SIZE // 2),
    "unknown fields": lambda: b"\x78\x00" * (SIZE // 2),
    "a long shape": lambda: encode_nested(b"\x2a", encode_nested(b"\x1a", b"\x01" * SIZE)),
    "a shape of many fields": lambda: encode_nested(b"\x2a", b"\x18\x01" * (SIZE // 2)),
}


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("method", [INFER, STREAM], ids=["ModelInfer", "ModelStreamInfer"])
def test_v2_over_grpc(server, method, message):
    body = encode_nested(b"\x0a", b"strict") + MESSAGES[message]()
    assert server.call(method, body) in {"OK", "INVALID_ARGUMENT"}


def test_texts_that_are_wanted_arrive(server):
    head, data = binary("BYTES", SIZE // 32, bytes(SIZE // 8))
    answer = requests.post(
        f"{server.url}/v2/models/count/infer",
        head + data,
        headers={"Inference-Header-Content-Length": str(len(head))},
        timeout=PATIENCE,
    )
    assert answer.json()["outputs"][0]["data"] == [SIZE // 32]
    raw = (
        encode_nested(b"\x0a", b"count")
        + tensor("BYTES", SIZE // 32)
        + encode_nested(b"\x3a", bytes(SIZE // 8))
    )
    typed = encode_nested(b"\x0a", b"count") + tensor("BYTES", SIZE // 64, b"\x42\x00" * (SIZE // 64))
    assert [server.call(INFER, each) for each in (raw, typed)] == ["OK", "OK"]


V1_BODIES = {
    # Half a million rows of 31 bytes: a row costs models and codecs 5 us of CPU, so more of them cost a minute and show no more.
    "numbers": lambda: '{"instances": [' + filled("1." + "0" * 29, SIZE) + "]}",
    "nested": lambda: '{"instances": [' + filled("[[[1]]]", SIZE // 4) + "]}",
    "deep": lambda: '{"instances": ' + "[" * (SIZE // 2) + "]" * (SIZE // 2) + "}",
    "empty texts": lambda: '{"instances": [' + filled('""', SIZE // 4) + "]}",
}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        *(("rows", body) for body in V1_BODIES),
        ("ensemble", "numbers"),
        ("ensemble", "deep"),
        ("singles", "numbers"),
    ],
)
def test_kserve_v1(server, model, body):
    assert server.post(f"/v1/models/{model}:predict", V1_BODIES[body]().encode()) in {200, 400}


def test_an_event_of_kserve_v1(server):
    attributes = '"specversion": "1.0", "id": "1", "source": "s", "type": "t"'
    event = f'{{{attributes}, "data": {V1_BODIES["numbers"]()}}}'.encode()
    assert server.post("/v1/models/rows:predict", event, Content_Type="application/cloudevents+json") == 200


FORM = "multipart/form-data; boundary=b"
BODIES = {
    "JSON": ("application/json", lambda: document(numbers("1", SIZE // 4))),
    "nested JSON": ("application/json", lambda: b"[" * (SIZE // 2) + b"]" * (SIZE // 2)),
    "bytes": ("application/octet-stream", lambda: bytes(SIZE)),
    "many parts": (
        FORM,
        lambda: b'--b\r\nContent-Disposition: form-data; name="d"\r\n\r\n\r\n' * (SIZE // 55) + b"--b--\r\n",
    ),
    "large parts": (
        FORM,
        lambda: (
            (b'--b\r\nContent-Disposition: form-data; name="d"\r\n\r\n' + bytes(SIZE // 900) + b"\r\n") * 900
            + b"--b--\r\n"
        ),
    ),
    "near-boundaries": (
        FORM,
        lambda: (
            b'--b\r\nContent-Disposition: form-data; name="d"\r\n\r\n'
            + b"\r\n--a" * (SIZE // 5)
            + b"\r\n--b--\r\n"
        ),
    ),
    "many fields": ("application/x-www-form-urlencoded", lambda: b"a=1&" * (SIZE // 4)),
    "one field": ("application/x-www-form-urlencoded", lambda: b"a=" + b"%41" * (SIZE // 3)),
    "spaces": ("application/x-www-form-urlencoded", lambda: b"a=" + b"+" * SIZE),
}


@pytest.mark.parametrize(
    ("model", "body"),
    [*(("strict", body) for body in BODIES), ("ensemble", "JSON"), ("ensemble", "bytes")],
)
def test_predictions(server, model, body):
    content_type, made = BODIES[body]
    assert server.post(f"/predictions/{model}", made(), Content_Type=content_type) in {200, 400}


VALUE_BODIES = {
    "many numbers": lambda: '{"x": [' + filled("1", SIZE // 2) + "]}",
    "many numbers back": lambda: f'{{"count": {SIZE // 16}}}',
}


@pytest.mark.parametrize(
    "path", ["predictions/values", "v1/models/values:predict", "v2/models/values/generate"]
)
@pytest.mark.parametrize("body", VALUE_BODIES)
def test_a_function_of_values(server, path, body):
    text = VALUE_BODIES[body]()
    made = f'{{"instances": [{text}]}}' if path.startswith("v1") else text
    assert server.post(f"/{path}", made.encode(), Content_Type="application/json") == 200


def field(name: bytes, value: bytes) -> bytes:
    return encode_nested(b"\x1a", encode_nested(b"\x0a", name) + encode_nested(b"\x12", value))


@pytest.mark.parametrize("shape", ["many inputs", "one input", "unknown fields"])
def test_predictions_over_grpc(server, shape):
    inputs = {
        "many inputs": lambda: b"".join(field(b"%d" % each, b"") for each in range(SIZE // 14)),
        "one input": lambda: field(b"data", bytes(SIZE)),
        "unknown fields": lambda: b"\x78\x00" * (SIZE // 2),
    }[shape]()
    assert server.call(PREDICT, encode_nested(b"\x0a", b"strict") + inputs) != "UNAVAILABLE"


GENERATE_BODIES = {
    "a long text": lambda: '{"x": "' + "a" * SIZE + '"}',
    "numbers": lambda: '{"x": [' + filled("1", SIZE // 4) + "]}",
    "parameters": lambda: (
        '{"x": [1], "parameters": {' + ",".join(f'"{each}": 1' for each in range(SIZE // 64)) + "}}"
    ),
    "v2": lambda: document(numbers("1", SIZE // 4)).decode(),
}


@pytest.mark.parametrize("body", GENERATE_BODIES)
@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
def test_generate(server, verb, body):
    assert server.post(f"/v2/models/count/{verb}", GENERATE_BODIES[body]().encode()) in {200, 400}


@pytest.mark.parametrize("body", ["numbers", "empty texts"])
def test_the_websocket_of_amd(server, body):
    whole = JSON_BODIES[body]().decode()
    with connect(
        f"ws://127.0.0.1:{server.port}/models/infer", max_size=None, open_timeout=PATIENCE
    ) as socket:
        socket.send('{"model": "count", ' + whole[1:])
        assert socket.recv(timeout=PATIENCE)


GIVEN = [("BYTES", 1_000_000), ("float32", 2_000_000), ("int64", 1_000_000), ("bool", 4_000_000)]


@pytest.mark.parametrize(("kind", "count"), GIVEN)
@pytest.mark.parametrize("is_binary", [False, True])
def test_answers_of_v2(server, kind, count, is_binary):
    parameters = {"kind": kind, "count": count, "binary_data_output": is_binary}
    inputs = [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]
    body = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    assert server.post("/v2/models/give/infer", body) == 200


def told(key: str, choice: bytes) -> bytes:
    return encode_nested(b"\x22", encode_nested(b"\x0a", key.encode()) + encode_nested(b"\x12", choice))


@pytest.mark.parametrize(("kind", "count"), GIVEN)
@pytest.mark.parametrize("layout", ["raw", "typed"])
@pytest.mark.parametrize("method", [INFER, STREAM], ids=["ModelInfer", "ModelStreamInfer"])
def test_answers_over_grpc(server, kind, count, layout, method):
    inputs = tensor("INT8", 1, None if layout == "raw" else b"\x12\x01\x01")
    parameters = told("kind", encode_nested(b"\x1a", kind.encode())) + told(
        "count", b"\x10" + encode_varint(count)
    )
    raw = encode_nested(b"\x3a", b"\x01") if layout == "raw" else b""
    assert server.call(method, encode_nested(b"\x0a", b"give") + parameters + inputs + raw) == "OK"


@pytest.mark.parametrize(("kind", "count"), GIVEN)
def test_answers_of_generate(server, kind, count):
    body = json.dumps({"x": [1], "kind": kind, "count": count, "parameters": {"kind": kind, "count": count}})
    assert server.post("/v2/models/give/generate", body.encode()) == 200


COUNT_OF_FEW = 50_000
FEW = "1," * (COUNT_OF_FEW - 1) + "1"


def counted(server: WatchedServer, path: str, body: bytes, **headers: str) -> object:
    """What is answered, in JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(f"{server.url}{path}", body, headers=named, timeout=PATIENCE).json()


@pytest.mark.parametrize("model", ["count", "chain", "steps"])
def test_what_a_body_says_that_others_read_is_done(server, model):
    asked = document(entry("INT8", FEW, COUNT_OF_FEW)).replace(b'"inputs"', b'"id": "mine", "inputs"')
    answer = counted(server, f"/v2/models/{model}/infer", asked)
    assert (answer["id"], answer["model_name"]) == ("mine", model)
    assert answer["outputs"][0]["data"] == [1 if model == "chain" else COUNT_OF_FEW]


def test_a_document_before_binary_tensors_may_be_large_too(server):
    head, data = binary("INT8", 9, bytes(9))
    head = head.replace(b'"inputs"', b" " * 70_000 + b'"id": "mine", "inputs"')
    length = str(len(head))
    answer = counted(server, "/v2/models/count/infer", head + data, Inference_Header_Content_Length=length)
    assert (answer["id"], answer["outputs"][0]["data"]) == ("mine", [9])


def test_generate_answers_a_body_that_a_worker_reads_as_any_other(server):
    path = "/v2/models/count/generate"
    named = counted(server, path, f'{{"id": "mine", "x": [{FEW}]}}'.encode())
    plain = counted(server, path, f'{{"x": [{FEW}]}}'.encode())
    assert named == {"id": "mine", "model_name": "count", "model_version": "1", "x": COUNT_OF_FEW}
    assert plain == {"model_name": "count", "model_version": "1", "x": COUNT_OF_FEW}
    given = document(entry("INT8", FEW, COUNT_OF_FEW))
    answer = counted(server, path, given)
    assert (answer["outputs"][0]["data"], "id" in answer) == ([COUNT_OF_FEW], False)


def test_the_websocket_answers_small_and_large_requests_in_their_order(server):
    with connect(
        f"ws://127.0.0.1:{server.port}/models/infer", max_size=None, open_timeout=PATIENCE
    ) as socket:
        for data, count in ((FEW, COUNT_OF_FEW), ("1", 1)):
            socket.send(f'{{"model": "count", "inputs": [{entry("INT8", data, count)}]}}')
        replies = [int.from_bytes(socket.recv(timeout=PATIENCE, decode=False), "little") for _ in range(2)]
        socket.send('{"inputs": []' + " " * 100_000 + "}")
        assert replies == [COUNT_OF_FEW, 1]
        with pytest.raises(ConnectionClosedError, match="No model found in request"):
            socket.recv(timeout=PATIENCE)


def test_a_percent_encoded_field_arrives_decoded(server):
    body = b"x=%5B" + FEW.replace(",", "%2C").encode() + b"%5D"
    answer = counted(server, "/predictions/count", body, Content_Type="application/x-www-form-urlencoded")
    assert answer == {"input": [COUNT_OF_FEW]}


def test_predictions_of_many_rows_go_through_a_chain(server):
    body = f'{{"instances": [{FEW}]}}'.encode()
    assert counted(server, "/v1/models/echoes:predict", body) == {"predictions": [1] * COUNT_OF_FEW}
