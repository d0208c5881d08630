"""What a client gets for what a handler returns (docs/contracts/torchserve.md, sections 1.2 and 1.3): status line, headers, body."""

import io

import pytest
from e2e_kit import JSON, Wire, answered, refused, request, streamed

INTERNAL, OUT = "500 Internal Server Error", "507 Insufficient Storage"


@pytest.mark.parametrize(
    ("item", "body", "content_type"),
    [
        ("bytes", b"\x00raw\xff", ""),
        ("bytearray", b"changeable", ""),
        ("str", "plain \u00e9".encode(), ""),
        ("empty", b"", ""),
        ("dict", b'{\n  "class": "7",\n  "probability": 0.5\n}', JSON),
        ("nested", b'{\n  "a": [\n    1,\n    {\n      "b": null\n    }\n  ],\n  "c": {}\n}', JSON),
        ("list", b'[\n  1,\n  "two",\n  null\n]', JSON),
        ("tuple", b"[\n  1,\n  2\n]", JSON),
        ("int", b"7", JSON),
        ("float", b"0.5", JSON),
        ("none", b"null", JSON),
        ("true", b"true", JSON),
        ("nan", b"NaN", JSON),
        ("accent", b'{\n  "name": "\\u00e9"\n}', JSON),
        ("large", b"x" * 300_000, ""),
    ],
)
def test_an_item_is_written_as_torchserve_writes_it(server, item, body, content_type):
    assert server.predict("answers", item) == answered(body, content_type)


def test_a_tensor_is_what_torch_saves(server):
    import torch

    answer = server.predict("answers", "tensor")
    assert torch.load(io.BytesIO(answer.body), weights_only=True).tolist() == [0, 1, 2]
    assert answer == answered(answer.body)


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ("set", INTERNAL, "Unsupported model output data type."),
        ("object", INTERNAL, "Unsupported model output data type."),
        ("whole tuple", INTERNAL, "Invalid model predict output"),
        ("whole dict", INTERNAL, "Invalid model predict output"),
        ("whole str", INTERNAL, "Invalid model predict output"),
        ("whole none", INTERNAL, "Invalid model predict output"),
        ("whole tensor", INTERNAL, "Invalid model predict output"),
        ("too many", INTERNAL, "number of batch response mismatched"),
        ("too few", INTERNAL, "number of batch response mismatched"),
        ("raise", INTERNAL, "Prediction failed"),
        ("unprintable", INTERNAL, "Prediction failed"),
        ("no such item", INTERNAL, "Prediction failed"),
        ("memory", OUT, "Out of resources"),
        ("cuda", OUT, "Out of resources"),
        ("refuse", INTERNAL, "not today"),
        ("refuse 400", "400 Bad Request", "bad picture"),
        ("refuse 413", "413 Request Entity Too Large", "too big"),
        ("refuse 418", "418 Client Error (418)", "a teapot"),
        ("refuse 429", "429 Too Many Requests", "slow down"),
        ("refuse quoted", "422 Unprocessable Entity", 'say "please"\n'),
        ("oversized", INTERNAL, "the model's answer has 1100000 bytes and max_response_size is 1000000"),
    ],
)  # fmt: skip
def test_a_failure_is_worded_as_torchserve_words_it(server, asked, status, message):
    before = server.workers("answers")
    assert server.predict("answers", asked) == refused(status, "InternalServerException", message)
    assert server.workers("answers") == before  # nobody was killed for it


@pytest.mark.parametrize(
    ("asked", "status", "more"),
    [
        ("head type", "200 OK", {"content_type": "image/png"}),
        ("head content-type", "200 OK", {"content_type": "text/csv"}),
        ("head status", "201 Made", {}),
        ("head all", "202 Taken", {}),
        ("head error", "422 Not So", {}),
        ("head lines", "200 OK", {"x_model": "answers"}),
    ],
)
def test_a_handler_chooses_status_reason_and_headers(server, asked, status, more):
    assert server.predict("answers", asked) == answered(asked, status=status, **more)


def test_one_answers_head_is_not_the_next_ones(server):
    server.predict("answers", "head error")
    assert server.predict("answers", "str") == answered("plain \u00e9")


@pytest.mark.parametrize(
    ("asked", "pieces", "content_type"),
    [
        ("stream", ["one ", "two ", "three"], ""),
        ("stream json", ['{\n  "n": 1\n}', '{\n  "n": 2\n}'], JSON),
        ("stream typed", ["data: 1\n\n", "data: 2\n\n"], "text/event-stream"),
    ],
)
def test_a_stream_has_a_chunk_for_every_piece(server, asked, pieces, content_type):
    assert server.predict("answers", asked) == streamed(*pieces, content_type=content_type)


