"""What no client should send: a 4xx each, no model code called, and the worker lives on."""

import gzip
import json
import struct
import zlib

import grpc
import pytest
from e2e_kit import Wire, request

from mooring.codecs.proto import inference_pb2 as pb

X = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
N = {"name": "n", "datatype": "INT8", "shape": [1], "data": [5]}
GOOD = {"inputs": [X, N]}
SIZE = "Inference-Header-Content-Length"
DEEP = 100_000


def doc(x=None, n=None, **more):
    """A request with some of it replaced."""
    return {"inputs": [{**X, **(x or {})}, {**N, **(n or {})}], **more}


def text(document) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def without(key):
    return {"inputs": [{name: value for name, value in X.items() if name != key}, N]}


BODIES = {
    "an empty body": b"",
    "a broken document": b'{"inputs": [',
    "something after the document": text(GOOD) + b"}",
    "a list": [],
    "an empty object": {},
    "a number": 7,
    "null": b"null",
    "inputs that are no list": {"inputs": {"x": X}},
    "no inputs": {"inputs": []},
    "an input that is no object": {"inputs": [7, N]},
    "an input without a name": without("name"),
    "an input without a datatype": without("datatype"),
    "an input without a shape": without("shape"),
    "an input without data": without("data"),
    "a name that is a number": doc({"name": 7}),
    "an unknown datatype": doc({"datatype": "FP31"}),
    "a datatype that is a number": doc({"datatype": 32}),
    "another datatype than the model's": doc({"datatype": "FP64"}),
    "texts for numbers": doc({"data": ["1", "2", "3"]}),
    "null among whole numbers": doc(n={"data": [None]}),
    "an object among the numbers": doc({"data": [1, {}, 3]}),
    "booleans for numbers": doc({"data": [True, False, True]}),
    "ragged data": doc({"shape": [2, 3], "data": [[1, 2, 3], [4, 5]]}),
    "ragged data of the right count": doc({"shape": [2, 3], "data": [[1, 2, 3, 4], [5, 6]]}),
    "a list beside numbers": doc({"data": [1, [2], 3]}),
    "too few elements": doc({"data": [1, 2]}),
    "too many elements": doc({"data": [1, 2, 3, 4]}),
    "no elements": doc({"data": []}),
    "data that is no list": doc({"data": "AAAA"}),
    "another rank than the model's": doc({"shape": [1, 1, 3]}),
    "another size than the model's": doc({"shape": [1, 2], "data": [1, 2]}),
    "a negative size": doc({"shape": [-1, -3]}),
    "a size that is no integer": doc({"shape": [1.5, 2]}),
    "a size that is a boolean": doc({"shape": [True, 3]}),
    "a size that is a text": doc({"shape": ["1", 3]}),
    "sizes whose product overflows": doc({"shape": [2**32, 2**32]}),
    "a size of 30 digits": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[' + b"9" * 30 + b'],"data":[1]}]}',
    "a shape that is no list": doc({"shape": 3}),
    "a shape of thousands of dimensions": doc({"shape": [1] * 5000 + [3]}),
    "an integer above the type's": doc(n={"data": [128]}),
    "an integer below the type's": doc(n={"data": [-129]}),
    "an integer of 30 digits": b'{"inputs":[' + text(X) + b',{"name":"n","datatype":"INT8","shape":[1],"data":[' + b"1" * 30 + b"]}]}",
    "an integer with a fraction": doc(n={"data": [1.5]}),
    "NaN as an integer": text(doc(n={"data": [float("nan")]})),
    "a number too large for the type": doc({"data": [1e39, 2, 3]}),
    "a number that is too large for all": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1e999,2,3]},' + text(N) + b"]}",
    "an unknown input": {"inputs": [X, N, {**N, "name": "z"}]},
    "an input missing": {"inputs": [X]},
    "an input twice": {"inputs": [X, N, N]},
    "an unknown output": doc(outputs=[{"name": "nothing"}]),
    "an output twice": doc(outputs=[{"name": "calls"}, {"name": "calls"}]),
    "outputs that are no list": doc(outputs={"name": "calls"}),
    "an output without a name": doc(outputs=[{}]),
    "an id that is a number": doc(id=7),
    "parameters that are a list": doc(parameters=[1]),
    "a parameter of an input that is an object": doc({"parameters": {"a": {"b": 1}}}),
    "a parameter of the server's own": doc(parameters={"triton_final_response": True}),
    "a binary flag that is a number": doc(parameters={"binary_data_output": 1}),
    "a priority that is a text": doc(parameters={"priority": "high"}),
    "a timeout that is a text": doc(parameters={"timeout": "soon"}),
    "data and binary data": doc({"parameters": {"binary_data_size": 12}}),
    "an unknown region of shared memory": {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3],
                    "parameters": {"shared_memory_region": "passwd", "shared_memory_byte_size": 12}}, N]
    },
    "deep nesting": b"[" * DEEP + b"]" * DEEP,
    "deep nesting in the data": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":' + b"[" * DEEP + b"]" * DEEP + b"}]}",
    "deep nesting in what nobody reads": b'{"x":' + b'{"y":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
    "bytes that are not UTF-8": b'{"inputs": [{"name": "\xff\xfe"}]}',
    "a lone surrogate": b'{"inputs": [{"name": "\\ud800", "datatype": "FP32", "shape": [1], "data": [1]}]}',
    "a name with a NUL": doc({"name": "x\0"}),
    "a large ragged document": text({"inputs": [{"name": "x", "datatype": "FP32", "shape": [20_000, 3],
                                                 "data": [[1.5, 2.5, 3.5]] * 19_999 + [[1.5, 2.5]]}, N]}),
    "a large document that breaks off": text({"inputs": [{**X, "data": [1.25] * 60_000}]})[:-3],
    "a large document with a text in it": text({"inputs": [{**X, "shape": [20_000, 3], "data": [1.25] * 59_999 + ["x"]}, N]}),
    "a large document of the wrong shape": text({"inputs": [{**X, "shape": [20_000, 3], "data": [1.25] * 59_999}, N]}),
}  # fmt: skip

