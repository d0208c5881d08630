"""What is wrong with an address or a connection, from the words of libraries and of other servers."""

import pytest

from mooring.client.address import Address
from mooring.client.faults import connection_error, explain_pieces, misdirected, texts_of
from mooring.core.errors import Unsupported

HTTP, HTTPS, GRPC, GRPCS = (Address.of(f"{scheme}://h:1") for scheme in ("http", "https", "grpc", "grpcs"))


@pytest.mark.parametrize(
    ("address", "text", "said"),
    [
        (HTTP, "[Errno 111] Connection refused", "nothing listens at h:1; is the server up?"),
        (Address.of("localhost"), "[Errno 111] Connection refused", "nothing listens at localhost, port 80; is"),
        (HTTP, "All connection attempts failed\n[Errno 111] Connect call failed ('h', 1)", "nothing listens at h:1"),
        (GRPC, "last error: UNKNOWN: ipv4:h:1: Failed to connect to remote host: Connection refused", "nothing listens"),
        (HTTP, "[Errno -2] Name or service not known", "no host 'h' is known"),
        (GRPC, "errors resolving h:1: [field:hostname lookup error: Domain name not found]", "no host 'h' is known"),
        (HTTPS, "[SSL: WRONG_VERSION_NUMBER] wrong version number", "h:1 does not speak TLS; use http://h:1"),
        (GRPCS, "Tls handshake failed: WRONG_VERSION_NUMBER", "h:1 does not speak TLS; use grpc://h:1"),
        (HTTPS, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1)",
         r"not trusted \(self-signed certificate\); name who issued it by ca=FILE"),
        (HTTPS, "certificate verify failed: Hostname mismatch, certificate is not valid for 'h'", "is for another name"),
        (GRPC, "Failed parsing HTTP/2 (Trying to connect an http1.x server (HTTP status 400))", "use http://h:1"),
        (GRPCS, "Cannot check peer: missing selected ALPN property.", "does not speak gRPC; if it speaks HTTP, use https://h:1"),
        (HTTP, "[Errno 104] Connection reset by peer", r"broke .* or speak TLS \(https://h:1\)"),
        (GRPC, "recvmsg:Connection reset by peer", r"broke .* or speak TLS \(grpcs://h:1\)"),
        (GRPC, "failed to connect to all addresses; last error: UNKNOWN: tcp handshaker shutdown", "did not accept a connection"),
        (HTTPS, "", "broke .* a certificate of the client"),
    ],
)  # fmt: skip
def test_a_connection_that_fails_is_explained(address, text, said):
    with pytest.raises(type(connection_error(address, text)), match=said):
        raise connection_error(address, text)


def test_an_answer_in_pieces_is_told_with_the_call_that_takes_it():
    told = explain_pieces(
        Unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy"), "m"
    )
    assert told.message.startswith("model 'm' answers in pieces: take them by stream() of the client")
    other = Unsupported("no such operation")
    assert explain_pieces(other, "m") is other


def test_only_a_call_that_nobody_listened_to_may_be_repeated():
    assert connection_error(HTTP, "Connection refused").repeat_after == 0.0
    for text in ("Connection reset by peer", "Name or service not known", "wrong version number"):
        assert connection_error(HTTP, text).repeat_after is None


JSON, HTML = {"content-type": "application/json"}, {"content-type": "text/html; charset=utf-8"}


@pytest.mark.parametrize(
    ("address", "status", "headers", "body", "said"),
    [
        (HTTP, 505, {}, b"this port speaks HTTP/2 alone\n", "h:1 is a gRPC port; use grpc://h:1"),
        (HTTPS, 505, {}, b"this port speaks HTTP/2 alone\n", "use grpcs://h:1"),
        (HTTP, 403, JSON, b'{"status":"This TorchServe instance only accepts HTTPS requests"}', "h:1 speaks TLS; use https://h:1"),
        (HTTP, 400, {}, b"Client sent an HTTP request to an HTTPS server.\n", "speaks TLS"),
        (HTTP, 404, JSON, b'{"error":"Not Found"}', "http://h:1 has no /v2/p; give the inference address"),
        (HTTP, 404, JSON, b'{"detail":"Not Found"}', "has no /v2/p"),
        (HTTP, 404, {}, b"404 page not found", "has no /v2/p"),
        (HTTP, 501, HTML, b"<html>", r"answers /v2/p with a page \(501\)"),
        (HTTP, 200, HTML, b"<html>", "not a server of the Open Inference Protocol"),
    ],
)  # fmt: skip
def test_another_server_than_the_one_meant_is_told_by_its_answer(address, status, headers, body, said):
    error = misdirected(address, "/v2/p", status, headers, body)
    with pytest.raises(type(error), match=said):
        raise error


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [(404, JSON, b'{"error":"no model named a"}'), (503, HTML, b"<html>"), (502, HTML, b""), (400, JSON, b'{"error":"x"}'),
     (505, JSON, b'{"error":"version"}')],
)  # fmt: skip
def test_an_answer_of_the_protocol_or_of_a_proxy_before_it_is_none(status, headers, body):
    assert misdirected(HTTP, "/v2/p", status, headers, body) is None


def test_a_password_in_a_url_is_not_shown():
    address = Address.of("http://me:secret@h:1/prefix")
    assert address.shown == "http://h:1/prefix"
    assert "secret" not in str(misdirected(address, "/v2", 404, {}, b""))


def test_the_text_of_every_cause_is_looked_at():
    inner, outer = OSError("inner"), ValueError("outer")
    outer.__cause__ = inner
    assert list(texts_of(outer)) == ["outer", "inner"]