def test_a_stream_to_an_old_client_ends_with_its_connection(server):
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/answers", b"stream", version="1.0"))
        whole = wire.rest()
    head, _, body = whole.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"transfer-encoding" not in head
    assert b"content-length" not in head
    assert head.endswith(b"connection: close")
    assert body == b"one two three"


def test_a_broken_stream_ends_its_connection_without_a_last_chunk(server):
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/answers", b"stream break"))
        raw = wire.rest()
    assert raw == b"reset" or (raw.endswith(b"\r\n\r\n4\r\none \r\n") and b"ts_stream_next: true" in raw)
    assert server.predict("answers", "int") == answered("7", JSON)
    assert "stream broken off model=answers" in server.log


MISSING = "Requested resource is not found, please refer to API document."
NOT_ALLOWED = "Requested method is not allowed, please refer to API document."
NO_MODEL, NO_VERSION = "ModelNotFoundException", "ModelVersionNotFoundException"
LOST = "404 Not Found"
ALLOWED = "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/predictions/nobody", refused(LOST, NO_MODEL, "Model not found: nobody")),
        ("PUT", "/predictions/nobody/1.0", refused(LOST, NO_MODEL, "Model not found: nobody")),
        ("GET", "/explanations/nobody", refused(LOST, NO_MODEL, "Model not found: nobody")),
        ("GET", "/nobody/predict", refused(LOST, NO_MODEL, "Model not found: nobody")),
        ("GET", "/models/nobody/invoke", refused(LOST, NO_MODEL, "Model not found: nobody")),
        ("GET", "/invocations?model_name=nobody", refused(LOST, NO_MODEL, "Model not found: nobody")),
        ("OPTIONS", "/predictions/nobody", refused(LOST, NO_MODEL, "Model not found: nobody")),
        ("GET", "/predictions//x", refused(LOST, NO_MODEL, "Model not found: ")),
        ("GET", "/predictions/a%22b", refused(LOST, NO_MODEL, 'Model not found: a"b')),
        (
            "GET",
            "/predictions/rows/9.9",
            refused(LOST, NO_VERSION, "Model version: 9.9 does not exist for model: rows"),
        ),
        (
            "GET",
            "/explanations/rows/9.9/more",
            refused(LOST, NO_VERSION, "Model version: 9.9 does not exist for model: rows"),
        ),
        ("GET", "/predictions", refused(LOST, "ResourceNotFoundException", MISSING)),
        ("POST", "/explanations/", refused(LOST, "ResourceNotFoundException", MISSING)),
        ("GET", "/nowhere", refused(LOST, "ResourceNotFoundException", MISSING)),
        ("GET", "/models", refused(LOST, "ResourceNotFoundException", MISSING)),
        ("GET", "/models/rows", refused(LOST, "ResourceNotFoundException", MISSING)),
        ("GET", "/wfpredict/flow", refused(LOST, "WorkflowNotFoundException", "Workflow not found: flow")),
        ("POST", "/", refused("405 Method Not Allowed", "MethodNotAllowedException", NOT_ALLOWED, allow=ALLOWED)),
        ("DELETE", "/", refused("405 Method Not Allowed", "MethodNotAllowedException", NOT_ALLOWED, allow=ALLOWED)),
        (
            "POST",
            "/invocations",
            refused("400 Bad Request", "BadRequestException", "Parameter model_name is required."),
        ),
        ("GET", "/ping", answered('{\n  "status": "Healthy",\n  "health": "healthy!"\n}\n', JSON)),
        ("BREW", "/ping", None),
        ("DELETE", "/ping/some/more", answered('{\n  "status": "Healthy",\n  "health": "healthy!"\n}\n', JSON)),
        ("GET", "/", answered('{"status":"alive"}', JSON)),
    ],
)  # fmt: skip
def test_every_path_has_torchserves_answer(server, method, target, expected):
    if expected is None:
        expected = refused(
            "400 Bad Request", "BadRequestException", "Invalid HTTP message.", connection="close"
        )
    assert server.ask(method, target) == expected


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"])
@pytest.mark.parametrize(
    "target",
    ["/predictions/answers", "/predictions/answers/1.0", "/predictions/answers/1.0/a/b", "/answers/predict",
     "/answers/1.0/predict", "/models/answers/invoke", "/predictions/answers/", "/predictions/answers?x=1"],
)  # fmt: skip
def test_every_method_predicts(server, method, target):
    assert server.ask(method, target, b"dict") == answered(
        '{\n  "class": "7",\n  "probability": 0.5\n}', JSON
    )