RAW = struct.pack("<3f", 1, 2, 3)


def binary(size, *, tail=RAW + b"\x05", stated=None, x=None):
    """A body with binary tensors, and its header lines."""
    head = text(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, 3],
                    "parameters": {"binary_data_size": size},
                    **(x or {}),
                },
                {"name": "n", "datatype": "INT8", "shape": [1], "parameters": {"binary_data_size": 1}},
            ]
        }
    )
    return head + tail, [f"{SIZE}: {len(head) if stated is None else stated}"]


BINARIES = {
    "more bytes than the shape": binary(13),
    "fewer bytes than the shape": binary(8),
    "a negative size": binary(-1),
    "a size that is a text": binary("12"),
    "a size that is no integer": binary(12.0),
    "a body that ends early": binary(12, tail=RAW[:5]),
    "a body that goes on": binary(12, tail=RAW + b"\x05more"),
    "a huge size": binary(2**62),
    "texts that end inside": binary(12, x={"datatype": "BYTES"}),
    "a header beyond the body": binary(12, stated=100_000),
    "a negative header": binary(12, stated=-1),
    "a header that is no number": binary(12, stated="abc"),
    "a header of 30 digits": binary(12, stated="9" * 30),
    "a header in the middle of the document": binary(12, stated=20),
    "a raw request for two inputs": (RAW, [f"{SIZE}: 0"]),
}

ENCODINGS = {
    # name: body, or what makes it where that takes seconds; content-encoding; status
    "what is no gzip": (b"no gzip at all", "gzip", 400),
    "gzip that breaks off": (gzip.compress(text(GOOD))[:-9], "gzip", 400),
    "gzip whose sum is wrong": (gzip.compress(text(GOOD))[:-8] + b"\0" * 8, "gzip", 400),
    "an empty gzip": (b"", "gzip", 400),
    "what is no deflate": (b"\x01\x02\x03\x04", "deflate", 400),
    "deflate that breaks off": (zlib.compress(text(GOOD))[:-6], "deflate", 400),
    "an unknown encoding": (text(GOOD), "zstd", 415),
    "a bomb": (lambda: gzip.compress(b" " * 100_000_000, 9), "gzip", 413),
    "a bomb of deflate": (lambda: zlib.compress(b"[" * 100_000_000, 9), "deflate", 413),
}


def calls(server) -> int:
    """How often the model has been called, this time included."""
    answer = server.ask("POST", "/v2/models/counted/infer", text(GOOD))
    assert answer.code == 200, answer
    (output,) = answer.json()["outputs"]
    return output["data"][0]


@pytest.fixture
def untouched(tensors):
    """For a test that must not reach the model: nobody calls it meanwhile, and it runs on where it ran."""
    before, pids = calls(tensors), tensors.workers("counted")
    yield
    assert calls(tensors) == before + 1
    assert tensors.workers("counted") == pids


