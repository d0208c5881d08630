"""Servers of other kinds: with tokens and rules for other sites' pages, behind envelopes, and in the form of AMD's."""

import json
import struct
from itertools import starmap

from e2e_kit import request
from exchanges.asks import (
    INFERENCE,
    JSON,
    KSERVE,
    MANAGEMENT,
    ask,
    infer,
    infer_request,
    manage,
    message,
    post,
    predictions,
    rpc,
    tensor,
)
from exchanges.player import Call, Http, Until

INFERS, MANAGES = "Authorization: Bearer inference-token", "Authorization: Bearer management-token"
ORIGIN, EVIL = "Origin: https://a.example", "Origin: https://evil.example"
SCALE = "POST /v2/models/scale/infer"
BODY = json.dumps({"inputs": [tensor("x", "FP32", [2], [1, 2])]})
CALL = infer_request("scale", ("x", "FP32", [2], {"fp32_contents": [1, 2]}))
BAD_TOKENS = {
    "no token": (), "a wrong token": ("Authorization: Bearer AAAAAAAAAAAA",), "a bare token": ("Authorization: inference-token",),
    "a token of another kind": ("Authorization: Basic aW5mZXJlbmNl",), "an empty token": ("Authorization: Bearer ",),
    "two tokens": (INFERS, INFERS), "a token in small letters": ("authorization: bearer inference-token",),
}  # fmt: skip


def preflight(name: str, target: str, *headers: str, port: str = "inference") -> Http:
    return ask(f"preflight: {name}", f"OPTIONS {target}", b"", *headers, port=port)


