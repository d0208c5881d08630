"""What browsers are told of other sites' pages, over real sockets."""

import pytest
from e2e_kit import Server

MODEL = "def echo(x: 'ndarray'):\n    return x\n"
ALLOW = "access-control-allow-origin"
A, B, EVIL = "https://a.example", "http://b.example:3000", "https://evil.example"
PREFLIGHT = "Access-Control-Request-Method: POST"


def serving(tmp_path_factory, name, *flags):
    folder = tmp_path_factory.mktemp(name)
    (folder / "model.py").write_text(MODEL)
    (folder / "repository").mkdir()
    return Server(folder, "model.py:echo", "--model-repository=repository", *flags).started()


@pytest.fixture(scope="module")
def anyone(tmp_path_factory):
    server = serving(
        tmp_path_factory, "anyone", "--cors-allowed-origin=*",
        "--cors-allowed-methods=GET, POST, PUT", "--cors-allowed-headers=Content-Type,X-Own",
    )  # fmt: skip
    yield server
    server.stop()


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    server = serving(tmp_path_factory, "listed", f"--cors-allowed-origin={A},{B}")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def off(tmp_path_factory):
    server = serving(tmp_path_factory, "off")
    yield server
    server.stop()


def test_nothing_is_said_where_nothing_is_set(off):
    for answer in (
        off.ask("GET", "/ping", b"", f"Origin: {A}"),
        off.ask("OPTIONS", "/predictions/echo", b"", f"Origin: {A}", PREFLIGHT),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "vary" not in off.ask("GET", "/ping").headers


def test_what_is_set_is_on_answers_errors_and_refusals_of_the_front(anyone):
    said = {
        ALLOW: "*",
        "access-control-allow-methods": "GET, POST, PUT",
        "access-control-allow-headers": "Content-Type, X-Own",
        "access-control-expose-headers": "Inference-Header-Content-Length, x-request-id, Retry-After, ts_stream_next, ts_request_sequence_id, Server-Timing",
    }
    for answer in (
        anyone.ask("GET", "/ping"),
        anyone.predict("echo", "[1]"),
        anyone.predict("nothing", "[1]"),
        anyone.ask("GET", "/nowhere"),
        anyone.ask("POST", "/v2/models/nothing/infer", b"{}"),
        anyone.raw(b"nonsense\r\n\r\n"),
    ):
        assert {name: answer.headers.get(name) for name in said} == said


def test_a_preflight_is_answered_on_every_path_and_other_options_stay_the_description(anyone):
    for target in ("/predictions/echo", "/", "/v2/models/echo/infer", "/models"):
        answer = anyone.ask("OPTIONS", target, b"", f"Origin: {EVIL}", PREFLIGHT)
        assert (answer.code, answer.body, answer.headers[ALLOW]) == (200, b"", "*")
        assert answer.headers["access-control-allow-methods"] == "GET, POST, PUT"
    assert "openapi" in anyone.ask("OPTIONS", "/").json()
    assert "openapi" in anyone.ask("OPTIONS", "/predictions/echo").json()


def test_of_several_sites_the_one_that_asks_is_named_and_no_other(listed):
    for method, target, body in (
        ("GET", "/ping", b""),
        ("POST", "/predictions/echo", b"[1]"),
        ("POST", "/predictions/nothing", b"[1]"),
        ("POST", "/v2/models/echo/infer", b"{}"),
        ("HEAD", "/v2", b""),
    ):
        for origin in (A, B):
            answer = listed.ask(method, target, body, f"Origin: {origin}", head=method == "HEAD")
            assert (answer.headers[ALLOW], answer.headers["vary"]) == (origin, "Origin")
        for line in (f"Origin: {EVIL}", "X-Other: 1"):
            answer = listed.ask(method, target, body, line, head=method == "HEAD")
            assert ALLOW not in answer.headers
            assert answer.headers["vary"] == "Origin"
    preflight = listed.ask("OPTIONS", "/predictions/echo", b"", f"Origin: {A}", PREFLIGHT)
    assert (preflight.code, preflight.headers[ALLOW]) == (200, A)


def test_a_page_of_a_named_site_may_read_what_the_front_refuses_by_itself(listed):
    large = "Content-Length: 10000000"
    for origin, allowed in ((A, A), (EVIL, None)):
        answer = listed.ask("POST", "/predictions/echo", b"", f"Origin: {origin}", large)
        assert (answer.code, answer.headers.get(ALLOW), answer.headers["vary"]) == (413, allowed, "Origin")
    assert listed.raw(b"no request\r\n\r\n").headers["vary"] == "Origin"


def test_a_large_answer_carries_the_header_once(listed):
    tensor = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[50000],"data":[%s]}]}'
    body = tensor % b",".join([b"1.5"] * 50_000)
    answer = listed.ask("POST", "/v2/models/echo/infer", body, f"Origin: {A}")
    assert answer.code == 200
    assert answer.headers[ALLOW] == A
    assert len(answer.body) > 100_000


def test_pages_that_may_read_answers_see_their_timings(anyone, listed):
    for server, origin, allowed in (
        (anyone, EVIL, "*"),
        (listed, A, A),
        (listed, B, B),
        (listed, EVIL, None),
    ):
        answer = server.ask("POST", "/predictions/echo", b"[1]", f"Origin: {origin}", "server-timing: 1")
        assert answer.headers.get("timing-allow-origin") == allowed
        assert answer.headers["server-timing"]
        untimed = server.ask("POST", "/predictions/echo", b"[1]", f"Origin: {origin}")
        assert "timing-allow-origin" not in untimed.headers


def test_only_a_named_site_may_change_what_is_served(anyone, listed):
    change = ("POST", "/v2/repository/models/nothing/load", b"{}")
    assert listed.ask(*change, f"Origin: {EVIL}").code == 403
    assert anyone.ask(*change, f"Origin: {EVIL}").code == 403
    named = listed.ask(*change, f"Origin: {A}")
    assert named.code not in (200, 403)
    assert "nothing" in named.body.decode()
