"""One client's connection on the wire: what is asked, what is refused, and in which order answers come."""

import socket
import struct
import time

import pytest
from web_client import echo, eventually, hello

pytestmark = pytest.mark.sockets

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
BIG = 300_000


def post(body, path=b"/"):
    return b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path, len(body)) + body


def pattern(size, seed=7):
    return bytes((seed * i * i + i // 251) % 251 for i in range(1000)) * (size // 1000) + b"x" * (size % 1000)


def chunked(*chunks, trailer=b""):
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + pieces
        + b"0\r\n"
        + trailer
        + b"\r\n"
    )


# Keep-alive and close


def test_the_answer_is_exactly_status_line_given_head_length_and_connection(serve):
    client = serve().connect().send(GET)
    expected = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhello"
    assert client.read_exactly(len(expected)) == expected


def test_one_connection_answers_many_requests(serve):
    client = serve().connect()
    for _ in range(50):
        assert client.ask(GET).body == b"hello"


def test_connection_close_is_honored_and_said(serve):
    client = serve().connect()
    answer = client.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.headers["connection"] == "close"
    assert client.ended()


def test_what_follows_connection_close_is_not_answered(serve):
    served = serve()
    everything = (
        served.connect().send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET).read_all()
    )
    assert everything.count(b"HTTP/1.1 ") == 1
    assert len(served.seen) == 1


def test_http_1_0_closes_unless_it_asks_for_keep_alive(serve):
    served = serve()
    client = served.connect()
    assert client.ask(b"GET / HTTP/1.0\r\n\r\n").headers["connection"] == "close"
    assert client.ended()
    client = served.connect()
    for _ in range(2):
        answer = client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert answer.headers["connection"] == "keep-alive"


def test_a_request_may_come_byte_by_byte(serve):
    client = serve(echo).connect()
    for byte in post(b"slowly"):
        client.send(bytes([byte]))
    assert client.response().body == b"slowly"


def test_headers_keep_their_spelling_and_order_without_surrounding_blanks(serve):
    served = serve()
    served.connect().ask(b"GET /a%20b?c=d HTTP/1.1\r\nhOsT:a\r\nX-B: \t 1  \r\nx-a:2\r\nX-b: 3 4\t\r\n\r\n")
    exchange = served.seen[0]
    assert exchange.method == "GET"
    assert exchange.target == b"/a%20b?c=d"
    assert exchange.headers == [(b"hOsT", b"a"), (b"X-B", b"1"), (b"x-a", b"2"), (b"X-b", b"3 4")]
    assert exchange.header(b"x-b") == b"3 4"
    assert exchange.header(b"x-c") is None


