"""TorchServe's inference port, byte for byte: docs/contracts/torchserve.md, sections 1 and 2.1."""

import asyncio
import json

import pytest
from protocol_wire import COMMON, JSON, answered, output, read_reply, refused

from mooring.core import errors
from mooring.core.buffers import LARGE
from mooring.core.requests import Form, Operation

NOT_FOUND = refused(
    "404 Not Found",
    "ResourceNotFoundException",
    "Requested resource is not found, please refer to API document.",
)


def not_allowed(allow: str) -> bytes:
    return refused(
        "405 Method Not Allowed",
        "MethodNotAllowedException",
        "Requested method is not allowed, please refer to API document.",
        more=f"allow: {allow}\r\n".encode(),
    )


HEALTHY = answered(b'{\n  "status": "Healthy",\n  "health": "healthy!"\n}\n', JSON)


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/", answered(b'{"status":"alive"}', JSON)),
        ("HEAD", "/", answered(b"", JSON, length=18)),
        ("POST", "/", not_allowed("GET, HEAD, OPTIONS")),
        ("PUT", "/", not_allowed("GET, HEAD, OPTIONS")),
        ("DELETE", "/", not_allowed("GET, HEAD, OPTIONS")),
        ("GET", "/ping", HEALTHY),
        ("POST", "/ping", HEALTHY),
        ("OPTIONS", "/ping", HEALTHY),
        ("GET", "/ping/", HEALTHY),
        ("GET", "/ping/and/more", HEALTHY),
        ("GET", "/ping?a=b", HEALTHY),
        ("HEAD", "/ping", answered(b"", JSON, length=len(HEALTHY.partition(b"\r\n\r\n")[2]))),
        ("GET", "/predictions", NOT_FOUND),
        ("POST", "/predictions/", NOT_FOUND),
        ("GET", "/explanations", NOT_FOUND),
        ("GET", "/models", NOT_FOUND),
        ("GET", "/models/echo", NOT_FOUND),
        ("GET", "/nothing", NOT_FOUND),
        ("GET", "/nothing/here/at/all", NOT_FOUND),
        ("GET", "/v1", NOT_FOUND),
        ("GET", "/pingpong", NOT_FOUND),
    ],
)
async def test_what_needs_no_model_is_answered_without_one(inference, method, target, expected):
    reply = await inference.call(method, target)
    assert reply.raw == expected
    assert inference.service.requests == []


async def test_a_server_that_lacks_workers_says_so(inference):
    inference.service.alive = False
    reply = await inference.call("GET", "/ping")
    body = b'{\n  "status": "Unhealthy",\n  "health": "unhealthy"\n}\n'
    assert reply.raw == answered(body, JSON, first="500 Internal Server Error")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("target", ["/predictions/echo", "/explanations/echo"])
async def test_every_method_asks_the_model(inference, method, target):
    reply = await inference.call(method, target, b"hello")
    assert reply.raw == answered(b"hello")


async def test_head_asks_the_model_and_keeps_the_body(inference):
    reply = await inference.call("HEAD", "/predictions/echo", b"hello")
    assert reply.raw == answered(b"", length=5)
    assert len(inference.service.requests) == 1


