"""The Open Inference Protocol over REST, with its extensions: tensors well and badly sent, the repository, settings."""

import gzip
import json
import os
import struct
import zlib

from exchanges.asks import JSON, ask, binary, floats, infer, manage, post, tensor
from exchanges.player import Http

# The shared memory that the server is asked to read and to write; whoever starts the server makes it.
REGION = f"mooring_exchanges_{os.getpid():08}"
REGION_BYTES = floats(1, 2, 3, 4).ljust(256, b"\0")

X = tensor("x", "FP32", [1, 3], [[1, 2, 3]])
FACTOR = tensor("factor", "FP32", [1], [2])
SUMS = {"inputs": [X, FACTOR]}
MIRRORED = {
    "BOOL": [True, False], "UINT8": [0, 255], "UINT16": [0, 65535], "UINT32": [0, 4294967295],
    "UINT64": [0, 18446744073709551615], "INT8": [-128, 127], "INT16": [-32768, 32767], "INT32": [-2147483648, 2147483647],
    "INT64": [-9223372036854775808, 9223372036854775807], "FP16": [0.5, -65504], "FP32": [0.1, -3.5e38 + 1e37],
    "FP64": [0.1, 1e308], "BYTES": ["text", '\u00e9 " \\ \n'],
}  # fmt: skip
WRONG = {
    "BOOL": [2, 0], "UINT8": [256, 0], "INT8": [1.5, 0], "UINT64": [-1, 0], "INT64": [9223372036854775808, 0],
    "FP16": [70000, 0], "FP32": ["x", 0], "BYTES": [1, 2], "FP8": [1, 2], "": [1, 2], "fp32": [1, 2], "BF16": [1, 2],
}  # fmt: skip
BAD = {
    "no inputs": {},
    "an empty list of inputs": {"inputs": []},
    "inputs that are no list": {"inputs": {"x": 1}},
    "an input that is no object": {"inputs": [1]},
    "an input without a name": {"inputs": [{"datatype": "FP32", "shape": [1], "data": [1]}]},
    "an input without a datatype": {"inputs": [{"name": "x", "shape": [1], "data": [1]}]},
    "an input without a shape": {"inputs": [{"name": "x", "datatype": "FP32", "data": [1]}]},
    "an input without data": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]},
    "an input that is there twice": {"inputs": [tensor("x", "FP32", [1], [1]), tensor("x", "FP32", [1], [1])]},
    "a shape that is no list": {"inputs": [{"name": "x", "datatype": "FP32", "shape": 1, "data": [1]}]},
    "a negative shape": {"inputs": [tensor("x", "FP32", [-1], [1])]},
    "a shape of texts": {"inputs": [{"name": "x", "datatype": "FP32", "shape": ["1"], "data": [1]}]},
    "a shape of fractions": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1.5], "data": [1]}]},
    "a giant shape": {"inputs": [tensor("x", "FP32", [4611686018427387904, 4], [1])]},
    "too few data": {"inputs": [tensor("x", "FP32", [3], [1])]},
    "too many data": {"inputs": [tensor("x", "FP32", [1], [1, 2])]},
    "ragged data": {"inputs": [tensor("x", "FP32", [2, 2], [[1, 2], [3]])]},
    "data in another shape": {"inputs": [tensor("x", "FP32", [2, 2], [[1, 2, 3, 4]])]},
    "data that are no list": {"inputs": [tensor("x", "FP32", [1], 1)]},
    "data that are null": {"inputs": [tensor("x", "FP32", [1], None)]},
    "a missing value": {"inputs": [tensor("x", "INT32", [1], [None])]},
    "a name that is no text": {"inputs": [tensor(7, "FP32", [1], [1])]},  # type: ignore[arg-type]
    "an id that is no text": {"id": 7, "inputs": [tensor("x", "FP32", [1], [1])]},
    "parameters that are no object": {"parameters": [1], "inputs": [tensor("x", "FP32", [1], [1])]},
    "outputs that are no list": {"outputs": 1, "inputs": [tensor("x", "FP32", [1], [1])]},
    "an output without a name": {"outputs": [{}], "inputs": [tensor("x", "FP32", [1], [1])]},
    "an output that is not there": {"outputs": [{"name": "z"}], "inputs": [tensor("x", "FP32", [1], [1])]},
    "a priority that is no number": {"parameters": {"priority": "x"}, "inputs": [tensor("x", "FP32", [1], [1])]},
    "a timeout that is no number": {"parameters": {"timeout": "x"}, "inputs": [tensor("x", "FP32", [1], [1])]},
    "a sequence for a model without one": {"parameters": {"sequence_id": 1}, "inputs": [tensor("x", "FP32", [1], [1])]},
}  # fmt: skip
TEXTS = {
    "nothing": b"", "half a document": b'{"inputs": [', "a number": b"7", "a list": b"[]", "null": b"null", "NaN": b"NaN",
    "what is no UTF-8": b'{"inputs": "\xff"}', "a document and more": b"{} {}", "a deep nest": b"[" * 5000,
    "a key that is there twice": b'{"inputs": [], "inputs": [{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}',
    "NaN among numbers": b'{"inputs": [{"name":"x","datatype":"FP32","shape":[2],"data":[NaN, Infinity]}]}',
    "an overlong number": b'{"inputs": [{"name":"x","datatype":"INT64","shape":[1],"data":[1' + b"0" * 400 + b"]}]}",
}  # fmt: skip
GETS = (
    "GET /v2", "HEAD /v2", "POST /v2", "GET /v2/", "GET /v2/health/live", "GET /v2/health/ready", "HEAD /v2/health/ready",
    "POST /v2/health/live", "GET /v2/models", "GET /v2/models/sums", "GET /v2/models/sums/versions/1",
    "GET /v2/models/sums/versions/9", "GET /v2/models/sums/ready", "GET /v2/models/sums/versions/1/ready",
    "GET /v2/models/nobody", "GET /v2/models/nobody/ready", "HEAD /v2/models/nobody/ready", "GET /v2/models/mirror",
    "GET /v2/models/rows", "GET /v2/models/half", "GET /v2/models/typed", "GET /v2/models/affine", "GET /v2/models/labeled",
    "GET /v2/models/twice", "GET /v2/models/kept", "GET /v2/models/annotated", "GET /v2/models/digits_onnx",
    "GET /v2/models/echo", "GET /v2/models/versions", "GET /v2/models/sums/config", "GET /v2/models/sums/versions/1/config",
    "GET /v2/models/kept/config", "GET /v2/models/twice/config", "GET /v2/models/rows/config", "GET /v2/models/affine/config",
    "GET /v2/models/nobody/config", "GET /v2/models/nobody/stats", "GET /v2/models/sums/versions/9/stats",
    "GET /v2/models/sums/infer", "PUT /v2/models/sums/infer", "DELETE /v2/models/sums", "OPTIONS /v2/models/sums/infer",
    "GET /v2/models/sums/nothing", "POST /v2/models/nobody/infer", "POST /v2/models/sums/versions/9/infer",
    "GET /v2/models//infer", "GET /v2/models/a%22b", "GET /v2/docs/dataplane.json", "GET /v2/cudasharedmemory/status",
    "POST /v2/cudasharedmemory/region/a/register", "GET /v2/nothing", "POST /v2/hardware",
)  # fmt: skip
OUTPUTS = {
    "one output": [{"name": "peak"}],
    "outputs the other way round": [{"name": "peak"}, {"name": "total"}],
    "an output twice": [{"name": "peak"}, {"name": "peak"}],
    "no outputs at all": [],
    "one output in binary": [{"name": "peak", "parameters": {"binary_data": True}}],
    "two outputs, one in binary": [{"name": "peak", "parameters": {"binary_data": True}}, {"name": "total"}],
    "an output with a parameter of a wrong kind": [{"name": "peak", "parameters": {"binary_data": "x"}}],
    "an output in classes without labels": [{"name": "peak", "parameters": {"classification": 1}}],
}
SCORES = tensor("x", "FP32", [2, 3], [[0.5, 0.25, 2], [3, 1, 2]])


