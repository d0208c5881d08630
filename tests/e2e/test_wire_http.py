"""HTTP itself, as a client of the real server meets it: connections, methods, expectations, limits."""

import pytest
from e2e_kit import COMMON, Answer, Wire, answered, refused, request

JSON = "application/json"
INTERNAL = "500 Internal Server Error"
SEVEN = answered("7", JSON)
INVALID = refused("400 Bad Request", "BadRequestException", "Invalid HTTP message.", connection="close")


def closing(answer: Answer) -> Answer:
    return answer._replace(headers=answer.headers | {"connection": "close"})


def ask(*lines: str, method: str = "POST", version: str = "1.1", body: bytes = b"int") -> bytes:
    return request(method, "/predictions/answers", body, *lines, version=version)


def test_a_connection_serves_one_request_after_another(server):
    with Wire(server.port) as wire:
        for _ in range(3):
            wire.send(ask())
            assert wire.answer() == SEVEN


def test_a_refused_request_leaves_the_connection_open(server):
    with Wire(server.port) as wire:
        wire.send(request("GET", "/predictions/nobody"))
        assert wire.answer().code == 404
        wire.send(ask())
        assert wire.answer() == SEVEN


def test_pipelined_requests_are_answered_in_their_order(server):
    with Wire(server.port) as wire:
        words = [b"sleep 0.05", b"int", b"str", b"raise", b"bytes", b"stream", b"int"]
        wire.send(b"".join(ask(body=word) for word in words))
        answers = [wire.answer() for _ in words]
    assert [answer.code for answer in answers] == [200, 200, 200, 500, 200, 200, 200]
    assert answers[0].body == b"sleep 0.05"
    assert answers[-1] == SEVEN


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (ask("Connection: close"), closing(SEVEN)),
        (ask("Connection: Keep-Alive, Close"), closing(SEVEN)),
        (ask(version="1.0"), closing(SEVEN)),
        (request("GET", "/nowhere", b"", "Connection: close"), None),
    ],
)
def test_a_client_that_asks_for_it_gets_its_connection_closed(server, raw, expected):
    with Wire(server.port) as wire:
        wire.send(raw)
        answer = wire.answer()
        assert answer == expected or (expected is None and answer.headers["connection"] == "close")
        assert wire.ended()


def test_an_old_client_may_ask_to_keep_its_connection(server):
    with Wire(server.port) as wire:
        for _ in range(2):
            wire.send(ask("Connection: keep-alive", version="1.0"))
            assert wire.answer() == SEVEN


@pytest.mark.parametrize(
    ("target", "length"), [("/predictions/answers", 3), ("/ping", 50), ("/nowhere", 191), ("/", 18)]
)
def test_head_gets_the_headers_and_no_body(server, target, length):
    with Wire(server.port) as wire:
        wire.send(request("HEAD", target, b"float" if "answers" in target else b""))
        answer = wire.answer(head=True)
        assert answer.headers | COMMON == answer.headers
        assert answer.headers["content-length"] == str(length)
        wire.send(ask())  # and the next answer begins where it should
        assert wire.answer() == SEVEN


def test_a_client_that_asks_first_is_told_to_go_on(server):
    with Wire(server.port) as wire:
        wire.send(request("PUT", "/predictions/answers", b"", "Content-Length: 3", "Expect: 100-continue"))
        assert wire.line() == b"HTTP/1.1 100 Continue\r\n"
        assert wire.line() == b"\r\n"
        wire.send(b"int")
        assert wire.answer() == SEVEN


def test_another_expectation_is_refused_with_torchserves_triple(server):
    answer = server.raw(request("PUT", "/predictions/answers", b"", "Content-Length: 3", "Expect: a miracle"))
    assert answer.status == "417 Expectation Failed"
    assert answer.json()["type"] == "ExpectationFailedException"
    assert answer.json()["code"] == 417


TOO_LARGE = ("413 Request Entity Too Large", "RequestEntityTooLargeException")


@pytest.mark.parametrize(
    "raw",
    [
        request("POST", "/predictions/fake", b"", "Content-Length: 6553501"),
        request("POST", "/predictions/fake", b"", "Content-Length: 6553501", "Expect: 100-continue"),
        request("POST", "/predictions/fake", b"", "Content-Length: 99999999999999"),
        request("POST", "/nowhere", b"", "Content-Length: 6553501"),
    ],
)
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server, raw):
    answer = server.raw(raw)
    assert (answer.status, answer.json()["type"]) == TOO_LARGE
    assert answer.json()["code"] == 413
    assert answer.headers["connection"] == "close"
    assert set(answer.headers) == {*COMMON, "content-type", "content-length", "connection"}


def test_a_chunked_body_that_grows_too_large_is_refused(server):
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/fake", b"", "Transfer-Encoding: chunked"))
        for _ in range(101):
            wire.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        assert wire.answer().status == TOO_LARGE[0]


def test_the_largest_body_that_is_allowed_is_taken(server):
    body = b"x" * 6_553_500
    assert server.ask("POST", "/predictions/nobody", body).code == 404
    said = "the model's answer has 6553500 bytes and max_response_size is 1000000"
    assert server.predict("fake", body) == refused(INTERNAL, "InternalServerException", said)


@pytest.mark.parametrize(
    "raw",
    [
        b"BREW /predictions/answers HTTP/1.1\r\nHost: t\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\nHost: t\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n",
        b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nContent-Length: x\r\n\r\n",
        b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nint",
        b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_is_refused_in_torchserves_words(server, raw):
    with Wire(server.port) as wire:
        wire.send(raw)
        assert wire.answer() == INVALID
        assert wire.ended()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request("GET", "/" + "x" * 70_000), "414"),
        (request("GET", "/ping", b"", "X-Long: " + "x" * 70_000), "431"),
        (request("GET", "/ping", b"", *(f"X-{n}: 1" for n in range(1000))), "431"),
    ],
)
def test_heads_have_limits(server, raw, status):
    answer = server.raw(raw)
    assert answer.status.startswith(status)
    assert answer.json()["code"] == int(status)
    assert answer.headers["connection"] == "close"


def test_a_client_that_stops_sending_in_the_middle_gets_no_answer_and_harms_nobody(server):
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/answers", b"", "Content-Length: 10") + b"int")
        wire.socket.shutdown(1)
        assert wire.ended()
    assert server.predict("answers", "int") == SEVEN


def test_a_client_that_only_closed_its_sending_side_gets_its_answer(server):
    with Wire(server.port) as wire:
        wire.send(ask(body=b"sleep 0.1"))
        wire.socket.shutdown(1)
        assert wire.answer().body == b"sleep 0.1"
        assert wire.ended()


def test_a_client_that_went_away_leaves_the_worker_to_the_others(server):
    for _ in range(20):
        with Wire(server.port) as wire:
            wire.send(ask(body=b"sleep 0.01"))
    assert server.predict("answers", "int") == SEVEN