def test_the_absolute_form_and_the_asterisk_reach_the_app_as_sent(serve):
    served = serve()
    client = served.connect()
    client.ask(b"GET http://a:80/b?c HTTP/1.1\r\nHost: a\r\n\r\n")
    client.ask(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [(each.method, each.target) for each in served.seen] == [
        ("GET", b"http://a:80/b?c"),
        ("OPTIONS", b"*"),
    ]


# Pipelining


def test_pipelined_requests_are_answered_in_order(serve):
    client = serve(lambda exchange: exchange.respond(200, exchange.target)).connect()
    client.send(b"".join(GET.replace(b"/ ", b"/%d " % i) for i in range(200)))
    assert [client.response().body for _ in range(200)] == [b"/%d" % i for i in range(200)]


def test_answers_given_in_the_wrong_order_leave_in_the_right_one(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(GET * 3)
    eventually(lambda: len(served.seen) == 3)
    for number in (2, 1, 0):
        served.soon(served.seen[number].respond, 200, b"%d" % number)
    assert [client.response().body for _ in range(3)] == [b"0", b"1", b"2"]


def test_a_streamed_answer_waits_for_its_turn(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(GET * 3)
    eventually(lambda: len(served.seen) == 3)
    first, second, third = served.seen

    def stream():
        third.respond(200, b"third")
        second.start(200)
        second.send(b"be")
        assert not second.writable
        first.respond(200, b"first")
        assert second.writable
        second.finish(b"tween")

    served.soon(stream)
    assert [client.response().body for _ in range(3)] == [b"first", b"between", b"third"]


def test_the_app_gets_only_so_many_requests_of_one_connection_at_a_time(serve):
    served = serve(lambda exchange: None, max_pipelined=4)
    client = served.connect().send(GET * 5000)
    eventually(lambda: len(served.seen) >= 4)
    served.soon(lambda: None)
    assert len(served.seen) == 4
    served.app = hello
    served.soon(lambda: [each.respond(200, b"hello") for each in served.seen[:4]])
    for _ in range(5000):
        assert client.response().body == b"hello"
    assert len(served.seen) == 5000


def test_a_big_body_may_be_followed_and_preceded_by_other_requests(serve):
    served = serve(echo)
    body = pattern(BIG)
    client = served.connect().send(GET + post(body) + GET + post(body[::-1]) + post(b"small"))
    assert [client.response().body for _ in range(5)] == [b"", body, b"", body[::-1], b"small"]


def test_only_one_large_body_is_received_while_another_request_runs(serve):
    served = serve(lambda exchange: None)
    body = pattern(BIG)
    client = served.connect().send(GET)
    eventually(lambda: len(served.seen) == 1)
    client.sock.setblocking(False)
    sent = client.sock.send(post(body))
    served.soon(lambda: None)
    assert len(served.seen) == 1
    served.app = echo
    served.soon(served.seen[0].respond, 200, b"first")
    client.sock.settimeout(10)
    client.send(post(body)[sent:])
    assert client.response().body == b"first"
    assert client.response().body == body


# Bodies


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 131_072, 2_000_003])
def test_a_body_arrives_as_it_was_sent(serve, size):
    served = serve(echo)
    body = pattern(size)
    client = served.connect()
    for _ in range(2):
        assert client.ask(post(body)).body == body
    assert served.allocator.given == (2 if size > 65_536 else 0)


def test_a_body_of_just_above_a_slot_may_come_in_drips(serve):
    served = serve(echo)
    body = pattern(70_000)
    client = served.connect()
    request = post(body)
    for start in range(0, len(request), 7_001):
        client.send(request[start : start + 7_001])
        served.soon(lambda: None)
    assert client.response().body == body
    assert client.ask(post(b"next")).body == b"next"


def test_nothing_behind_a_large_body_is_read_into_its_slot(serve):
    served = serve(echo)
    body = pattern(100_000)
    client = served.connect()
    request = post(body) + GET
    client.send(request[:50_000])
    served.soon(lambda: None)
    client.send(request[50_000:])
    assert client.response().body == body
    assert client.response().body == b""


def test_a_body_that_nobody_takes_is_released_when_the_answer_is_given(serve):
    served = serve()
    client = served.connect()
    assert client.ask(post(pattern(BIG))).body == b"hello"
    served.soon(lambda: None)
    assert served.allocator.given == 1
    assert served.allocator.live == {}


def test_chunks_with_extensions_and_trailers_are_put_together(serve):
    served = serve(echo)
    client = served.connect()
    request = chunked(b"wi", b"k" * 300, b"pedia", trailer=b"X-Sum: 1\r\nY: 2\r\n").replace(
        b"2\r\nwi", b'2;a="b";c\r\nwi'
    )
    for _ in range(2):
        assert client.ask(request).body == b"wi" + b"k" * 300 + b"pedia"
    assert served.seen[0].header(b"x-sum") is None
    assert client.ask(GET).body == b""


def test_a_chunked_body_may_come_byte_by_byte_and_be_empty(serve):
    client = serve(echo).connect()
    for byte in chunked(b"ab", b"c", trailer=b"T: u\r\n"):
        client.send(bytes([byte]))
    assert client.response().body == b"abc"
    assert client.ask(chunked()).body == b""


def test_a_large_chunked_body_ends_in_a_buffer_too(serve):
    served = serve(echo)
    body = pattern(BIG)
    assert served.connect().ask(chunked(body[:200_000], body[200_000:])).body == body
    assert served.allocator.given == 1


# Limits


def refused(client, request, status):
    answer = client.ask(request)
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert b'"code": %d' % status in answer.body
    assert client.ended()
    return answer


def test_some_targets_may_have_larger_bodies_than_others(serve):
    served = serve(max_body_bytes=1000, larger_bodies=((b"/v2/", 2000),))
    for target, size, status in (
        ("/v2/x", 2000, 200),
        ("/v2/x", 2001, 413),
        ("/v20", 1001, 413),
        ("/x", 1000, 200),
    ):
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
        assert served.connect().ask(head.encode() + b"x" * size).status == status, target


def test_a_length_above_the_limit_is_refused_before_the_body(serve):
    served = serve(max_body_bytes=1000)
    refused(served.connect(), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 413)
    assert served.seen == []


def test_a_refused_client_that_goes_on_sending_still_reads_the_answer(serve):
    client = serve(max_body_bytes=1000).connect()
    answer = refused(client, post(b"x" * 3_000_000), 413)
    assert answer.reason == "Request Entity Too Large"


def test_a_chunked_body_is_refused_once_it_is_too_large(serve):
    served = serve(max_body_bytes=1000)
    assert served.connect().ask(chunked(b"x" * 500, b"y" * 500)).status == 200
    refused(served.connect(), chunked(b"x" * 500, b"y" * 501), 413)
    assert len(served.seen) == 1


def test_an_endless_chunk_extension_or_trailer_is_refused(serve):
    served = serve(max_header_bytes=2000)
    for start in (b"1;a=", b"0\r\nT: "):
        client = served.connect().send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + start
        )
        assert client.ask(b"x" * 200_000).status == 431