def sized(name: str, datatype: str, shape: list[int], size: object) -> dict:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def texts(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in values)


BINARY = [
    binary("binary: one input", "mirror", {"inputs": [sized("x", "FP32", [2], 8)]}, floats(1, 2)),
    binary("binary: one input, and a binary answer", "mirror", {"inputs": [sized("x", "FP32", [2], 8)], "parameters": {"binary_data_output": True}}, floats(1, 2)),
    binary("binary: two inputs", "sums", {"inputs": [sized("x", "FP32", [1, 3], 12), sized("factor", "FP32", [1], 4)]}, floats(1, 2, 3), floats(2)),
    binary("binary: the same again", "sums", {"inputs": [sized("x", "FP32", [1, 3], 12), sized("factor", "FP32", [1], 4)]}, floats(4, 5, 6), floats(3)),
    binary("binary: one input in binary, one in JSON", "sums", {"inputs": [sized("x", "FP32", [1, 3], 12), FACTOR]}, floats(1, 2, 3)),
    binary("binary: texts", "mirror", {"inputs": [sized("x", "BYTES", [2], 13)], "parameters": {"binary_data_output": True}}, texts(b"abc", b"\xff\x00")),
    binary("binary: texts, and an answer in JSON", "mirror", {"inputs": [sized("x", "BYTES", [2], 13)]}, texts(b"abc", b"\xff\x00")),
    binary("binary: texts that break off", "mirror", {"inputs": [sized("x", "BYTES", [2], 9)]}, texts(b"abc")[:5] + b"\0\0\0\0"),
    binary("binary: halves", "mirror", {"inputs": [sized("x", "FP16", [2], 4)]}, b"\x00\x3c\x00\xc0"),
    binary("binary: brain floats", "half", {"inputs": [sized("x", "BF16", [2], 4)], "parameters": {"binary_data_output": True}}, b"\x80\x3f\x00\x40"),
    binary("binary: bools", "mirror", {"inputs": [sized("x", "BOOL", [2], 2)]}, b"\x00\x01"),
    binary("binary: bools that are neither", "mirror", {"inputs": [sized("x", "BOOL", [2], 2)]}, b"\x00\x07"),
    binary("binary: nothing", "mirror", {"inputs": [sized("x", "FP32", [0], 0)]}),
    binary("binary: too few bytes", "mirror", {"inputs": [sized("x", "FP32", [2], 8)]}, floats(1)),
    binary("binary: too many bytes", "mirror", {"inputs": [sized("x", "FP32", [2], 8)]}, floats(1, 2, 3)),
    binary("binary: a size that does not fit the shape", "mirror", {"inputs": [sized("x", "FP32", [2], 4)]}, floats(1)),
    binary("binary: a negative size", "mirror", {"inputs": [sized("x", "FP32", [2], -8)]}, floats(1, 2)),
    binary("binary: a size that is no number", "mirror", {"inputs": [sized("x", "FP32", [2], "8")]}, floats(1, 2)),
    binary("binary: data beside a size", "mirror", {"inputs": [sized("x", "FP32", [2], 8) | {"data": [1, 2]}]}, floats(1, 2)),
    binary("binary: a header that is too long", "mirror", {"inputs": [sized("x", "FP32", [2], 8)]}, floats(1, 2), length=9999),
    binary("binary: a header that is too short", "mirror", {"inputs": [sized("x", "FP32", [2], 8)]}, floats(1, 2), length=5),
    binary("binary: a header that is negative", "mirror", {"inputs": [sized("x", "FP32", [2], 8)]}, floats(1, 2), length=-1),
    binary("binary: no JSON at all", "affine", {}, floats(1, 2), length=0),
    binary("binary: a large input", "mirror", {"inputs": [sized("x", "FP32", [50000], 200000)], "parameters": {"binary_data_output": True}}, floats(*range(50000))),
    ask("binary: raw bytes for a model with one input", "POST /v2/models/affine/infer", floats(1, 2), "Content-Type: application/octet-stream", "Inference-Header-Content-Length: 0"),
    ask("binary: a header that is no number", "POST /v2/models/mirror/infer", "{}", "Inference-Header-Content-Length: x"),
    infer("binary: only the answer", "mirror", tensor("x", "FP32", [2], [1, 2]), parameters={"binary_data_output": True}),
]  # fmt: skip
INFER = "POST /v2/models/mirror/infer"
PLAIN = json.dumps({"inputs": [tensor("x", "INT32", [3], [1, 2, 3])]}).encode()
COMPRESSIBLE = json.dumps({"inputs": [tensor("x", "INT32", [2000], [7] * 2000)]}).encode()
COMPRESSION = [
    ask("compressed by gzip", INFER, gzip.compress(PLAIN, mtime=0), JSON, "Content-Encoding: gzip"),
    ask("compressed by deflate", INFER, zlib.compress(PLAIN), JSON, "Content-Encoding: deflate"),
    ask("not compressed, and said so", INFER, PLAIN, JSON, "Content-Encoding: identity"),
    ask("compressed in an unknown way", INFER, PLAIN, JSON, "Content-Encoding: br"),
    ask("compressed twice", INFER, gzip.compress(gzip.compress(PLAIN, mtime=0), mtime=0), JSON, "Content-Encoding: gzip, gzip"),
    ask("no gzip", INFER, b"no gzip at all", JSON, "Content-Encoding: gzip"),
    ask("gzip that breaks off", INFER, gzip.compress(PLAIN, mtime=0)[:-9], JSON, "Content-Encoding: gzip"),
    ask("no deflate", INFER, b"\x01\x02\x03\x04", JSON, "Content-Encoding: deflate"),
    ask("gzip that inflates beyond the limit", INFER, gzip.compress(b" " * 20_000_000, mtime=0), JSON, "Content-Encoding: gzip"),
    ask("a prediction compressed by gzip", "POST /predictions/rows", gzip.compress(b"text", mtime=0), "Content-Encoding: gzip"),
    *(
        ask(f"an answer that may be {accepted}", INFER, COMPRESSIBLE, JSON, f"Accept-Encoding: {accepted}")
        for accepted in ("gzip", "deflate", "gzip, deflate", "gzip;q=0, deflate", "br", "identity", "*", "gzip;q=x")
    ),
    ask("a small answer that may be compressed", INFER, PLAIN, JSON, "Accept-Encoding: gzip"),
    ask("an error that may be compressed", INFER, b"{", JSON, "Accept-Encoding: gzip"),
]  # fmt: skip
TENSORS = [
    *(ask(f"v2: {line}", line) for line in GETS),
    *(infer(f"v2: {kind} there and back", "mirror", tensor("x", kind, [2], data)) for kind, data in MIRRORED.items()),
    *(infer(f"v2: {kind or 'no datatype'} out of range", "mirror", tensor("x", kind, [2], data)) for kind, data in WRONG.items()),
    *(post(f"v2: {what}", "/v2/models/mirror/infer", document) for what, document in BAD.items()),
    *(ask(f"v2: {what}", INFER, text, JSON) for what, text in TEXTS.items()),
    *(infer(f"v2: {what}", "sums", X, FACTOR, outputs=outputs) for what, outputs in OUTPUTS.items()),
    infer("v2: a scalar", "mirror", tensor("x", "FP32", [], [1])),
    infer("v2: an empty tensor", "mirror", tensor("x", "FP32", [0], [])),
    infer("v2: nested data", "mirror", tensor("x", "INT32", [2, 2], [[1, 2], [3, 4]])),
    infer("v2: flat data", "mirror", tensor("x", "INT32", [2, 2], [1, 2, 3, 4])),
    infer("v2: many inputs", "mirror", tensor("a", "INT32", [1], [1]), tensor("b", "BYTES", [1], ["b"]), tensor("c", "BOOL", [1], [True])),
    infer("v2: an id", "sums", X, FACTOR, id="mine"),
    infer("v2: an id with marks", "sums", X, FACTOR, id='\u00e9"\\\n'),
    infer("v2: the same again", "sums", X, FACTOR),
    infer("v2: the same with other numbers", "sums", tensor("x", "FP32", [1, 3], [[7, 2, 3]]), FACTOR),
    infer("v2: a missing input", "sums", X),
    infer("v2: an input too many", "sums", X, FACTOR, tensor("z", "FP32", [1], [1])),
    infer("v2: an input of another datatype", "sums", tensor("x", "INT32", [1, 3], [[1, 2, 3]]), FACTOR),
    infer("v2: an input of another shape", "sums", tensor("x", "FP32", [1, 2], [[1, 2]]), FACTOR),
    infer("v2: inputs of different rows", "sums", X, tensor("factor", "FP32", [2], [1, 2])),
    infer("v2: more rows than a batch", "sums", tensor("x", "FP32", [9, 3], [1] * 27), tensor("factor", "FP32", [9], [1] * 9)),
    infer("v2: a model that raises", "sums", tensor("x", "FP32", [1, 3], [[-1, 2, 3]]), FACTOR),
    infer("v2: parameters for the model", "told", tensor("x", "FP32", [1], [1]), parameters={"a": 1, "b": "two", "c": True, "d": 0.5}),
    infer("v2: parameters of an input", "told", tensor("x", "FP32", [1], [1], own=1)),
    infer("v2: a priority and a timeout", "told", tensor("x", "FP32", [1], [1]), parameters={"priority": 1, "timeout": 5000000}),
    infer("v2: a timeout that passes", "slow", tensor("seconds", "FP64", [1], [0.3]), parameters={"timeout": 50000}),
    post("v2: a deadline in the head that passes", "/v2/models/slow/infer", {"inputs": [tensor("seconds", "FP64", [1], [0.3])]}, "x-request-timeout-ms: 50"),
    post("v2: a deadline in the head that is no number", "/v2/models/slow/infer", {"inputs": [tensor("seconds", "FP64", [1], [0])]}, "x-request-timeout-ms: x"),
    infer("v2: an annotated function", "annotated", tensor("x", "FP32", [2], [1, 2]), parameters={"factor": 3.0, "sign": -1}),
    infer("v2: a parameter that a function does not know", "annotated", tensor("x", "FP32", [2], [1, 2]), parameters={"unknown": 1}),
    infer("v2: a declared function", "scale", tensor("x", "FP32", [1, 2], [1, 2]), parameters={"factor": 10}),
    infer("v2: a function with a state from its load", "shares", tensor("x", "FP32", [1, 2], [1, 2])),
    infer("v2: a chain", "twice", tensor("x", "FP32", [2], [1, 2])),
    infer("v2: a chain whose second model raises", "twice", tensor("x", "FP32", [2], [1, 2000])),
    infer("v2: the first model of a chain", "first", tensor("x", "FP32", [2], [1, 2])),
    infer("v2: a chain with a large body", "twice", tensor("x", "FP32", [20000], [0.5] * 20000)),
    infer("v2: an ONNX file", "affine", tensor("x", "FP32", [2, 2], [1, 2, 3, 4])),
    infer("v2: an ONNX file and a wrong name", "affine", tensor("z", "FP32", [1, 2], [1, 2])),
    infer("v2: an ONNX file and a wrong datatype", "affine", tensor("x", "INT64", [1, 2], [1, 2])),
    infer("v2: an ONNX file and a wrong shape", "affine", tensor("x", "FP32", [1, 3], [1, 2, 3])),
    post("v2: an ONNX file asked as a handler is", "/predictions/affine", {"x": [[1, 2]]}),
    infer("v2: echo", "echo", tensor("input", "UINT32", [1], [41])),
    infer("v2: echo to many", "echo_multi", tensor("a", "UINT32", [1], [3]), tensor("b", "UINT32", [2], [2, 7])),
    infer("v2: a handler", "rows", tensor("x", "FP32", [2], [1, 2]), tensor("name", "BYTES", [1], ["n"])),
    infer("v2: a handler that fails", "answers", tensor("body", "BYTES", [1], ["raise"])),
    infer("v2: a handler that refuses", "answers", tensor("body", "BYTES", [1], ["refuse 429"])),
    infer("v2: a version", "versions", tensor("x", "FP32", [1], [1])),
    post("v2: another version", "/v2/models/versions/versions/1/infer", {"inputs": [tensor("x", "FP32", [1], [1])]}),
    infer("v2: declared outputs", "typed", tensor("x", "FP32", [2, 3], [1, 2, 3, 4, 5, 6])),
    infer("v2: classes", "labeled", SCORES, outputs=[{"name": "scores", "parameters": {"classification": 2}}]),
    infer("v2: more classes than there are", "labeled", SCORES, outputs=[{"name": "scores", "parameters": {"classification": 9}}]),
    infer("v2: no classes", "labeled", SCORES, outputs=[{"name": "scores", "parameters": {"classification": 0}}]),
    infer("v2: classes that are no number", "labeled", SCORES, outputs=[{"name": "scores", "parameters": {"classification": "2"}}]),
    infer("v2: classes in binary", "labeled", SCORES, outputs=[{"name": "scores", "parameters": {"classification": 1, "binary_data": True}}]),
    infer("v2: a stream by infer", "steps", tensor("n", "INT32", [1], [3])),
    infer("v2: a stream of one", "steps", tensor("n", "INT32", [1], [1])),
    infer("v2: a step of a sequence that has not begun", "kept", tensor("x", "FP32", [1], [1]), parameters={"sequence_id": 5}),
    infer("v2: a sequence begins", "kept", tensor("x", "FP32", [1], [1]), parameters={"sequence_id": 5, "sequence_start": True}),
    infer("v2: a sequence goes on", "kept", tensor("x", "FP32", [1], [2]), parameters={"sequence_id": 5}),
    infer("v2: a sequence of another name begins", "kept", tensor("x", "FP32", [1], [10]), parameters={"sequence_id": "six", "sequence_start": True}),
    infer("v2: a sequence too many begins", "kept", tensor("x", "FP32", [1], [10]), parameters={"sequence_id": "seven", "sequence_start": True}),
    infer("v2: a sequence ends", "kept", tensor("x", "FP32", [1], [3]), parameters={"sequence_id": 5, "sequence_end": True}),
    infer("v2: the other sequence ends", "kept", tensor("x", "FP32", [1], [3]), parameters={"sequence_id": "six", "sequence_end": True}),
    infer("v2: a step without a sequence", "kept", tensor("x", "FP32", [1], [3])),
    infer("v2: a large body", "mirror", tensor("x", "INT32", [20000], list(range(20000)))),
    infer("v2: a large body that is wrong", "mirror", tensor("x", "INT32", [20001], list(range(20000)))),
    post("v2: missing values as null", "/v2/models/mirror/infer", {"inputs": [tensor("x", "FP32", [2], ["NaN", 1])]}, "Accept: application/json; nan=null"),
    ask("v2: JSON of another type", INFER, PLAIN, "Content-Type: text/plain"),
    ask("v2: a form", INFER, "a=b", "Content-Type: application/x-www-form-urlencoded"),
]  # fmt: skip
GENERATE = [
    post("generate: one answer", "/v2/models/words/generate", {"text": "hello"}),
    post("generate: an id and parameters", "/v2/models/words/generate", {"text": "hello", "id": "mine", "parameters": {"a": 1}}),
    post("generate: more than one answer", "/v2/models/words/generate", {"text": "one two"}),
    post("generate: a stream", "/v2/models/words/generate_stream", {"text": "one two three"}),
    post("generate: a stream that fails", "/v2/models/words/generate_stream", {"text": "one burn three"}),
    post("generate: a stream that fails at once", "/v2/models/words/generate_stream", {"text": "burn"}),
    post("generate: a stream of nothing", "/v2/models/words/generate_stream", {"text": ""}),
    post("generate: an infer request", "/v2/models/words/generate", {"inputs": [tensor("text", "BYTES", [1], ["hi"])]}),
    post("generate: an infer request, streamed", "/v2/models/words/infer_stream", {"inputs": [tensor("text", "BYTES", [1], ["a b"])]}),
    post("generate: parameters of a function", "/v2/models/told/generate", {"x": [1.0], "temperature": 0.5, "parameters": {"b": 2}}),
    post("generate: a list", "/v2/models/words/generate", [1]),
    post("generate: an input that is an object", "/v2/models/words/generate", {"text": {"a": 1}}),
    post("generate: an unknown model", "/v2/models/nobody/generate", {"text": "hi"}),
    post("generate: an unknown version", "/v2/models/words/versions/9/generate", {"text": "hi"}),
    post("generate: a version", "/v2/models/words/versions/1/generate_stream", {"text": "a b"}),
    ask("generate: another method", "GET /v2/models/words/generate"),
]  # fmt: skip
MEMORY = "/v2/systemsharedmemory"
SHARED_MEMORY = [
    ask("shared memory: none", f"GET {MEMORY}/status"),
    post("shared memory: a region is registered", f"{MEMORY}/region/in/register", {"key": f"/{REGION}", "offset": 0, "byte_size": 64}),
    post("shared memory: a region is registered again", f"{MEMORY}/region/in/register", {"key": f"/{REGION}", "offset": 0, "byte_size": 64}),
    post("shared memory: another region is registered", f"{MEMORY}/region/out/register", {"key": f"/{REGION}", "offset": 64, "byte_size": 64}),
    post("shared memory: a region that is too large", f"{MEMORY}/region/large/register", {"key": f"/{REGION}", "offset": 0, "byte_size": 6400}),
    post("shared memory: a region that is not there", f"{MEMORY}/region/none/register", {"key": "/no_such_region", "offset": 0, "byte_size": 64}),
    post("shared memory: a region outside", f"{MEMORY}/region/none/register", {"key": "/../etc/passwd", "offset": 0, "byte_size": 64}),
    post("shared memory: a region without a key", f"{MEMORY}/region/none/register", {"offset": 0, "byte_size": 64}),
    post("shared memory: a region of a negative size", f"{MEMORY}/region/none/register", {"key": f"/{REGION}", "byte_size": -1}),
    ask("shared memory: regions are listed", f"GET {MEMORY}/status"),
    ask("shared memory: a region is shown", f"GET {MEMORY}/region/in/status"),
    ask("shared memory: an unknown region is shown", f"GET {MEMORY}/region/none/status"),
    infer("shared memory: an input from it", "mirror", {"name": "x", "datatype": "FP32", "shape": [4], "parameters": {"shared_memory_region": "in", "shared_memory_byte_size": 16}}),
    infer("shared memory: an input from further on", "mirror", {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"shared_memory_region": "in", "shared_memory_offset": 8, "shared_memory_byte_size": 8}}),
    infer("shared memory: an input beyond it", "mirror", {"name": "x", "datatype": "FP32", "shape": [4], "parameters": {"shared_memory_region": "in", "shared_memory_offset": 60, "shared_memory_byte_size": 16}}),
    infer("shared memory: an input of another size", "mirror", {"name": "x", "datatype": "FP32", "shape": [4], "parameters": {"shared_memory_region": "in", "shared_memory_byte_size": 8}}),
    infer("shared memory: an input of an unknown region", "mirror", {"name": "x", "datatype": "FP32", "shape": [4], "parameters": {"shared_memory_region": "none", "shared_memory_byte_size": 16}}),
    infer("shared memory: an output to it", "scale", tensor("x", "FP32", [1, 2], [5, 6]), outputs=[{"name": "y", "parameters": {"shared_memory_region": "out", "shared_memory_byte_size": 8}}]),
    infer("shared memory: what was put there", "mirror", {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"shared_memory_region": "out", "shared_memory_byte_size": 8}}),
    infer("shared memory: an output that is too large", "scale", tensor("x", "FP32", [1, 2], [5, 6]), outputs=[{"name": "y", "parameters": {"shared_memory_region": "out", "shared_memory_byte_size": 4}}]),
    ask("shared memory: a region is unregistered", f"POST {MEMORY}/region/in/unregister"),
    ask("shared memory: an unknown region is unregistered", f"POST {MEMORY}/region/in/unregister"),
    ask("shared memory: all regions are unregistered", f"POST {MEMORY}/unregister"),
    ask("shared memory: none any more", f"GET {MEMORY}/status"),
]  # fmt: skip
ADMINISTRATION = [
    ask("repository: the index", "POST /v2/repository/index"),
    post("repository: the index of what is ready", "/v2/repository/index", {"ready": True}),
    post("repository: an index that is asked badly", "/v2/repository/index", {"ready": "x"}),
    ask("repository: the index by GET", "GET /v2/repository/index"),
    ask("repository: a model is unloaded", "POST /v2/repository/models/negative/unload"),
    infer("repository: an unloaded model is asked", "negative", tensor("image", "UINT8", [1, 1, 3], [1, 2, 3])),
    ask("repository: an unloaded model is not ready", "GET /v2/models/negative/ready"),
    ask("repository: an unloaded model is unloaded", "POST /v2/repository/models/negative/unload"),
    ask("repository: a model is loaded", "POST /v2/repository/models/negative/load"),
    infer("repository: a loaded model is asked", "negative", tensor("image", "UINT8", [1, 1, 3], [1, 2, 3])),
    ask("repository: an unknown model is loaded", "POST /v2/repository/models/nobody/load"),
    ask("repository: an unknown model is unloaded", "POST /v2/repository/models/nobody/unload"),
    ask("repository: a broken model is loaded", "POST /v2/repository/models/broken/load"),
    ask("repository: the index with a broken model", "POST /v2/repository/index"),
    ask("repository: a broken model is asked", "POST /v2/models/broken/infer", PLAIN, JSON),
    ask("repository: a broken model's metadata", "GET /v2/models/broken"),
    ask("repository: the server is ready all the same", "GET /v2/health/ready"),
    post("repository: a load with a configuration", "/v2/repository/models/negative/load", {"parameters": {"config": "{}"}}),
    post("repository: a load with a file", "/v2/repository/models/negative/load", {"parameters": {"file:1/model.py": "YQ=="}}),
    ask("repository: a load of the model as it was", "POST /v2/repository/models/negative/load"),
    ask("repository: a load that is no JSON", "POST /v2/repository/models/negative/load", "{", JSON),
    ask("repository: a load by GET", "GET /v2/repository/models/negative/load"),
    ask("repository: another repository's index", "POST /v2/repository/other/index"),
    ask("settings: the log", "GET /v2/logging"),
    post("settings: the log is changed", "/v2/logging", {"log_verbose_level": 1}),
    post("settings: the log is changed back", "/v2/logging", {"log_verbose_level": 0}),
    post("settings: the log is changed by an unknown key", "/v2/logging", {"nothing": 1}),
    post("settings: the log is changed by a wrong value", "/v2/logging", {"log_info": "x"}),
    post("settings: the log is changed by a list", "/v2/logging", [1]),
    ask("settings: the traces", "GET /v2/trace/setting"),
    post("settings: the traces are changed", "/v2/trace/setting", {"trace_rate": "100"}),
    post("settings: the traces are changed by an unknown key", "/v2/trace/setting", {"nothing": "1"}),
    post("settings: the traces are changed by a wrong value", "/v2/trace/setting", {"trace_level": ["NOTHING"]}),
    ask("settings: the traces of a model", "GET /v2/models/sums/trace/setting"),
    post("settings: the traces of a model are changed", "/v2/models/sums/trace/setting", {"trace_rate": "7"}),
    post("settings: the traces of a model are cleared", "/v2/models/sums/trace/setting", {"trace_rate": None}),
    ask("settings: the traces of an unknown model", "GET /v2/models/nobody/trace/setting"),
    post("settings: the traces are cleared", "/v2/trace/setting", {"trace_rate": None}),
    ask("statistics of a model", "GET /v2/models/typed/stats"),
    ask("statistics of a version", "GET /v2/models/versions/versions/1/stats"),
    manage("management of v2 at the management API", "GET /v2"),
]  # fmt: skip
EXCHANGES: list[Http] = [*TENSORS, *BINARY, *COMPRESSION, *GENERATE, *SHARED_MEMORY, *ADMINISTRATION]
