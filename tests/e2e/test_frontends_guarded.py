"""Frontends let nobody in whom the first would not: tokens, early refusals and the cutting of messages."""

import json

import pytest
from e2e_kit import Server, Wire, request

MANAGEMENT, INFERENCE = "mAnagement-tOken", "iNference-tOken"
MODEL = "def scale(x: 'ndarray'):\n    return x * 2.0\n"
OPEN = {"/ping": (200, 405), "/v2/health/live": (200, 405), "/": (200, 405)}
# Served by every frontend, and handed on to the first process.
GUARDED = {
    "/predictions/scale": INFERENCE,
    "/v2/models/scale/infer": INFERENCE,
    "/v2": INFERENCE,
    "/v2/models": INFERENCE,
    "/v2/repository/index": INFERENCE,
    "/v2/repository/models/scale/unload": MANAGEMENT,
    "/v2/repository/models/nobody/load": MANAGEMENT,
}
# Who gets a connection is the kernel's choice: of so many, both frontends get some.
CONNECTIONS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontends")
    (folder / "model.py").write_text(MODEL)
    tokens = {"MOORING_MANAGEMENT_TOKEN": MANAGEMENT, "MOORING_INFERENCE_TOKEN": INFERENCE}
    server = Server(folder, "model.py:scale", "--frontends=2", "--deal-connections=evenly", environ=tokens)
    try:
        yield server.started()
        shown = [" ".join(each.cmdline()) for each in server.family()]
        assert server.stop() == 0
        assert not server.faults()
        assert not any(token in text for text in [server.log, *shown] for token in (MANAGEMENT, INFERENCE))
    finally:
        server.kill()


def codes(server: Server, message: bytes) -> set[int]:
    found = set()
    for _ in range(CONNECTIONS):
        with Wire(server.port) as wire:
            wire.send(message)
            found.add(wire.answer().code)
    return found


@pytest.mark.parametrize("target", GUARDED)
def test_no_frontend_answers_without_the_token(server, target):
    method = "GET" if target in ("/v2", "/v2/models") else "POST"
    for header in ([], ["Authorization: Bearer wrong-token"], ["Authorization: Basic eDp5"]):
        assert codes(server, request(method, target, b"{}" if method == "POST" else b"", *header)) == {401}
    wrong = INFERENCE if GUARDED[target] == MANAGEMENT else ""
    if wrong:
        assert codes(server, request(method, target, b"{}", f"Authorization: Bearer {wrong}")) == {401}


@pytest.mark.parametrize("target", ["/predictions/scale", "/v2/models/scale/infer", "/v2/repository/index"])
@pytest.mark.parametrize(
    "line",
    ["Content-Length: 5000000", "Transfer-Encoding: chunked", "Content-Length: 2\r\nExpect: 100-continue"],
)
def test_no_frontend_receives_a_body_without_the_token(server, target, line):
    for _ in range(CONNECTIONS):
        with Wire(server.port) as wire:
            wire.send(request("POST", target, b"", line))
            assert wire.answer().code == 401
            assert wire.ended()


@pytest.mark.parametrize("target", ["/predictions/scale", "/v2/repository/index"])
def test_with_the_token_a_body_that_waits_for_leave_is_asked_for(server, target):
    body = json.dumps({"x": [[1.0]]}).encode() if "scale" in target else b"{}"
    head = request(
        "POST",
        target,
        b"",
        f"Authorization: Bearer {INFERENCE}",
        f"Content-Length: {len(body)}",
        "Expect: 100-continue",
    )
    for _ in range(CONNECTIONS):
        with Wire(server.port) as wire:
            wire.send(head)
            assert wire.line() == b"HTTP/1.1 100 Continue\r\n"
            assert wire.line() == b"\r\n"
            wire.send(body)
            assert wire.answer().code == 200


HIDDEN = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("target", ["/predictions/scale", "/v2/repository/index"])
def test_a_body_that_looks_like_a_request_is_a_body_for_whoever_it_is_handed_to(server, target):
    for body in (HIDDEN, b"0\r\n\r\n" + HIDDEN):
        for _ in range(CONNECTIONS):
            with Wire(server.port) as wire:
                wire.send(request("POST", target, body, f"Authorization: Bearer {INFERENCE}") + HIDDEN)
                assert wire.answer().code in (200, 400)
                assert wire.answer().code == 200
                wire.send(request("POST", "/nowhere", b"", "Connection: close"))
                assert wire.answer().code == 404
                assert wire.ended()
    for broken in (
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: x",
        "Content-Length: +1",
    ):
        assert codes(server, request("POST", target, b"", broken) + b"0\r\n\r\n" + HIDDEN) == {400}