def test_a_head_above_a_limit_is_refused_whether_it_comes_at_once_or_in_pieces(serve):
    served = serve(max_header_bytes=2000, max_header_count=20, max_url_bytes=500)
    filler = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %s\r\n" % (b"y" * 300) * 8 + b"\r\n"
    many = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 20 + b"\r\n"
    url = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"u" * 500)
    for request, status in ((filler, 431), (many, 431), (url, 414)):
        refused(served.connect(), request, status)
        client = served.connect().send(request[:100])
        served.soon(lambda: None)
        refused(client, request[100:], status)
    refused(served.connect(), b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 3000, 431)
    refused(served.connect(), b"GET /" + b"y" * 3000, 414)
    refused(served.connect(), b"\r\n" * 1500, 431)
    assert served.seen == []


def test_the_default_limits_take_what_browsers_and_proxies_send(serve):
    served = serve()
    request = b"GET /%s HTTP/1.1\r\nHost: a\r\n" % (b"u" * 8000) + b"X: %s\r\n" % (b"y" * 600) * 95 + b"\r\n"
    assert served.connect().ask(request).status == 200
    refused(served.connect(), b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431)


# Expect


def test_100_continue_is_sent_once_the_body_is_wanted(serve):
    client = serve(echo).connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n")
    assert client.read_exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert client.ask(b"hello").body == b"hello"


def test_100_continue_precedes_a_large_and_a_chunked_body_too(serve):
    client = serve(echo).connect()
    body = pattern(BIG)
    for head, rest in (
        (b"Content-Length: %d" % BIG, body),
        (b"Transfer-Encoding: chunked", b"%x\r\n" % BIG + body + b"\r\n0\r\n\r\n"),
    ):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + head + b"\r\n\r\n")
        assert client.read_exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.ask(rest).body == body


def test_a_body_that_is_too_large_is_refused_in_place_of_100_continue(serve):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
    refused(serve(max_body_bytes=1000).connect(), head, 413)


def test_another_expectation_is_refused(serve):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: a-miracle\r\n\r\n"
    refused(serve().connect(), head, 417)