@pytest.mark.parametrize(
    ("target", "model", "version", "operation", "path"),
    [
        ("/predictions/echo", "echo", "", Operation.INFER, ""),
        ("/predictions/echo/", "echo", "", Operation.INFER, ""),
        ("/predictions/echo//", "echo", "", Operation.INFER, ""),
        ("/predictions/echo?version=9", "echo", "", Operation.INFER, ""),
        ("/predictions/echo/1.0", "echo", "1.0", Operation.INFER, ""),
        ("/predictions/echo/1.0/", "echo", "1.0", Operation.INFER, ""),
        ("/predictions/echo/1.0/v1/chat/completions", "echo", "1.0", Operation.INFER, "v1/chat/completions"),
        ("/predictions/echo/1.0/a%20b/c", "echo", "1.0", Operation.INFER, "a b/c"),
        ("/predictions/a%20model", "a model", "", Operation.INFER, ""),
        ("/predictions/m%C3%BChle", "mühle", "", Operation.INFER, ""),
        ("/predictions/a%2Fb", "a/b", "", Operation.INFER, ""),
        ("/predictions/..%2F..%2Fetc", "../../etc", "", Operation.INFER, ""),
        ("/predictions/predict", "predict", "", Operation.INFER, ""),
        ("/predictions/echo/predict", "echo", "predict", Operation.INFER, ""),
        ("/predictions//echo", "", "echo", Operation.INFER, ""),
        ("/explanations/echo", "echo", "", Operation.EXPLAIN, ""),
        ("/explanations/echo/2.0", "echo", "2.0", Operation.EXPLAIN, ""),
        ("/explanations/echo/2.0/more", "echo", "2.0", Operation.EXPLAIN, "more"),
        ("/invocations?model_name=echo", "echo", "", Operation.INFER, ""),
        ("/models/echo/invoke", "echo", "", Operation.INFER, ""),
        ("/echo/predict", "echo", "", Operation.INFER, ""),
        ("/echo/2.0/predict", "echo", "2.0", Operation.INFER, ""),
    ],
)
async def test_the_path_names_the_model_the_version_and_what_is_asked(
    inference, target, model, version, operation, path
):
    await inference.call("POST", target, b"x")
    (request,) = inference.service.requests
    assert (request.model, request.version, request.operation, request.path) == (
        model,
        version,
        operation,
        path,
    )
    assert request.form is Form.BODY


def seen(service) -> list[tuple]:
    """The fields of the only request: name, value, content type, whether it is a file."""
    (request,) = service.requests
    assert all(tensor.datatype == "BYTES" and tensor.shape == [1] for tensor in request.inputs)
    return [
        (
            tensor.name,
            bytes(tensor.data[0]),
            tensor.parameters["content_type"],
            tensor.parameters.get("file", False),
        )
        for tensor in request.inputs
    ]


@pytest.mark.parametrize(
    ("content_type", "body", "fields"),
    [
        (None, b"raw \x00\xff", [("body", b"raw \x00\xff", "", False)]),
        (None, b"", [("body", b"", "", False)]),
        ("image/png", b"\x89PNG", [("body", b"\x89PNG", "image/png", False)]),
        ("application/json", b'{"a": 1}', [("body", b'{"a": 1}', "application/json", False)]),
        ("application/json; charset=utf-8", b"{}", [("body", b"{}", "application/json", False)]),
        ("Application/JSON", b"{}", [("body", b"{}", "Application/JSON", False)]),
        ("application/vnd.x+json", b"{}", [("body", b"{}", "application/vnd.x+json", False)]),
        ("text/plain;charset=latin-1", b"hi", [("body", b"hi", "text/plain", False)]),
        ("multipart/mixed; boundary=x", b"--x", [("body", b"--x", "multipart/mixed", False)]),
        ("application/x-www-form-urlencoded", b"hello", []),
        ("application/x-www-form-urlencoded", b"", []),
        ("application/x-www-form-urlencoded", b"a=1&b=x+y%21", [("a", b"1", "", False), ("b", b"x y!", "", False)]),
        ("application/x-www-form-urlencoded; charset=utf-8", b"a=1", [("a", b"1", "", False)]),
        ("APPLICATION/X-WWW-FORM-URLENCODED", b"a=1", [("a", b"1", "", False)]),
        ("application/x-www-form-urlencoded", b"a=1&b=2&a=3", [("a", b"3", "", False), ("b", b"2", "", False)]),
        ("application/x-www-form-urlencoded", b"data=%ff", [("data", b"\xff", "", False)]),
        ("application/x-www-form-urlencoded", b"{a}=b=c", [("{a}", b"b=c", "", False)]),
    ],
)  # fmt: skip
async def test_a_body_becomes_the_fields_of_a_row(inference, content_type, body, fields):
    headers = [f"content-type: {content_type}"] if content_type else []
    await inference.call("POST", "/predictions/echo", body, *headers)
    assert seen(inference.service) == fields


