"""What a handler is given for what a client sends (docs/contracts/torchserve.md, section 2.1), to the letter."""

import json

import pytest
from e2e_kit import JSON, answered

EDGE = "frontier"


def form(*parts: str) -> bytes:
    """A multipart body. A part is its header lines, an empty line and its value."""
    whole = "".join(f"--{EDGE}\r\n{part}\r\n" for part in parts) + f"--{EDGE}--\r\n"
    return whole.encode()


def part(name: str, value: str, *, file: str = "", kind: str = "") -> str:
    disposition = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
    return disposition + (f"\r\nContent-Type: {kind}" if kind else "") + f"\r\n\r\n{value}"


MULTIPART = f"multipart/form-data; boundary={EDGE}"
FORM = "application/x-www-form-urlencoded"

BODIES = [
    # content type, body, what the handler gets
    ("", b"\x00\xff", "{'body': bytearray(b'\\x00\\xff')}"),
    ("", b"", "{'body': bytearray(b'')}"),
    (JSON, b"", "{'body': bytearray(b'')}"),
    ("application/octet-stream", b"abc", "{'body': bytearray(b'abc')}"),
    ("image/png", b"\x89PNG", "{'body': bytearray(b'\\x89PNG')}"),
    (JSON, b'{"a": [1, 2.5, null, true]}', "{'body': {'a': [1, 2.5, None, True]}}"),
    (JSON, b"[1,2]", "{'body': [1, 2]}"),
    (JSON, b'"text"', "{'body': 'text'}"),
    (JSON, b"7", "{'body': 7}"),
    (JSON, b"null", "{'body': None}"),
    (JSON, b"NaN", "{'body': nan}"),
    (JSON, b'{"a":1,"a":2}', "{'body': {'a': 2}}"),
    (JSON, b"12345678901234567890123", "{'body': 12345678901234567890123}"),
    (JSON, b"{broken", "{'body': bytearray(b'{broken')}"),
    (f"{JSON}; charset=utf-8", b'{"a":1}', "{'body': {'a': 1}}"),
    ("Application/JSON", b'{"a":1}', "{'body': bytearray(b'{\"a\":1}')}"),
    ("application/vnd.x+json", b'{"a":1}', "{'body': bytearray(b'{\"a\":1}')}"),
    ("text/plain", b"hello", "{'body': 'hello'}"),
    ("text/plain; charset=latin-1", "\u00e9".encode(), "{'body': '\u00e9'}"),
    ("text/csv", b"1,2", "{'body': '1,2'}"),
    ("text/plain", b"\xff\xfe", "{'body': bytearray(b'\\xff\\xfe')}"),
    ("Text/plain", b"hello", "{'body': bytearray(b'hello')}"),
    (FORM, b"a=1&b=two+words", "{'a': bytearray(b'1'), 'b': bytearray(b'two words')}"),
    (FORM, b"a=1&a=2", "{'a': bytearray(b'2')}"),
    (FORM, b"a=%C3%A9%00", "{'a': bytearray(b'\\xc3\\xa9\\x00')}"),
    (FORM, b"a=", "{'a': bytearray(b'')}"),
    (FORM, b"hello", "{}"),
    (FORM, b"", "{}"),
    (MULTIPART, form(part("data", "\x01\x02", file="a.png")), "{'data': bytearray(b'\\x01\\x02')}"),
    (MULTIPART, form(part("data", "[1]", file="a", kind=JSON)), "{'data': [1]}"),
    (MULTIPART, form(part("data", "{no", file="a", kind=JSON)), "{'data': bytearray(b'{no')}"),
    (MULTIPART, form(part("data", "hi", file="a", kind="text/plain")), "{'data': 'hi'}"),
    (MULTIPART, form(part("data", "hi", file="a", kind="image/png")), "{'data': bytearray(b'hi')}"),
    (MULTIPART, form(part("field", "hi")), "{'field': bytearray(b'hi')}"),
    (MULTIPART, form(part("field", "[1]", kind=JSON)), "{'field': bytearray(b'[1]')}"),
    (MULTIPART, form(part("a", "1"), part("a", "2")), "{'a': bytearray(b'2')}"),
    (
        MULTIPART,
        form(part("data", "x", file="x.bin"), part("target", "3")),
        "{'data': bytearray(b'x'), 'target': bytearray(b'3')}",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "row"), BODIES)
def test_a_body_is_the_row_that_torchserve_makes_of_it(server, kind, body, row):
    lines = [f"Content-Type: {kind}"] if kind else []
    assert server.predict("rows", body, *lines) == answered(row)