def test_100_continue_does_not_overtake_the_answer_before(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(
        GET + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    eventually(lambda: len(served.seen) == 1)
    served.app = echo
    served.soon(served.seen[0].respond, 200, b"first")
    assert client.response().body == b"first"
    assert client.read_exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert client.ask(b"hello").body == b"hello"


def test_http_1_0_and_requests_without_a_body_get_no_100_continue(serve):
    served = serve(echo)
    old = b"POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
    assert served.connect().ask(old).body == b"hello"
    assert served.connect().ask(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").status == 200


# Requests that are refused whatever their body

H = b"POST / HTTP/1.1\r\nHost: a\r\n"


def screening(exchange):
    """Refuses what has no token, at its head."""

    def refuse(refused):
        refused.respond(401, b"no token")

    return None if b"token" in exchange.fields else refuse


@pytest.mark.parametrize(
    "line",
    [b"Content-Length: 70000", b"Transfer-Encoding: chunked", b"Content-Length: 2\r\nExpect: 100-continue"],
)
def test_what_is_refused_at_its_head_sends_no_body_and_reaches_no_app(serve, line):
    served = serve(echo, admission_check=screening)
    client = served.connect().send(H + line + b"\r\n\r\n")
    assert (client.response().status, client.ended()) == (401, True)
    assert served.seen == []
    assert served.allocator.given == 0


def test_a_known_head_is_screened_as_any_other(serve):
    allowed = [True]
    served = serve(echo, admission_check=lambda exchange: None if allowed[0] else screening(exchange))
    client, body = served.connect(), pattern(70_000)
    for _ in range(4):
        assert client.ask(H + b"Content-Length: 70000\r\n\r\n" + body).body == body
    assert served.server.known_heads
    allowed[0] = False  # the token has expired
    assert client.ask(H + b"Content-Length: 70000\r\n\r\n").status == 401
    assert client.ended()


def test_a_small_body_is_received_and_left_to_the_app(serve):
    served = serve(echo, admission_check=screening)
    assert served.connect().ask(H + b"Content-Length: 2\r\n\r\nab").body == b"ab"


def test_what_is_refused_at_its_head_is_answered_after_all_before_it(serve):
    served = serve(lambda exchange: None, admission_check=screening)
    client = served.connect().send(GET * 2 + H + b"Content-Length: 70000\r\n\r\n" + pattern(70_000) + GET)
    eventually(lambda: len(served.seen) == 2)
    served.soon(lambda: [each.respond(200, b"fine") for each in served.seen])
    assert [client.response().status for _ in range(3)] == [200, 200, 401]
    assert client.ended()


# Messages that two readers might read in two ways (RFC 9112, 11.2)

AMBIGUOUS = {
    "length and coding": H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": H + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "another coding": H + b"Transfer-Encoding: gzip\r\n\r\n",
    "coding before chunked": H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding after chunked": H + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked in quotes": H + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked with a prefix": H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity then chunked": H
    + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no coding": H + b"Transfer-Encoding:\r\n\r\n",
    "coding with a vertical tab": H + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding under HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "same length twice": H + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "two lengths": H + b"Content-Length: 1\r\nContent-length: 2\r\n\r\nab",
    "list of lengths": H + b"Content-Length: 1, 1\r\n\r\na",
    "positive length": H + b"Content-Length: +1\r\n\r\na",
    "negative length": H + b"Content-Length: -1\r\n\r\na",
    "length with a blank": H + b"Content-Length: 1 1\r\n\r\na",
    "length in hexadecimal": H + b"Content-Length: 0x1\r\n\r\na",
    "length with an underscore": H + b"Content-Length: 1_0\r\n\r\na",
    "no length": H + b"Content-Length:\r\n\r\n",
    "endless length": H + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    "blank before colon": H + b"Content-Length : 1\r\n\r\na",
    "blank before coding's colon": H + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "blank before name": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "folded line": H + b"X: a\r\n b\r\n\r\n",
    "bare LF after request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF after header": b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare CR in value": H + b"X: a\rb\r\n\r\n",
    "NUL in value": H + b"X: a\0b\r\n\r\n",
    "control character in value": H + b"X: a\x01b\r\n\r\n",
    "delete in value": H + b"X: a\x7fb\r\n\r\n",
    "control character in name": H + b"X\x01: a\r\n\r\n",
    "no name": H + b": a\r\n\r\n",
    "no colon": H + b"nonsense\r\n\r\n",
    "control character in target": b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes above ASCII in target": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "no slash": b"GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunk size signed": H + b"Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
    "chunk size with 0x": H + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    "chunk size with blank": H + b"Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
    "chunk size empty": H + b"Transfer-Encoding: chunked\r\n\r\n\r\na\r\n0\r\n\r\n",
    "chunk size endless": H + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "chunk ended by LF": H + b"Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
    "chunk longer than said": H + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "bare LF in extension": H + b"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n",
    "host missing": b"GET / HTTP/1.1\r\n\r\n",
    "host twice": b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
    "host with a blank": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with a user": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "host with an open bracket": b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "host with a port that is no number": b"GET / HTTP/1.1\r\nHost: a:port\r\n\r\n",
    "host with two ports": b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n",
    "two hosts in one": b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
    "two tokens": b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
    "a camera's protocol": b"GET / RTSP/1.0\r\nHost: a\r\n\r\n",
    "a camera's protocol, newer": b"POST /v2 RTSP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "a radio's protocol": b"SOURCE / ICE/1.0\r\nHost: a\r\n\r\n",
    "unknown method": b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
    "method in lower case": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tunnel": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "version 0.9": b"GET / HTTP/0.9\r\n\r\n",
    "version 1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_message_is_refused_and_ends_the_connection(serve, name):
    served = serve(echo)
    answer = refused(served.connect(), AMBIGUOUS[name] + GET, 400)
    assert b'"message": "Invalid HTTP message."' in answer.body
    assert served.seen == []


@pytest.mark.parametrize(
    "host",
    [
        "a",
        "a:80",
        "a:",
        "",
        "[::1]",
        "[fe80::1%eth0]:80",
        "127.0.0.1:8080",
        "a_b.c-d",
        "xn--bcher-kva.example",
    ],
)
def test_a_sound_host_is_taken(serve, host):
    assert serve().connect().ask(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode()).status == 200


def test_a_path_that_names_another_protocol_is_only_a_path(serve):
    for target in (b"/RTSP/1.0", b"/x?a=%20RTSP/1.0"):
        assert serve().connect().ask(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target).status == 200


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (b"/triton/v2/models", b"/v2/models"),
        (b"/v2/models", b"/v2/models"),
        (b"/triton", b"/"),
        (b"/triton?a=b", b"/?a=b"),
        (b"/tritonx/v2", b"/tritonx/v2"),
        (b"/triton/triton/x", b"/triton/x"),
        (b"http://other.example/triton/x", b"http://other.example/x"),
        (b"http://other.example/x", b"http://other.example/x"),
    ],
)
def test_a_path_loses_the_prefix_that_an_ingress_wrote_before_it(serve, target, seen):
    served = serve(root=b"/triton")
    client = served.connect()
    for _ in range(4):  # the same head comes to be known
        client.ask(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1" % target)
    assert [each.target for each in served.seen] == [seen] * 4


def test_the_limit_of_a_target_is_that_of_its_path_without_the_prefix(serve):
    served = serve(max_body_bytes=10, larger_bodies=((b"/v2/", 1000),), root=b"/triton")
    assert served.connect().ask(post(b"x" * 100, b"/triton/v2/x")).status == 200
    assert served.connect().ask(post(b"x" * 100, b"/triton/x")).status == 413


def test_another_version_of_http_is_not_supported(serve):
    refused(serve().connect(), b"GET / HTTP/2.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", 505)


def test_a_fault_is_answered_after_all_that_was_asked_before(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(GET * 2 + b"FOO\r\n\r\n")
    eventually(lambda: len(served.seen) == 2)
    served.soon(lambda: [each.respond(200, b"fine") for each in served.seen])
    assert [client.response().status for _ in range(3)] == [200, 200, 400]
    assert client.ended()


def test_a_fault_does_not_keep_a_half_closed_client_from_the_answers_before_it(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(GET * 2 + b"FOO\r\n\r\n").finish_sending()
    eventually(lambda: len(served.seen) == 2)
    served.soon(lambda: [each.respond(200, b"fine") for each in served.seen])
    assert [client.response().status for _ in range(3)] == [200, 200, 400]
    assert client.ended()


def test_an_empty_host_and_blank_lines_before_a_request_are_fine(serve):
    client = serve().connect()
    assert client.ask(b"\r\n\r\nGET / HTTP/1.1\r\nHost:\r\n\r\n").status == 200
    assert client.ask(b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n").status == 200


def test_an_upgrade_is_not_taken_up(serve):
    served = serve(echo)
    client = served.connect()
    head = b" / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    client.send(b"GET" + head + b"\r\n" + b"POST" + head + b"Content-Length: 3\r\n\r\nabc" + GET)
    assert [client.response().body for _ in range(3)] == [b"", b"abc", b""]
    body = pattern(BIG)
    client.send(b"POST" + head + b"Content-Length: %d\r\n\r\n" % BIG + body + GET)
    assert [client.response().body for _ in range(2)] == [body, b""]
    coded = head + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    client.send(b"POST" + coded)
    assert client.read_exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"3\r\nabc\r\n0\r\n\r\n")
    assert client.response().body == b"abc"
    client.send((b"GET" + head + b"\r\n") * 20)
    assert [client.response().status for _ in range(20)] == [200] * 20


def test_an_error_after_an_upgrade_is_refused_as_any_other(serve):
    client = serve().connect()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n\x81\x05hello")
    assert [client.response().status for _ in range(2)] == [200, 400]
    assert client.ended()


# Clients that are slow, half there, or gone


def test_a_slow_head_gets_408(serve):
    client = serve(header_timeout=0.2).connect().send(b"GET / HT")
    assert client.response().status == 408
    assert client.ended()


def test_a_head_that_drips_is_not_given_more_time(serve):
    client = serve(header_timeout=0.3).connect()
    client.sock.settimeout(0.1)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
    for _ in range(50):
        try:
            client.send(b"X: y\r\n")
            client.pending += client.sock.recv(1000)
            break
        except TimeoutError:
            continue
    assert client.pending.startswith(b"HTTP/1.1 408 Request Timeout\r\n")


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_body_that_stops_gets_408_and_leaves_nothing_behind(serve, size):
    served = serve(body_timeout=0.2)
    client = served.connect().send(post(b"x" * size)[:-5])
    answer = client.response()
    assert (answer.status, answer.reason) == (408, "Request Timeout")
    assert client.ended()
    assert served.allocator.live == {}


def test_a_body_that_goes_on_is_waited_for(serve):
    client = serve(echo, body_timeout=0.4).connect()
    request = post(b"x" * 100)
    for start in range(0, len(request), 16):
        client.send(request[start : start + 16])
        time.sleep(0.1)
    assert client.response().status == 200


def test_an_idle_connection_is_closed_without_a_word(serve):
    served = serve(idle_timeout=0.2)
    client = served.connect()
    assert client.ended()
    client = served.connect()
    assert client.ask(GET).status == 200
    assert client.ended()


def test_a_request_that_runs_long_is_not_idle(serve, loop):
    served = serve(
        lambda exchange: loop.call_later(0.6, exchange.respond, 200, b"late"),
        idle_timeout=0.1, header_timeout=0.1, body_timeout=0.1, write_timeout=0.1,
    )  # fmt: skip
    client = served.connect()
    for _ in range(2):
        assert client.ask(GET).body == b"late"


def test_a_client_that_closed_its_sending_side_still_gets_its_answers(serve):
    served = serve(lambda exchange: None)
    client = served.connect().send(GET + post(b"x" * 100_000)).finish_sending()
    eventually(lambda: len(served.seen) >= 1)
    served.soon(served.seen[0].respond, 200, b"first")
    eventually(lambda: len(served.seen) == 2)
    served.soon(served.seen[1].respond, 200, b"second")
    assert [client.response().body for _ in range(2)] == [b"first", b"second"]
    assert client.ended()


def test_a_request_cut_in_two_is_dropped(serve):
    served = serve()
    for request in (b"GET / HT", post(b"x" * 10)[:-1], post(b"x" * 100_000)[:-1], chunked(b"abc")[:-3]):
        assert served.connect().send(request).finish_sending().ended()
    eventually(lambda: served.connections == 0)
    assert served.seen == []
    assert served.allocator.live == {}


def test_the_app_is_told_once_when_the_client_resets_the_connection(serve):
    served = serve(lambda exchange: None)
    told = []
    client = served.connect().send(GET)
    eventually(lambda: len(served.seen) == 1)
    served.seen[0].on_abandoned = lambda: told.append(1)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    eventually(lambda: told)
    served.soon(served.seen[0].respond, 200, b"nobody listens")
    assert told == [1]


def test_a_running_request_of_a_client_that_is_gone_is_abandoned(serve):
    served = serve(lambda exchange: None, body_timeout=0.2)
    told = []
    client = served.connect().send(post(pattern(BIG)))
    eventually(lambda: len(served.seen) == 1)
    served.seen[0].on_abandoned = lambda: told.append(1)
    client.close()
    eventually(lambda: told)
    eventually(lambda: served.connections == 0)
    served.soon(served.seen[0].respond, 200, b"nobody listens")
    assert told == [1]
    assert served.allocator.live == {}


def test_a_half_closed_client_waits_through_interim_responses_for_a_long_answer(serve, loop):
    served = serve(lambda exchange: loop.call_later(0.6, exchange.respond, 200, b"late"), body_timeout=0.2)
    client = served.connect().send(GET).finish_sending()
    assert client.response(bodiless=True).status == 100
    assert client.response().body == b"late"
    assert client.ended()


def test_one_failing_callback_does_not_keep_others_from_being_told(serve, caplog):
    served = serve(lambda exchange: None, body_timeout=0.1)
    told = []
    client = served.connect().send(GET * 2)
    eventually(lambda: len(served.seen) == 2)
    served.seen[0].on_abandoned = lambda: 1 / 0
    served.seen[1].on_abandoned = lambda: told.append(1)
    client.close()
    eventually(lambda: told)
    assert "callback failed" in caplog.text


def test_a_client_that_does_not_read_is_read_no_more_and_cut_off_in_time(serve):
    served = serve(lambda exchange: exchange.respond(200, b"x" * 50_000), write_timeout=0.5)
    client = served.connect(receive=4096)
    client.sock.settimeout(0.3)
    flood = GET * 1_000_000
    with pytest.raises((TimeoutError, ConnectionError)):
        client.send(flood)
    assert len(served.seen) < 1000
    eventually(lambda: served.connections == 0)


def test_a_slow_reader_gets_every_byte(serve):
    served = serve(lambda exchange: exchange.respond(200, pattern(200_000)))
    client = served.connect(receive=4096).send(GET * 30)
    for _ in range(30):
        assert client.response().body == pattern(200_000)


def test_a_lent_answer_is_released_only_when_all_of_it_has_left(serve):
    served = serve(lambda exchange: None)
    client = served.connect(receive=4096).send(GET)
    eventually(lambda: len(served.seen) == 1)
    body = pattern(8_000_000)

    def answer():
        buffer = served.allocator.allocate(len(body))
        buffer.view[:] = body
        served.seen[0].respond(200, buffer)

    served.soon(answer)
    assert len(served.allocator.live) == 1
    head = client.read_until(b"\r\n\r\n")
    assert b"content-length: 8000000\r\n" in head
    assert client.read_exactly(4_000_000) == body[:4_000_000]
    assert len(served.allocator.live) == 1
    assert client.read_exactly(4_000_000) == body[4_000_000:]
    eventually(lambda: not served.allocator.live)
    served.app = hello
    assert client.ask(GET).body == b"hello"


def test_a_lent_answer_is_released_when_the_client_goes_away_in_the_middle(serve):
    served = serve(echo)
    client = served.connect(receive=4096).send(post(pattern(6_000_000)))
    eventually(lambda: len(served.seen) == 1)
    client.read_until(b"\r\n\r\n")
    client.close()
    eventually(lambda: served.connections == 0)
    assert served.allocator.live == {}


# The app's own faults


def test_an_app_that_raises_is_500_and_the_next_client_is_served(serve, caplog):
    def broken(exchange):
        raise LookupError(exchange.target)

    served = serve(broken)
    refused(served.connect(), post(pattern(BIG)), 500)
    assert "LookupError" in caplog.text
    served.app = hello
    assert served.connect().ask(GET).status == 200


def test_an_app_that_raises_after_it_answered_does_not_answer_twice(serve, caplog):
    def broken(exchange):
        exchange.respond(200, b"done")
        raise LookupError

    served = serve(broken)
    client = served.connect()
    for _ in range(2):
        assert client.ask(GET).body == b"done"
    assert "LookupError" in caplog.text


def test_an_app_that_raises_in_the_middle_of_a_stream_breaks_it_off(serve, caplog):
    def broken(exchange):
        exchange.start(200)
        exchange.send(b"half")
        raise LookupError

    everything = serve(broken).connect().send(GET).read_all()
    assert everything.endswith(b"4\r\nhalf\r\n")
    assert "LookupError" in caplog.text
