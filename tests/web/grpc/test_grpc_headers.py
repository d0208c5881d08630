"""What a header block says of a call."""

import pytest

from mooring.web.grpc.headers import is_trailers, parse_head
from mooring.web.grpc.status import Status

CALL = {
    b":method": b"POST", b":scheme": b"http", b":path": b"/t.T/M", b":authority": b"x", b"te": b"trailers",
    b"content-type": b"application/grpc",
}  # fmt: skip


def head(**changes):
    named = CALL | {name.replace("_", "-").encode(): value for name, value in changes.items()}
    return parse_head([(name, value) for name, value in named.items() if value is not None])


def test_a_call_has_a_path_and_metadata_without_http():
    found = head(x_text=b"hello", grpc_accept_encoding=b"gzip", user_agent=b"me")
    assert (found.path, found.malformed, found.http_status, found.error) == (b"/t.T/M", "", b"", None)
    assert dict(found.metadata).keys() == {
        b"te", b"content-type", b"x-text", b"grpc-accept-encoding", b"user-agent"
    }  # fmt: skip
    assert found.custom_metadata == ((b"x-text", b"hello"),)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"2H", 7200),
        (b"3M", 180),
        (b"4S", 4),
        (b"500m", 0.5),
        (b"20u", 2e-5),
        (b"7n", 7e-9),
        (b"99999999S", 99999999),
    ],
)
def test_a_timeout_has_a_unit(text, seconds):
    assert head(grpc_timeout=text).timeout == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"1s", b"-1S", b"1.5S", b"123456789S", b"1S "])
def test_a_timeout_that_is_none_ends_the_call(text):
    found = head(grpc_timeout=text)
    assert found.timeout is None
    assert found.error[0] is Status.INVALID_ARGUMENT


def test_an_encoding_that_is_not_known_ends_the_call():
    assert head(grpc_encoding=b"gzip").encoding == "gzip"
    assert head(grpc_encoding=b"br").error == (
        Status.UNIMPLEMENTED, "messages in the encoding 'br' cannot be read here",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content_type", "status"),
    [(b"application/grpc", b""), (b"application/grpc+proto", b""), (b"Application/GRPC; x=1", b""),
     (b"application/grpc+json", b"415"), (b"application/json", b"415"), (None, b"415")],
)  # fmt: skip
def test_what_is_no_grpc_gets_a_status_of_http(content_type, status):
    named = CALL | {b"content-type": content_type}
    assert parse_head([item for item in named.items() if item[1] is not None]).http_status == status


def test_a_call_is_a_post():
    assert parse_head(list((CALL | {b":method": b"GET"}).items())).http_status == b"405"


@pytest.mark.parametrize(
    ("sent", "kept"), [(b"my-id", b"my-id"), (b"a b", b""), (b"", b""), (b"x" * 1000, b"")]
)
def test_a_request_id_is_kept_where_it_is_one(sent, kept):
    assert head(x_request_id=sent).request_id == kept


@pytest.mark.parametrize(
    "fields",
    [
        [(b"x", b"1"), *CALL.items()],
        [(b":path", b"/other"), *CALL.items()],
        [(b":status", b"200"), *CALL.items()],
        [item for item in CALL.items() if item[0] != b":path"],
        [*CALL.items(), (b"Upper", b"1")],
        [*CALL.items(), (b"x", b"a\nb")],
        [*CALL.items(), (b"connection", b"close")],
        [item for item in CALL.items() if item[0] != b"te"] + [(b"te", b"gzip")],
    ],
)
def test_what_no_request_can_have_is_malformed(fields):
    assert parse_head(fields).malformed


def test_trailers_have_no_pseudo_headers():
    assert is_trailers(parse_head([(b"x-sum", b"1")]))
    assert is_trailers(parse_head([]))
    assert not is_trailers(parse_head([(b":path", b"/")]))
    assert not is_trailers(parse_head(list(CALL.items())))