@pytest.mark.parametrize(
    ("method", "target", "row"),
    [
        ("GET", "/predictions/rows", "{'body': bytearray(b'')}"),
        ("GET", "/predictions/rows?a=1", "{'body': bytearray(b'')}"),
        ("GET", "/explanations/rows?a=1", "{'body': bytearray(b'')}"),
        ("DELETE", "/predictions/rows", "{'body': bytearray(b'')}"),
        ("TRACE", "/predictions/rows", "{'body': bytearray(b'')}"),
        ("GET", "/rows/predict?a=1&b=", "{'a': bytearray(b'1'), 'b': bytearray(b''), 'body': bytearray(b'')}"),
        ("GET", "/rows/1.0/predict?a=1", "{'a': bytearray(b'1'), 'body': bytearray(b'')}"),
        ("GET", "/models/rows/invoke?a=1", "{'a': bytearray(b'1'), 'body': bytearray(b'')}"),
        (
            "GET",
            "/invocations?model_name=rows&a=1",
            "{'model_name': bytearray(b'rows'), 'a': bytearray(b'1'), 'body': bytearray(b'')}",
        ),
    ],
)  # fmt: skip
def test_a_query_is_fields_on_the_older_routes_only(server, method, target, row):
    assert server.ask(method, target) == answered(row)


def test_a_field_of_the_body_wins_over_one_of_the_query(server):
    answer = server.ask("POST", "/rows/predict?a=1&b=2", b"a=3", f"Content-Type: {FORM}")
    assert answer == answered("{'a': bytearray(b'3'), 'b': bytearray(b'2')}")


def test_invocations_find_the_model_in_a_field_of_the_body(server):
    answer = server.ask("POST", "/invocations", b"model_name=rows&x=1", f"Content-Type: {FORM}")
    assert answer == answered("{'model_name': bytearray(b'rows'), 'x': bytearray(b'1')}")


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 300_000, 999_999])
def test_a_large_body_goes_there_and_back_whole(server, size):
    body = bytes(range(251)) * (size // 251) + b"\xff" * (size % 251)
    for _ in range(2):  # the second answer may come in a slot that the first one showed the need of
        answer = server.predict("fake", body)
        assert (answer.status, len(answer.body), answer.body == body) == ("200 OK", size, True)


def test_a_chunked_body_is_a_body(server):
    chunks = b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    head = "POST /predictions/rows HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert server.raw(head.encode() + chunks) == answered("{'body': bytearray(b'abcde')}")


@pytest.mark.parametrize(
    ("target", "lines", "expected"),
    [
        ("/predictions/rows", [], {"explain": "False", "url_path": ""}),
        ("/predictions/rows/1.0/a/b%20c", [], {"explain": "False", "url_path": "a/b c"}),
        ("/explanations/rows", [], {"explain": "True", "url_path": ""}),
        ("/explanations/rows/1.0", [], {"explain": "True", "url_path": ""}),
        ("/predictions/rows", ["X-Own: a", "X-Own: b"], {"X-Own": "b", "explain": "False", "url_path": ""}),
        ("/predictions/rows", ["explain: True"], {"explain": "False", "url_path": ""}),
        ("/predictions/rows", ["x-Request-ID: mine"], {"x-Request-ID": "mine", "explain": "False", "url_path": ""}),
    ],
)  # fmt: skip
def test_headers_reach_the_handler_as_the_client_spelled_them(server, target, lines, expected):
    answer = server.ask("GET", target, b"", "show: headers", *lines)
    expected = {"body": {"content-type": ""}, "Host": "localhost", "show": "headers"} | expected
    named = {"x-request-id": "mine"} if "x-Request-ID: mine" in lines else {}
    assert answer == answered(json.dumps(expected, indent=2), JSON, **_same_order(answer, expected), **named)


def _same_order(answer, expected):
    assert answer.json() == expected
    return {"content_length": answer.headers["content-length"]}


def test_every_field_has_a_content_type(server):
    body = form(part("data", "[1]", file="a", kind=JSON), part("plain", "x", kind=JSON))
    answer = server.predict("rows", body, "show: headers", f"Content-Type: {MULTIPART}")
    assert {key: answer.json()[key] for key in ("data", "plain")} == {
        "data": {"content-type": JSON},
        "plain": {"content-type": ""},
    }


def test_the_request_id_of_the_answer_is_the_handlers(server):
    import requests

    answer = requests.get(f"{server.url}/predictions/rows", headers={"show": "id"}, timeout=20)
    assert answer.text == answer.headers["x-request-id"]


def test_the_context_knows_its_model(server):
    answer = server.ask("GET", "/predictions/rows", b"", "show: context")
    assert answer.json() == {
        "gpu_id": None,
        "batch_size": 1,
        "server_name": "MMS",
        "server_version": "0.12.0",
        "model_name": "rows",
        "at_home": True,
        "handler": "rows_handler.py",
        "yaml": {"own": [1, {"two": 2}]},
    }