def refused(answer, *statuses) -> None:
    assert answer.code in (statuses or (400,)), answer
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("what", BODIES)
def test_a_faulty_document_is_a_400_and_reaches_no_model(tensors, what):
    refused(tensors.ask("POST", "/v2/models/counted/infer", text(BODIES[what])))


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("what", BINARIES)
def test_faulty_binary_data_is_a_400_and_reaches_no_model(tensors, what):
    body, lines = BINARIES[what]
    refused(tensors.ask("POST", "/v2/models/counted/infer", body, *lines))


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("what", ENCODINGS)
def test_a_faulty_encoding_is_a_4xx_and_reaches_no_model(tensors, what):
    body, encoding, status = ENCODINGS[what]
    body = body() if callable(body) else body
    refused(tensors.ask("POST", "/v2/models/counted/infer", body, f"Content-Encoding: {encoding}"), status)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("size", [None, "-1", "abc", "1 2", "0x10", "1_0", "+5"])
def test_a_lengths_field_that_is_none_is_refused(tensors, size):
    lines = [f"{SIZE}: {size}"] if size else [f"{SIZE}: 5", f"{SIZE}: 6"]
    with Wire(tensors.port) as wire:
        wire.send(request("POST", "/v2/models/counted/infer", text(GOOD), *lines))
        assert 400 <= wire.answer().code < 500


def x(datatype="FP32", shape=(1, 3), name="x", **contents):
    return {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        "contents": pb.InferTensorContents(**contents),
    }


def n(**contents):
    return x("INT8", [1], "n", **contents)


def message(*tensors, raw=(RAW, b"\x05"), outputs=()):
    """A message with these tensors, or with those that the model takes."""
    made = pb.ModelInferRequest(model_name="counted", raw_input_contents=raw)
    for tensor in tensors or (x(), n()):
        said = made.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        if tensor["contents"].ListFields():
            said.contents.CopyFrom(tensor["contents"])
    for name in outputs:
        made.outputs.add(name=name)
    return made.SerializeToString()


FLOATS = {"fp32_contents": [1, 2, 3]}
FIVE = n(int_contents=[5])
MESSAGES = {
    "no message": b"\xff\xff\xff",
    "a field that is cut off": message()[:-1],
    "raw contents for one input of two": message(raw=[RAW]),
    "raw contents for more inputs": message(raw=[RAW, b"\x05", b"\x06"]),
    "raw contents that are too short": message(raw=[RAW[:8], b"\x05"]),
    "raw contents that are too long": message(raw=[RAW + b"\0", b"\x05"]),
    "raw contents and typed ones": message(x(**FLOATS), n()),
    "no contents": message(raw=[]),
    "the contents of another type": message(x(int64_contents=[1, 2, 3]), FIVE, raw=[]),
    "too few contents": message(x(fp32_contents=[1]), FIVE, raw=[]),
    "too many contents": message(x(fp32_contents=[1, 2, 3, 4]), FIVE, raw=[]),
    "an integer above the type's": message(x(**FLOATS), n(int_contents=[300]), raw=[]),
    "a number too large for two bytes": message(x("FP16", fp32_contents=[1e9, 1, 2]), FIVE, raw=[]),
    "an unknown datatype": message(x("FP31"), n()),
    "another datatype": message(x("INT32"), n()),
    "another shape": message(x(shape=[3, 1]), n()),
    "a negative size": message(x(shape=[-1, -3]), n()),
    "sizes whose product overflows": message(x(shape=[2**62, 2**62]), n()),
    "an unknown input": message(x(name="z"), n()),
    "an input twice": message(n(), n(), raw=[b"\x05", b"\x05"]),
    "an input missing": message(x(), raw=[RAW]),
    "an unknown output": message(outputs=["nothing"]),
    "no inputs": pb.ModelInferRequest(model_name="counted").SerializeToString(),
    "texts that end inside": message(x("BYTES", [1]), n(), raw=[b"\xff\0\0\0a", b"\x05"]),
}


@pytest.fixture(scope="module")
def infer(tensors):
    with grpc.insecure_channel(tensors.grpc_authority) as channel:
        yield channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")


def test_the_message_that_others_spoil_is_a_good_one(infer):
    answer = pb.ModelInferResponse.FromString(infer(message(), timeout=30))
    assert answer.outputs[0].name == "calls"


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("what", MESSAGES)
def test_a_faulty_message_is_an_invalid_argument_and_reaches_no_model(infer, what):
    with pytest.raises(grpc.RpcError) as error:
        infer(MESSAGES[what], timeout=30)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, error.value
    assert error.value.details()


def test_whatever_came_the_server_is_well(tensors):
    assert tensors.ask("GET", "/v2/health/ready").json() == {"ready": True}
    assert not tensors.faults()