GUARDED: list[Http | Call] = [
    *(ask(f"tokens: {what}", SCALE, BODY, JSON, *headers) for what, headers in BAD_TOKENS.items()),
    *(ask(f"tokens: {what} in a prediction", "POST /predictions/scale", '{"x": [1]}', *headers) for what, headers in BAD_TOKENS.items()),
    *(ask(f"tokens: {line} without one", line) for line in (
        "GET /", "GET /ping", "GET /v2", "GET /v2/models/scale", "GET /v2/models/scale/ready", "GET /v2/health/ready", "GET /v1/models",
        "GET /v1/models/scale", "POST /v1/models/scale:predict", "GET /nowhere", "OPTIONS /", "OPTIONS /predictions/scale", "HEAD /v2",
        "POST /v2/models/nobody/infer", "POST /v2/repository/models/scale/load", "POST /v2/logging", "GET /v2/logging", "PUT /v2/models/scale/infer",
    )),
    *(manage(f"tokens: {line} at the management API without one", line) for line in ("GET /models", "POST /models?url=x.mar", "GET /models/scale", "DELETE /models/scale", "GET /nowhere", "OPTIONS /", "GET /token?type=inference")),
    ask("tokens: the inference token", SCALE, BODY, JSON, INFERS),
    ask("tokens: the inference token in a prediction", "POST /predictions/scale", '{"x": [1, 2]}', JSON, INFERS),
    ask("tokens: the inference token in v1", "POST /v1/models/scale:predict", '{"instances": [1, 2]}', JSON, INFERS),
    ask("tokens: the management token", SCALE, BODY, JSON, MANAGES),
    ask("tokens: a load with the inference token", "POST /v2/repository/models/scale/load", b"", INFERS),
    ask("tokens: a load with the management token", "POST /v2/repository/models/scale/load", b"", MANAGES),
    ask("tokens: a change with the inference token", "POST /v2/logging", '{"log_verbose_level": 0}', JSON, INFERS),
    manage("tokens: the models with the inference token", "GET /models", b"", INFERS),
    manage("tokens: the models with the management token", "GET /models", b"", MANAGES),
    ask("tokens: the metrics without one", "HEAD /metrics", port="metrics"),
    Http("tokens: a large body without one", "inference", [request("POST", "/predictions/scale", b"", "Content-Length: 1900", "Expect: 100-continue")]),
    Http("tokens: a refusal and nothing behind it", "inference", [request("POST", "/predictions/scale", b'{"x": [1]}', INFERS) + request("POST", "/predictions/scale", b"x" * 1900) + request("GET", "/ping")], 2),
    Http("tokens: a websocket without one", "inference", [request("GET", "/models/infer", b"", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")]),
    rpc("tokens: a call without one", "ModelInfer", CALL),
    rpc("tokens: a call with a wrong one", "ModelInfer", CALL, authorization="Bearer AAAAAAAAAAAA"),
    rpc("tokens: a call with the inference token", "ModelInfer", CALL, authorization="Bearer inference-token"),
    rpc("tokens: a load with the inference token by a call", "RepositoryModelLoad", message(_2="scale"), authorization="Bearer inference-token"),
    rpc("tokens: a stream without one", "ModelStreamInfer", CALL, stream=True),
    rpc("tokens: a probe without one", "ServerReady"),
    Call("tokens: TorchServe's call without one", f"{INFERENCE}Predictions", [predictions("scale", x=b"[1]")]),
    Call("tokens: TorchServe's call with one", f"{INFERENCE}Predictions", [predictions("scale", x=b"[1]")], metadata=[("authorization", "Bearer inference-token")]),
    Call("tokens: TorchServe's management without one", f"{MANAGEMENT}ListModels", port="grpc management"),
    Call("tokens: TorchServe's management with one", f"{MANAGEMENT}ListModels", metadata=[("authorization", "Bearer management-token")], port="grpc management"),
    ask("pages: an answer for an allowed one", "GET /ping", b"", ORIGIN),
    ask("pages: an answer for another", "GET /ping", b"", EVIL),
    ask("pages: a prediction for an allowed one", SCALE, BODY, JSON, INFERS, ORIGIN),
    ask("pages: an error for an allowed one", SCALE, "{", JSON, INFERS, ORIGIN),
    ask("pages: a refusal for an allowed one", SCALE, BODY, JSON, ORIGIN),
    ask("pages: a lost allowed one", "GET /nowhere", b"", ORIGIN),
    Http("pages: a malformed request", "inference", [b"nonsense\r\nOrigin: https://a.example\r\n\r\n"]),
    *starmap(preflight, (
        ("of an allowed page", "/predictions/scale", ORIGIN, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type, x-own"),
        ("of another page", "/predictions/scale", EVIL, "Access-Control-Request-Method: POST"),
        ("of an origin that is null", "/predictions/scale", "Origin: null", "Access-Control-Request-Method: POST"),
        ("for a method that is not allowed", "/predictions/scale", ORIGIN, "Access-Control-Request-Method: DELETE"),
        ("for a header that is not allowed", "/predictions/scale", ORIGIN, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-other"),
        ("of nowhere", "/nowhere", ORIGIN, "Access-Control-Request-Method: GET"),
        ("without a method", "/predictions/scale", ORIGIN),
        ("without an origin", "/predictions/scale", "Access-Control-Request-Method: POST"),
        ("of v2", "/v2/models/scale/infer", ORIGIN, "Access-Control-Request-Method: POST"),
    )),
    preflight("at the management API", "/models", ORIGIN, "Access-Control-Request-Method: POST", port="management"),
    manage("pages: a change by an allowed one", "DELETE /models/nobody", b"", MANAGES, ORIGIN),
    manage("pages: a change by another", "DELETE /models/nobody", b"", MANAGES, EVIL),
    ask("limits: a body that is too large", "POST /predictions/scale", b"x" * 2001, INFERS),
    ask("limits: the largest body", "POST /predictions/scale", b"x" * 2000, INFERS),
    ask("limits: a body that is too large for v2", SCALE, b"x" * 2001, JSON, INFERS),
    ask("prefix: a prediction", "POST /behind/predictions/scale", '{"x": [1, 2]}', JSON, INFERS),
    ask("prefix: a ping", "GET /behind/ping"),
    ask("prefix: v2", "GET /behind/v2", b"", INFERS),
    ask("prefix: nowhere", "GET /behind/nowhere"),
    ask("prefix: the prefix alone", "GET /behind"),
    ask("prefix: twice", "GET /behind/behind/ping"),
]  # fmt: skip

SHOWN = "/predictions/shown"
ENVELOPED: list[Http] = [
    post("a document", SHOWN, {"a": 1}),
    post("instances", SHOWN, {"instances": [1, {"a": 2}, {"b64": "aGk="}]}),
    post("no instances", SHOWN, {"instances": []}),
    post("inputs", SHOWN, {"id": "7", "inputs": [tensor("a", "INT64", [2], [1, 2])]}),
    post("inputs that are no list", SHOWN, {"inputs": 1}),
    post("a list", SHOWN, [1, 2]),
    ask("text", f"POST {SHOWN}", "text"),
    ask("no JSON", f"POST {SHOWN}", "{", JSON),
    ask("nothing", f"POST {SHOWN}"),
    ask("a form", f"POST {SHOWN}", "data=one&b=two", "Content-Type: application/x-www-form-urlencoded"),
    post("v1", "/v1/models/shown:predict", {"instances": [1, {"a": 2}]}),
    infer("v2", "shown", tensor("a", "INT64", [2], [1, 2]), id="7"),
]

PLUS = tensor("input0", "UINT32", [1], [41])


def frame(content: str | bytes, opcode: int = 1) -> bytes:
    """A frame of a websocket, from a client whose mask is zero."""
    data = content.encode() if isinstance(content, str) else content
    length = struct.pack("!B", 0x80 | len(data)) if len(data) < 126 else struct.pack("!BH", 0xFE, len(data))
    return bytes([0x80 | opcode]) + length + bytes(4) + data


def websocket(name: str, *frames: bytes) -> Http:
    opens = request("GET", "/models/infer", b"", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")  # fmt: skip
    return Http(f"websocket: {name}", "inference", [opens, *frames], until_end=True)


PLUS_FRAME = frame(json.dumps({"model": "plus", "inputs": [PLUS]}))
AMD: list[Http | Call] = [
    *(ask(f"amd: {line}", line) for line in (
        "GET /v2", "GET /v2/health/live", "GET /v2/health/ready", "GET /v2/models", "GET /v2/models/plus", "GET /v2/models/plus/ready",
        "GET /v2/models/nobody", "GET /v2/models/nobody/ready", "GET /v2/models/PLUS", "POST /v2", "GET /v2/hardware", "OPTIONS /v2/hardware",
        "GET /nowhere", "GET /predictions/plus", "GET /ping", "HEAD /v2", "GET /v2/models/plus/config", "GET /v1/models", "HEAD /metrics",
        "GET /models/infer", "OPTIONS /v2/models/plus/infer", "POST /v2/repository/index",
    )),
    *(post(f"amd: hardware {what}", "/v2/hardware", body) for what, body in {
        "of one core": {"name": "CPU", "num": 1}, "of too many cores": {"name": "CPU", "num": 100000}, "of no name": {"num": 1},
        "of another kind": {"name": "DPUCADF8H", "num": 1}, "of a wrong number": {"name": "CPU", "num": "x"}, "as a list": [1],
    }.items()),
    infer("amd: an inference", "plus", PLUS, id="mine"),
    infer("amd: an inference without an id", "plus", PLUS),
    infer("amd: an inference with a name in capitals", "PLUS", PLUS),
    infer("amd: an inference of an unknown model", "nobody", PLUS),
    infer("amd: an inference of a model that raises", "fails", PLUS),
    infer("amd: an inference of the wrong datatype", "plus", tensor("input0", "FP32", [1], [1.5])),
    infer("amd: an inference beyond the range", "plus", tensor("input0", "UINT32", [1], [4294967296])),
    infer("amd: an inference of too few data", "plus", tensor("input0", "UINT32", [2], [1])),
    infer("amd: an inference with parameters", "plus", tensor("input0", "UINT32", [1], [1], a=1), parameters={"b": 2}, outputs=[{"name": "output0"}]),
    infer("amd: an inference of text", "invert-it", tensor("input0", "BYTES", [3], ["abc"])),
    *(ask(f"amd: an inference with {what}", "POST /v2/models/plus/infer", body, JSON) for what, body in {
        "nothing": "", "half a document": "{", "NaN": "NaN", "null": "null", "no inputs": "{}", "an empty list of inputs": '{"inputs":[]}', "a list": "[]",
    }.items()),
    post("amd: a worker is loaded", "/v2/workers/CPlusPlus/load", {"model": "echo_multi"}),
    post("amd: a worker is loaded again", "/v2/workers/cplusplus/load", {"model": "echo_multi", "share": False}),
    infer("amd: a worker is asked", "cplusplus", tensor("input0", "UINT32", [1], [3]), tensor("input1", "UINT32", [2], [2, 7]), id="mine"),
    ask("amd: a worker's metadata", "GET /v2/models/cplusplus"),
    post("amd: a worker of no model is loaded", "/v2/workers/cplusplus/load", {}),
    post("amd: a worker of an unknown kind is loaded", "/v2/workers/nothing/load", {"model": "echo"}),
    post("amd: a worker of an unknown model is loaded", "/v2/workers/cplusplus/load", {"model": "nothing"}),
    ask("amd: a worker is loaded without a body", "POST /v2/workers/cplusplus/load"),
    ask("amd: models and workers are listed", "GET /v2/models"),
    ask("amd: a worker is unloaded", "POST /v2/workers/cplusplus/unload", "null"),
    ask("amd: a worker is unloaded again", "POST /v2/workers/cplusplus/unload", "null"),
    ask("amd: a worker that is gone is unloaded", "POST /v2/workers/cplusplus/unload", "null"),
    ask("amd: a worker that is gone is not ready", "GET /v2/models/cplusplus/ready"),
    ask("amd: a model is unloaded", "POST /v2/repository/models/plus/unload", "null"),
    ask("amd: a model that is gone is not ready", "GET /v2/models/plus/ready"),
    infer("amd: a model that is gone is asked", "plus", PLUS),
    ask("amd: a model that is gone is unloaded", "POST /v2/repository/models/plus/unload", "null"),
    post("amd: a model is loaded", "/v2/repository/models/plus/load", {"batch_size": 2}),
    ask("amd: a model is loaded by the path of a model", "POST /v2/models/plus/load", "{}", JSON),
    ask("amd: a model is unloaded by the path of a model", "POST /v2/models/plus/unload"),
    post("amd: an unknown model is loaded", "/v2/repository/models/nobody/load", {}),
    ask("amd: a model is loaded with what is no JSON", "POST /v2/repository/models/plus/load", "{", JSON),
    post("amd: the model is loaded again", "/v2/repository/models/plus/load", {}),
    websocket("two requests", PLUS_FRAME, Until(b"*\0\0\0"), PLUS_FRAME, Until(b"*\0\0\0"), frame(b"\x03\xe8", 8)),
    websocket("a ping and the end", frame("hi", 9), Until(b"\x02hi"), frame(b"\x03\xe8", 8)),
    websocket("an end with a code that is none", frame(b"\x03", 8)),
    websocket("no request", frame("no request"), Until(b"in the request"), frame("", 8)),
    websocket("an unknown model", frame(json.dumps({"model": "nobody", "inputs": [PLUS]})), Until(b"not found"), frame("", 8)),
    rpc("amd rpc: metadata", "ServerMetadata"),
    rpc("amd rpc: models", "ModelList"),
    rpc("amd rpc: a model's metadata", "ModelMetadata", message(_1="plus")),
    rpc("amd rpc: a model is ready", "ModelReady", message(_1="plus")),
    rpc("amd rpc: an unknown model is ready", "ModelReady", message(_1="nobody")),
    rpc("amd rpc: an inference", "ModelInfer", infer_request("plus", ("input0", "UINT32", [1], {"uint_contents": [41]}), id="mine")),
    rpc("amd rpc: an inference of raw contents", "ModelInfer", infer_request("plus", ("input0", "UINT32", [1]), raw=[b"\x01\0\0\0"])),
    rpc("amd rpc: an inference of an unknown model", "ModelInfer", infer_request("nobody", ("input0", "UINT32", [1], {"uint_contents": [41]}))),
    rpc("amd rpc: an inference of nothing", "ModelInfer", infer_request("plus")),
    rpc("amd rpc: hardware", "HasHardware", message(_1="CPU", _2=1)),
    rpc("amd rpc: other hardware", "HasHardware", message(_1="DPUCADF8H", _2=1)),
    rpc("amd rpc: a worker is loaded", "WorkerLoad", message(_1="CPlusPlus", _2=message(_1="model", _2=message(_3="echo")))),
    rpc("amd rpc: a worker of no model is loaded", "WorkerLoad", message(_1="cplusplus")),
    rpc("amd rpc: a worker is unloaded", "WorkerUnload", message(_1="cplusplus")),
    rpc("amd rpc: a worker that is gone is unloaded", "WorkerUnload", message(_1="cplusplus")),
    rpc("amd rpc: a model is unloaded", "ModelUnload", message(_1="plus")),
    rpc("amd rpc: a model is loaded", "ModelLoad", message(_1="plus")),
    rpc("amd rpc: an unknown model is loaded", "ModelLoad", message(_1="nobody")),
    rpc("amd rpc: an unknown method", "Nothing"),
    Call("amd rpc: KServe's stream", f"{KSERVE}ModelStreamInfer", [infer_request("plus", ("input0", "UINT32", [1], {"uint_contents": [1]}))], streaming=True),
]  # fmt: skip