def multipart(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(b"--xx\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n" for head, value in parts)
    return body + b"--xx--\r\n"


FILE = 'Content-Disposition: form-data; name="data"; filename="a.png"\r\nContent-Type: '


@pytest.mark.parametrize(
    ("parts", "fields"),
    [
        ([(FILE + "image/png", b"\x89PNG\r\n")], [("data", b"\x89PNG\r\n", "image/png", True)]),
        ([(FILE + "application/json; charset=utf-8", b"{}")], [("data", b"{}", "application/json", True)]),
        ([(FILE + "text/plain", b"")], [("data", b"", "text/plain", True)]),
        (
            [('content-disposition: form-data; name="a"\r\ncontent-type: application/json', b"{}")],
            [("a", b"{}", "", False)],
        ),
        (
            [('content-disposition: form-data; name="a"', b"1"), (FILE + "image/png", b"2")],
            [("a", b"1", "", False), ("data", b"2", "image/png", True)],
        ),
        (
            [('content-disposition: form-data; name="a"', b"1"), ('content-disposition: form-data; name="a"', b"2")],
            [("a", b"2", "", False)],
        ),
        ([], []),
    ],
)  # fmt: skip
async def test_parts_become_the_fields_of_a_row(inference, parts, fields):
    head = "content-type: multipart/form-data; boundary=xx"
    await inference.call("POST", "/predictions/echo", multipart(*parts), head)
    assert seen(inference.service) == fields


async def test_a_large_file_arrives_whole(inference):
    content = bytes(range(256)) * 1024
    parts = [(FILE + "image/png", content), ('content-disposition: form-data; name="a"', b"1")]
    head = "content-type: multipart/form-data; boundary=xx"
    await inference.call("PUT", "/predictions/echo", multipart(*parts), head)
    assert seen(inference.service) == [("data", content, "image/png", True), ("a", b"1", "", False)]


async def test_a_large_body_is_handed_over_as_a_buffer(inference):
    body = b"x" * (LARGE + 1)
    reply = await inference.call("PUT", "/predictions/echo", body)
    assert reply.raw == answered(body)
    assert not isinstance(inference.service.requests[0].inputs[0].data[0], bytes)


@pytest.mark.parametrize("boundary", ["; boundary=yy", "", "; boundary="])
async def test_a_broken_form_is_the_callers_fault(inference, boundary):
    head = f"content-type: multipart/form-data{boundary}"
    reply = await inference.call("POST", "/predictions/echo", multipart((FILE + "image/png", b"")), head)
    assert reply.status == 400
    assert json.loads(reply.body)["type"] == "BadRequestException"
    assert inference.service.requests == []


@pytest.mark.parametrize(
    ("target", "body", "fields"),
    [
        ("/echo/predict?a=1&b=x%20y", b"z", [("a", b"1"), ("b", b"x y"), ("body", b"z")]),
        ("/echo/1.0/predict?a=1&a=2", b"z", [("a", b"2"), ("body", b"z")]),
        ("/models/echo/invoke?a=", b"z", [("a", b""), ("body", b"z")]),
        ("/echo/predict?body=1", b"z", [("body", b"z")]),
        ("/invocations?model_name=echo", b"z", [("model_name", b"echo"), ("body", b"z")]),
        ("/predictions/echo?a=1", b"z", [("body", b"z")]),
        ("/explanations/echo?a=1", b"z", [("body", b"z")]),
    ],
)
async def test_query_parameters_are_fields_on_the_older_routes_only(inference, target, body, fields):
    await inference.call("POST", target, body)
    assert [(name, value) for name, value, _, _ in seen(inference.service)] == fields


async def test_invocations_without_a_name_go_to_the_only_model(inference):
    inference.service.states = inference.service.states[:2]
    await inference.call("POST", "/invocations", b"x")
    assert inference.service.requests[0].model == "echo"


async def test_invocations_find_the_name_in_a_field_of_the_body(inference):
    form = "content-type: application/x-www-form-urlencoded"
    await inference.call("POST", "/invocations", b"model_name=sleepy&data=1", form)
    assert inference.service.requests[0].model == "sleepy"


@pytest.mark.parametrize("body", [b'{"a":"b=c"}', b"[1, 2]", b' {"a": 1}\n'])
async def test_json_that_curl_sends_as_a_form_is_refused_with_the_header_to_send(inference, body):
    form = "content-type: application/x-www-form-urlencoded; charset=utf-8"
    reply = await inference.call("POST", "/predictions/echo", body, form)
    said = (
        "the body is JSON, and its content type is application/x-www-form-urlencoded, which curl -d sends by itself: "
        "send it with -H 'content-type: application/json'"
    )
    assert reply.raw == refused("400 Bad Request", "BadRequestException", said)


async def test_invocations_without_any_name_are_refused(inference):
    reply = await inference.call("POST", "/invocations", b"x")
    assert reply.raw == refused("400 Bad Request", "BadRequestException", "Parameter model_name is required.")


async def test_the_headers_reach_the_model_as_they_were_sent(inference):
    await inference.call("POST", "/predictions/echo", b"x", "X-Mine: a", "x-request-id: chosen", "X-MINE: b")
    assert inference.service.requests[0].headers == [
        (b"host", b"here"), (b"X-Mine", b"a"), (b"x-request-id", b"chosen"), (b"X-MINE", b"b"),
        (b"content-length", b"1"),
    ]  # fmt: skip


async def test_the_request_id_is_the_one_on_the_answer(inference):
    replies = [await inference.call("POST", "/predictions/echo", b"x") for _ in range(3)]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert ids == [request.id for request in inference.service.requests]
    assert len(set(ids)) == 3


NO_WORKER = (
    "has no worker to serve inference request. Please use scale workers API to add workers. "
    "If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
)
UNAVAILABLE = "503 Service Unavailable"
INTERNAL = "InternalServerException"


@pytest.mark.parametrize(
    ("error", "target", "expected"),
    [
        (
            errors.ModelNotFound(), "/predictions/nobody",
            refused("404 Not Found", "ModelNotFoundException", "Model not found: nobody"),
        ),
        (
            errors.ModelNotFound(), "/predictions//x",
            refused("404 Not Found", "ModelNotFoundException", "Model not found: "),
        ),
        (
            errors.VersionNotFound(version="7"), "/predictions/echo/7",
            refused(
                "404 Not Found", "ModelVersionNotFoundException", "Model version: 7 does not exist for model: echo"
            ),
        ),
        (
            errors.ModelNotReady("loading", version="1.0"), "/predictions/echo",
            refused(UNAVAILABLE, "ServiceUnavailableException", f'Model \\"echo\\" {NO_WORKER}'),
        ),
        (
            errors.ModelNotReady("loading"), "/predictions/echo/1.0",
            refused(UNAVAILABLE, "ServiceUnavailableException", f'Model \\"echo\\" Version 1.0\\" {NO_WORKER}'),
        ),
        (
            errors.QueueFull("100 wait"), "/predictions/echo",
            refused(UNAVAILABLE, "ServiceUnavailableException", "100 wait", more=b"retry-after: 1\r\n"),
        ),
        (
            errors.ModelFailed("ValueError: secret", detail="Traceback"), "/predictions/echo",
            refused(UNAVAILABLE, INTERNAL, "Prediction failed"),
        ),
        (
            errors.ModelRefused("no such user", code=404), "/predictions/echo",
            refused("404 Not Found", INTERNAL, "no such user"),
        ),
        (
            errors.ModelRefused("too much", code=413), "/predictions/echo",
            refused("507 Insufficient Storage", INTERNAL, "too much"),
        ),
        (
            errors.ModelRefused("short and stout", code=418), "/predictions/echo",
            refused("418 Client Error (418)", INTERNAL, "short and stout"),
        ),
        (
            errors.ModelRefused("custom", code=599), "/predictions/echo",
            refused("599 Server Error (599)", INTERNAL, "custom"),
        ),
        (
            errors.ModelRefused("plain"), "/predictions/echo",
            refused("500 Internal Server Error", INTERNAL, "plain"),
        ),
        (
            errors.ModelRefused("nonsense", code=7), "/predictions/echo",
            refused("500 Internal Server Error", INTERNAL, "nonsense"),
        ),
        (
            errors.OutOfResources("CUDA"), "/predictions/echo",
            refused("507 Insufficient Storage", INTERNAL, "Out of resources"),
        ),
        (
            errors.InvalidOutput("Invalid model predict output"), "/predictions/echo",
            refused(UNAVAILABLE, INTERNAL, "Invalid model predict output"),
        ),
        (
            errors.InvalidOutput("the answer has 7 bytes", code=500), "/predictions/echo",
            refused("500 Internal Server Error", INTERNAL, "the answer has 7 bytes"),
        ),
        (
            errors.WorkerDied("signal 9"), "/predictions/echo",
            refused("500 Internal Server Error", INTERNAL, "Worker died."),
        ),
        (
            errors.DeadlineExceeded("waited 1 s"), "/predictions/echo",
            refused("504 Gateway Timeout", "RequestTimeoutException", "waited 1 s"),
        ),
        (
            errors.InvalidInput("not an image"), "/predictions/echo",
            refused("400 Bad Request", "BadRequestException", "not an image"),
        ),
        (
            errors.Unsupported("no explainer"), "/explanations/echo",
            refused("501 Not Implemented", "UnsupportedOperationException", "no explainer"),
        ),
        (
            errors.RequestCancelled("withdrawn"), "/predictions/echo",
            refused("499 Client Error (499)", "RequestCancelledException", "withdrawn"),
        ),
        (
            errors.MooringError("other"), "/predictions/echo",
            refused("500 Internal Server Error", INTERNAL, "other"),
        ),
    ],
)  # fmt: skip
async def test_errors_are_worded_as_torchserve_words_them(inference, error, target, expected):
    inference.service.answer = lambda _: [error]
    reply = await inference.call("POST", target, b"x")
    assert reply.raw == expected


async def test_an_error_keeps_the_connection_for_the_next_request(inference):
    outcomes = [errors.ModelFailed("E: x"), output(b"fine")]
    inference.service.answer = lambda _: [outcomes.pop(0)]
    request = b"POST /predictions/echo HTTP/1.1\r\nhost: here\r\ncontent-length: 1\r\n\r\nx"
    reader, writer = await asyncio.open_connection("127.0.0.1", inference.port)
    writer.write(request + request)
    assert (await read_reply(reader)).status == 503
    assert (await read_reply(reader)).raw == answered(b"fine")
    writer.close()


async def test_a_client_that_asks_for_it_gets_its_connection_closed(inference):
    reply = await inference.call("POST", "/predictions/echo", b"x", "connection: close")
    assert reply.raw == answered(b"x").replace(b"connection: keep-alive", b"connection: close")


async def test_what_is_no_http_is_refused_in_torchserves_words(inference):
    reply = await inference.send(b"BREW / HTTP/1.1\r\nhost: here\r\n\r\n")
    expected = refused("400 Bad Request", "BadRequestException", "Invalid HTTP message.")
    assert reply.raw == expected.replace(b"connection: keep-alive", b"connection: close")


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        (b"POST /predictions/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1000001\r\n\r\n", 413, "RequestEntityTooLargeException"),
        (b"POST /predictions/echo HTTP/1.1\r\nhost: a\r\nexpect: magic\r\ncontent-length: 1\r\n\r\nx", 417, "ExpectationFailedException"),
        (b"GET /" + b"a" * 2100 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414, "RequestUriTooLongException"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", 431, "RequestHeaderFieldsTooLargeException"),
    ],
)  # fmt: skip
async def test_what_the_front_refuses_carries_torchserves_triple(inference, request_, status, kind):
    reply = await inference.send(request_)
    body = json.loads(reply.body)
    assert reply.status == body["code"] == status
    assert body["type"] == kind
    assert body["message"]
    assert list(body) == ["code", "type", "message"]
    assert COMMON in reply.raw
    assert reply.headers["content-type"] == JSON


async def test_a_body_may_be_asked_for_first(inference):
    reply = await inference.call("POST", "/predictions/echo", b"x", "expect: 100-continue")
    assert reply.raw == answered(b"x")


async def test_a_chunked_body_is_a_body(inference):
    head = b"POST /predictions/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    reply = await inference.send(head + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
    assert reply.raw == answered(b"hello")
